// A person's way through the web app, in a real browser: open, upload, watch at another node before the video is ready; then
// watch a longer one, and go on watching when the node that serves it is killed.
//
// Run by chaos-tests/tests/browser.rs, which starts the cluster, uploads the longer video and does the killing. They talk in
// lines: this script prints one JSON object a line ({"step": …}); it reads the id of the longer video, and then any line when
// the node is gone.
//
//   node person.mjs CHROMIUM UPLOAD_URL WATCH_URL CLIP [SCREENSHOTS]

import { createInterface } from 'node:readline';
import { chromium } from 'playwright-core';

const [executablePath, uploadUrl, watchUrl, clip, screenshots] = process.argv.slice(2);

/** How long any single thing may take that a person waits for. */
const PATIENCE_MS = 60_000;
/** How long playback is watched after the node was killed. */
const WATCH_AFTER_KILL_MS = 8_000;
/** What a player has ahead of it in good order when the node is killed. */
const BUFFER_S = 10;
/** Far beyond what is buffered, so that it has to come from another node. */
const SEEK_TO_S = 150;

const say = (message) => process.stdout.write(`${JSON.stringify(message)}\n`);
const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();

const browser = await chromium.launch({
  executablePath,
  args: [
    '--headless',
    '--no-sandbox',
    '--disable-gpu',
    '--disable-quic',
    '--no-first-run',
    '--disable-background-networking',
    '--disable-component-update',
    '--disable-sync',
    '--autoplay-policy=no-user-gesture-required',
  ],
});

try {
  const context = await browser.newContext({ viewport: { width: 1280, height: 800 } });
  context.setDefaultTimeout(PATIENCE_MS);
  const shot = async (page, name) => {
    if (screenshots) await page.screenshot({ path: `${screenshots}/${name}.png` });
  };

  const uploader = await context.newPage();
  const problems = [];
  uploader.on('pageerror', (error) => problems.push(`upload page: ${error.message}`));
  await uploader.goto(uploadUrl);
  await uploader.getByRole('heading', { level: 1 }).first().waitFor();
  await shot(uploader, '1-library-empty');
  await uploader.getByRole('link', { name: /upload/i }).first().click();
  await uploader.locator('input[type=file]').setInputFiles(clip);
  const link = uploader.locator('main a[href^="/watch/"]').first();
  await link.waitFor();
  await shot(uploader, '2-upload');
  const id = (await link.getAttribute('href')).split('/').pop().split('?')[0];
  say({ step: 'uploaded', id });

  const viewer = await context.newPage();
  viewer.on('pageerror', (error) => problems.push(`watch page: ${error.message}`));
  await viewer.goto(`${watchUrl}/watch/${id}`);
  await viewer.waitForFunction(() => (document.querySelector('video')?.currentTime ?? 0) > 1, undefined, {
    polling: 50,
  });
  const state = await viewer.evaluate(async (id) => {
    const response = await fetch(`/api/v1/videos/${id}`);
    return (await response.json()).state;
  }, id);
  await shot(viewer, '3-watch-while-processing');
  say({ step: 'playing', state });

  const longer = (await lines.next()).value;
  await viewer.goto(`${watchUrl}/watch/${longer}`);
  await viewer.waitForFunction(
    (aheadS) => {
      const video = document.querySelector('video');
      const last = (video?.buffered.length ?? 0) - 1;
      return last >= 0 && video.currentTime > 0 && video.buffered.end(last) - video.currentTime >= aheadS;
    },
    BUFFER_S,
    { polling: 50 },
  );
  say({ step: 'buffered' });

  await lines.next();
  // From here on, how long does the picture ever stand still?
  const after = await viewer.evaluate(async (watchMs) => {
    const video = document.querySelector('video');
    const start = performance.now();
    const from = video.currentTime;
    let [longestMs, last, lastMoved] = [0, from, start];
    while (performance.now() - start < watchMs && !video.ended) {
      await new Promise((resolve) => setTimeout(resolve, 20));
      const now = performance.now();
      if (video.currentTime !== last) [last, lastMoved] = [video.currentTime, now];
      longestMs = Math.max(longestMs, now - lastMoved);
    }
    return { longestStallMs: Math.round(longestMs), played: video.currentTime - from, ended: video.ended };
  }, WATCH_AFTER_KILL_MS);
  await shot(viewer, '4-watch-after-kill');
  say({ step: 'survived', ...after });

  const began = Date.now();
  await viewer.evaluate((to) => (document.querySelector('video').currentTime = to), SEEK_TO_S);
  await viewer.waitForFunction((to) => document.querySelector('video').currentTime > to + 0.5, SEEK_TO_S, {
    polling: 50,
  });
  say({ step: 'sought', tookMs: Date.now() - began });

  await uploader.goto(`${uploadUrl}/cluster`);
  await uploader.getByRole('heading', { level: 1 }).first().waitFor();
  await uploader.getByText('node-1').first().waitFor();
  await shot(uploader, '5-cluster');
  await uploader.goto(uploadUrl);
  await uploader.locator(`main a[href="/watch/${id}"]`).first().waitFor();
  await shot(uploader, '6-library');
  say({ step: 'done', problems });
} finally {
  await browser.close();
}
process.exit(0);
