import { describe, expect, it } from 'vitest';
import type { Video } from './types';
import { appendPage, isStale, mergeFirstPage, POSTER_WAIT_MS, PosterWait } from './video';

const video = (id: string, minute: number, extra: Partial<Video> = {}) =>
  ({
    id,
    state: 'ready',
    playable_seconds: 10,
    urls: { thumbnail: '/v/thumbnail.jpg' },
    created_at: `2026-11-20T12:${minute}:00Z`,
    ...extra,
  }) as Video;
const ids = (videos: Video[]) => videos.map((one) => one.id).join('');

describe('isStale', () => {
  const known = video('a', 10, { state: 'processing', playable_seconds: 10 });
  it.each([
    ['an earlier stage', { state: 'uploading', playable_seconds: 20 }, true],
    ['a smaller frontier', { state: 'processing', playable_seconds: 8 }, true],
    ['a larger frontier', { state: 'processing', playable_seconds: 12 }, false],
    [
      'no poster yet',
      { state: 'processing', playable_seconds: 12, urls: { thumbnail: null } as Video['urls'] },
      true,
    ],
    ['a later stage', { state: 'failed', playable_seconds: 0 }, false],
  ] as const)('%s', (_name, extra, expected) => expect(isStale(known, video('a', 10, extra))).toBe(expected));
});

describe('PosterWait', () => {
  const bare = { urls: { thumbnail: null } } as Partial<Video>;

  it('waits for a poster for a while, and no longer', () => {
    const wait = new PosterWait();
    expect(wait.isOpen(video('a', 10, bare), 1_000)).toBe(true);
    expect(wait.isOpen(video('a', 10, bare), 999 + POSTER_WAIT_MS)).toBe(true);
    expect(wait.isOpen(video('a', 10, bare), 1_000 + POSTER_WAIT_MS)).toBe(false);
    expect(wait.isOpen(video('b', 10, bare), 1_000 + POSTER_WAIT_MS)).toBe(true);
  });
  it('ends when the poster is there, or when there will be none', () => {
    expect(new PosterWait().isOpen(video('a', 10), 0)).toBe(false);
    expect(new PosterWait().isOpen(video('a', 10, { ...bare, state: 'failed' }), 0)).toBe(false);
  });
  it('goes on as long as the video itself changes', () => {
    const busy = video('a', 10, { ...bare, state: 'processing' });
    const wait = new PosterWait();
    expect(wait.isOpen(busy, 0)).toBe(true);
    expect(wait.isOpen(busy, 10 * POSTER_WAIT_MS)).toBe(true);
  });
});

describe('mergeFirstPage', () => {
  const shown = [video('d', 40), video('c', 30), video('b', 20), video('a', 10)];

  it('puts new videos on top and keeps the pages that follow', () => {
    expect(ids(mergeFirstPage(shown, [video('e', 50), video('d', 40), video('c', 30)], false))).toBe('edcba');
  });
  it('drops what was deleted within the page', () => {
    expect(ids(mergeFirstPage(shown, [video('d', 40), video('b', 20)], false))).toBe('dba');
  });
  it('takes a page that is everything as everything', () => {
    expect(ids(mergeFirstPage(shown, [video('d', 40)], true))).toBe('d');
    expect(ids(mergeFirstPage(shown, [], true))).toBe('');
  });
  it('takes over changes', () => {
    const [first] = mergeFirstPage(shown, [video('d', 40, { title: 'new' })], false);
    expect(first?.title).toBe('new');
  });
});

describe('appendPage', () => {
  it('shows a video that moved between pages once', () => {
    expect(ids(appendPage([video('b', 20), video('a', 10)], [video('a', 10), video('z', 5)]))).toBe('baz');
  });
});
