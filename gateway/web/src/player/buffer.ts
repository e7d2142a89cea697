/**
 * Reading a media element's buffer and frame counters.
 */

/** Ranges that touch within this are one: segments rarely meet to the microsecond. */
const HOLE_SECONDS = 0.25;

/** Seconds that can be played from `at` without loading. Pure. */
export function aheadOf(ranges: Pick<TimeRanges, 'length' | 'start' | 'end'>, at: number): number {
  let end = at;
  for (let i = 0; i < ranges.length; i++) {
    if (ranges.start(i) <= end + HOLE_SECONDS && ranges.end(i) > end) end = ranges.end(i);
  }
  return end - at;
}

export function bufferAhead(media: HTMLMediaElement): number {
  return aheadOf(media.buffered, media.currentTime);
}

export function droppedFrames(media: HTMLVideoElement): number {
  return media.getVideoPlaybackQuality?.().droppedVideoFrames ?? 0;
}
