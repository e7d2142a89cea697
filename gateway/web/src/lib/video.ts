/**
 * What the state of a video means to a person. Pure.
 */
import type { Video, VideoState } from './types';

/** Nothing about it will change by itself any more. */
export function isSettled(video: Video): boolean {
  return video.state === 'ready' || video.state === 'failed';
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
