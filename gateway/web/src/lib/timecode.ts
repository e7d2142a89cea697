/**
 * Points in a video as they appear in links: `?t=90`, `?t=1m30s`, `?t=1:30`.
 */

/** Longer than any video that is accepted; a guard against absurd links. */
const SECONDS_MAX = 1_000_000;

/** Seconds, or null for anything that is not a time. */
export function parseTimecode(text: string | null): number | null {
  if (!text) return null;
  const seconds = fromClock(text) ?? fromUnits(text);
  return seconds !== null && seconds <= SECONDS_MAX ? seconds : null;
}

function fromClock(text: string): number | null {
  const match = /^(?:(?:(\d{1,3}):)?(\d{1,3}):)?(\d{1,6}(?:\.\d+)?)$/.exec(text);
  if (!match) return null;
  const [, hours = '0', minutes = '0', seconds = '0'] = match;
  return Number(hours) * 3600 + Number(minutes) * 60 + Number(seconds);
}

function fromUnits(text: string): number | null {
  const match = /^(?:(\d{1,3})h)?(?:(\d{1,5})m)?(?:(\d{1,6})s)?$/.exec(text);
  if (!match) return null;
  const [, hours = '0', minutes = '0', seconds = '0'] = match;
  return Number(hours) * 3600 + Number(minutes) * 60 + Number(seconds);
}

/** The query for a link to a moment; empty for the start. */
export function timeQuery(seconds: number): string {
  const whole = Math.floor(seconds);
  return whole > 0 ? `?t=${whole}` : '';
}
