/**
 * The queue of uploads. It belongs to the app, not to a page: one can leave the upload page and watch while files are sent.
 *
 * The server creates the video with the first bytes but answers only after the last. Meanwhile the queue finds the video by its
 * upload key, so that it can be watched, shared and renamed before the upload has ended.
 */
import { deleteVideo, findUpload, updateVideo, uploadVideo } from './api';
import { followVideo } from './follow';
import { bytes, span } from './format';
import { ApiError, inWords } from './problems';
import { siteView } from './site.svelte';
import { contentType, randomKey, RateMeter, refusal, secondsLeft, titleFromName } from './transfer';
import type { Video, Visibility } from './types';
import { isPlayable } from './video';

/** Two at a time: while one waits for its answer the other fills the line. */
const SENDING_MAX = 2;
/** All bytes have to be sent again, so a node's death is retried without asking only this often. */
const RETRIES_MAX = 2;
const RETRY_DELAY_MS = 2_000;
/** A server that asks for more patience than this should be retried by the person, not by us. */
const RETRY_DELAY_MAX_MS = 30_000;
const FIND_INTERVAL_MS = 1_000;
/** Files taken in one go; a dropped folder can hold thousands. */
const QUEUE_MAX = 200;

export type Phase =
  'queued' | 'sending' | 'waiting' | 'finishing' | 'processing' | 'ready' | 'failed' | 'cancelled';

export class UploadItem {
  readonly key: string = randomKey();
  readonly file: File;
  title = $state('');
  visibility = $state<Visibility>('public');
  phase = $state<Phase>('queued');
  sentBytes = $state(0);
  bytesPerSecond = $state(0);
  secondsLeft = $state<number | null>(null);
  /** What went wrong, or why it waits. */
  message = $state<string | null>(null);
  /** Whether sending the same file again can help. */
  canRetry = $state(false);
  /** The video, as soon as the server knows it. */
  video = $state.raw<Video | null>(null);
  abort: AbortController | null = null;
  unfollow: (() => void) | null = null;

  constructor(file: File) {
    this.file = file;
    this.title = titleFromName(file.name);
  }

  get fraction(): number {
    return this.file.size === 0 ? 0 : this.sentBytes / this.file.size;
  }

  /** Bytes are on their way or will be: leaving the page would lose them. */
  get isPending(): boolean {
    return (
      this.phase === 'queued' ||
      this.phase === 'sending' ||
      this.phase === 'waiting' ||
      this.phase === 'finishing'
    );
  }

  get isWatchable(): boolean {
    return this.video !== null && isPlayable(this.video);
  }
}

class Uploads {
  items = $state.raw<UploadItem[]>([]);

  get pending(): UploadItem[] {
    return this.items.filter((item) => item.isPending);
  }

  /** Share of all pending bytes that has been sent, for the header. */
  get fraction(): number {
    const pending = this.pending;
    const total = pending.reduce((sum, item) => sum + item.file.size, 0);
    return total === 0 ? 0 : pending.reduce((sum, item) => sum + item.sentBytes, 0) / total;
  }

  add(files: Iterable<File>): void {
    const added = [...files].slice(0, QUEUE_MAX).map((file) => new UploadItem(file));
    this.items = [...this.items, ...added];
    for (const item of added) this.#check(item);
    this.#sendNext();
  }

  cancel(item: UploadItem): void {
    item.phase = 'cancelled';
    item.abort?.abort();
    item.unfollow?.();
    const { video } = item;
    // The server notices the lost connection too; this is only quicker.
    if (video) void deleteVideo(video.id).catch(() => undefined);
    item.video = null;
    this.#sendNext();
  }

  retry(item: UploadItem): void {
    item.phase = 'queued';
    item.message = null;
    item.sentBytes = 0;
    this.#sendNext();
  }

  /** Takes finished, failed and cancelled files off the list. */
  remove(item: UploadItem): void {
    item.unfollow?.();
    this.items = this.items.filter((other) => other !== item);
  }

  clearFinished(): void {
    for (const item of this.items)
      if (item.phase === 'ready' || item.phase === 'cancelled') this.remove(item);
  }

  /** Tells the server about an edited title or visibility, if it knows the video already; else that happens once it does. */
  async commit(item: UploadItem): Promise<void> {
    const { video } = item;
    if (!video) return;
    const title = item.title.trim() || titleFromName(item.file.name);
    const { visibility } = item;
    if (title === video.title && visibility === video.visibility) return;
    try {
      const updated = await updateVideo(video.id, { title, visibility });
      if (item.video) item.video = { ...item.video, title: updated.title, visibility: updated.visibility };
      item.message = null;
    } catch (reason) {
      item.message = `The title could not be saved: ${inWords(reason)}`;
    }
  }

  /** Says at once what the server would say after all the bytes. */
  #check(item: UploadItem): void {
    const refused = refusal(item.file, siteView.site?.max_upload_bytes ?? null);
    if (refused?.kind === 'empty') this.#fail(item, 'The file is empty.', false);
    else if (refused) this.#fail(item, `Larger than the limit of ${bytes(refused.limitBytes)}.`, false);
  }

  #sendNext(): void {
    const sending = this.items.filter(
      (item) => item.phase === 'sending' || item.phase === 'finishing',
    ).length;
    const waiting = this.items.filter((item) => item.phase === 'queued');
    for (const item of waiting.slice(0, Math.max(0, SENDING_MAX - sending))) void this.#run(item);
  }

  async #run(item: UploadItem): Promise<void> {
    for (let attempt = 0; ; attempt++) {
      item.phase = 'sending';
      const outcome = await this.#sendOnce(item);
      if (this.#isCancelled(item)) return;
      if (outcome instanceof ApiError) {
        if (!outcome.passing || attempt >= RETRIES_MAX) {
          this.#fail(item, outcome.message, outcome.status !== 413);
          return;
        }
        const delayMs = Math.min(
          RETRY_DELAY_MAX_MS,
          (outcome.retryAfterSeconds ?? 0) * 1000 || RETRY_DELAY_MS * 2 ** attempt,
        );
        item.phase = 'waiting';
        item.message = `${outcome.message} Trying again in ${span(delayMs / 1000)}.`;
        await new Promise((resolve) => setTimeout(resolve, delayMs));
        if (this.#isCancelled(item)) return;
        item.message = null;
        continue;
      }
      this.#accepted(item, outcome);
      return;
    }
  }

  /** One attempt: the video, or why there is none. */
  async #sendOnce(item: UploadItem): Promise<Video | ApiError> {
    const uploadKey = randomKey();
    const abort = (item.abort = new AbortController());
    const meter = new RateMeter(performance.now());
    item.sentBytes = 0;
    item.bytesPerSecond = 0;
    item.secondsLeft = null;
    const finding = setInterval(() => void this.#find(item, uploadKey, abort.signal), FIND_INTERVAL_MS);
    try {
      return await uploadVideo({
        file: item.file,
        title: item.title.trim() || titleFromName(item.file.name),
        visibility: item.visibility,
        contentType: contentType(item.file),
        uploadKey,
        signal: abort.signal,
        onProgress: (sentBytes) => {
          meter.sample(performance.now(), sentBytes);
          item.sentBytes = Math.min(sentBytes, item.file.size);
          item.bytesPerSecond = meter.bytesPerSecond;
          item.secondsLeft = secondsLeft(item.sentBytes, item.file.size, meter.bytesPerSecond);
          if (item.sentBytes === item.file.size && item.phase === 'sending') item.phase = 'finishing';
        },
      });
    } catch (reason) {
      const error = reason instanceof ApiError ? reason : new ApiError(0, { detail: inWords(reason) });
      if (item.phase === 'cancelled' || !error.passing) return error;
      return (await this.#arrivedAnyway(uploadKey)) ?? error;
    } finally {
      clearInterval(finding);
      abort.abort();
    }
  }

  /** A lost answer does not mean a lost upload: another node may hold it whole. If it is not whole, it goes. */
  async #arrivedAnyway(uploadKey: string): Promise<Video | null> {
    const video = await findUpload(uploadKey).catch(() => null);
    if (video && (video.state === 'processing' || video.state === 'ready')) return video;
    if (video) await deleteVideo(video.id).catch(() => undefined);
    return null;
  }

  async #find(item: UploadItem, uploadKey: string, signal: AbortSignal): Promise<void> {
    const video = await findUpload(uploadKey).catch(() => null);
    if (!video || signal.aborted) return;
    const isFirst = item.video === null;
    item.video = video;
    if (isFirst) await this.commit(item);
  }

  #accepted(item: UploadItem, video: Video): void {
    item.sentBytes = item.file.size;
    item.secondsLeft = null;
    item.video = video;
    item.phase = 'processing';
    void this.commit(item);
    item.unfollow = followVideo(video.id, {
      onVideo: (next) => {
        item.video = next;
        if (next.state === 'ready') item.phase = 'ready';
        if (next.state === 'failed')
          this.#fail(item, next.error?.detail ?? 'The video could not be processed.', false);
      },
      onGone: () => this.#fail(item, 'The video was deleted.', false),
    });
    this.#sendNext();
  }

  #fail(item: UploadItem, message: string, canRetry: boolean): void {
    item.phase = 'failed';
    item.message = message;
    item.canRetry = canRetry;
    this.#sendNext();
  }

  #isCancelled(item: UploadItem): boolean {
    return item.phase === 'cancelled';
  }
}

export const uploads = new Uploads();
