/**
 * What the state of a video means to a person. Pure.
 */
import type { Video, VideoState } from './types';

/** Nothing about it will change by itself any more. */
export function isSettled(video: Video): boolean {
  return video.state === 'ready' || video.state === 'failed';
}

/** The poster is made beside the segments, and may come some moments after the last of them. */
export const POSTER_WAIT_MS = 30_000;

/** A video that is whole but for its poster, which is worth waiting for, for {@link POSTER_WAIT_MS}. */
export function awaitsPoster(video: Video): boolean {
  return video.state === 'ready' && video.urls.thumbnail === null;
}

/**
 * Tells how long videos have waited for their poster, from when each was first seen without it: not from when it was uploaded,
 * which a clock that differs from the server's could not tell.
 */
export class PosterWait {
  readonly #sinceMs = new Map<string, number>();

  /** Whether this video should still be asked for: it changes by itself, or its poster may yet come. */
  isOpen(video: Video, nowMs: number): boolean {
    if (!isSettled(video)) return true;
    if (!awaitsPoster(video)) {
      this.#sinceMs.delete(video.id);
      return false;
    }
    const sinceMs = this.#sinceMs.get(video.id) ?? nowMs;
    this.#sinceMs.set(video.id, sinceMs);
    return nowMs - sinceMs < POSTER_WAIT_MS;
  }
}

export function isPlayable(video: Video): boolean {
  return video.playable_seconds > 0;
}

const STAGE: Record<VideoState, number> = { uploading: 0, processing: 1, ready: 2, failed: 2 };

/**
 * Whether `next` is an older view of the video than `known`. Nodes apply the log at their own pace, so after a switch to another
 * node an answer can be a little behind; showing it would make progress bars jump back.
 */
export function isStale(known: Video, next: Video): boolean {
  if (STAGE[next.state] !== STAGE[known.state]) return STAGE[next.state] < STAGE[known.state];
  if (known.urls.thumbnail !== null && next.urls.thumbnail === null) return true;
  return next.playable_seconds < known.playable_seconds;
}

/**
 * Brings a list up to date with a freshly fetched first page, newest first: new videos come in at the top, known ones are
 * replaced, and those that the page should have held but does not are gone.
 */
export function mergeFirstPage(shown: readonly Video[], page: readonly Video[], isWhole: boolean): Video[] {
  const fresh = new Set(page.map((video) => video.id));
  const oldest = page.at(-1);
  const beyond = shown.filter((video) => {
    if (fresh.has(video.id)) return false;
    return !isWhole && oldest !== undefined && video.created_at <= oldest.created_at;
  });
  return [...page, ...beyond];
}

/** Adds a following page; a video that moved between pages is shown once. */
export function appendPage(shown: readonly Video[], page: readonly Video[]): Video[] {
  const known = new Set(shown.map((video) => video.id));
  return [...shown, ...page.filter((video) => !known.has(video.id))];
}
