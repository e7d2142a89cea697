/**
 * Where playback begins. Pure.
 */

/** Nobody wants to resume in the first seconds… */
const RESUME_AFTER_SECONDS = 8;
/** …or during the credits. */
const RESUME_BEFORE_END_SECONDS = 12;
/** Kept between the start and the frontier of a video that is still being processed, so that it starts with a buffer. */
const FRONTIER_MARGIN_SECONDS = 4;

export interface StartInput {
  /** From `?t=`. */
  requested: number | null;
  /** From an earlier visit. */
  remembered: number | null;
  playableSeconds: number;
  durationSeconds: number | null;
  /** Whether more may become playable. */
  growing: boolean;
}

/** Seconds from the start; never past what can be played now. */
export function startPosition(input: StartInput): number {
  const { requested, remembered, playableSeconds, durationSeconds, growing } = input;
  const last = Math.max(0, playableSeconds - (growing ? FRONTIER_MARGIN_SECONDS : 1));
  if (requested !== null) return clamp(requested, last);
  const end = durationSeconds ?? playableSeconds;
  const worthResuming =
    remembered !== null &&
    remembered >= RESUME_AFTER_SECONDS &&
    remembered <= end - RESUME_BEFORE_END_SECONDS;
  return worthResuming ? clamp(remembered, last) : 0;
}

function clamp(seconds: number, last: number): number {
  return Math.min(Math.max(0, seconds), last);
}
