/**
 * The arithmetic of an upload: its rate, its remaining time, what kind of file it is and what to call it. Pure.
 */

/** How fast the shown rate follows the real one: the weight of the past halves in this time. */
const HALF_LIFE_MS = 2_000;
/** Progress events closer together than this say nothing about the rate. */
const SAMPLE_MIN_MS = 200;

/** A smoothed rate from (time, bytes so far) samples. */
export class RateMeter {
  #atMs: number;
  #bytes = 0;
  #rate = 0;

  constructor(startMs: number) {
    this.#atMs = startMs;
  }

  sample(atMs: number, bytesSoFar: number): void {
    const elapsedMs = atMs - this.#atMs;
    if (elapsedMs < SAMPLE_MIN_MS) return;
    const rate = ((bytesSoFar - this.#bytes) * 1000) / elapsedMs;
    const past = this.#rate === 0 ? 0 : 0.5 ** (elapsedMs / HALF_LIFE_MS);
    this.#rate = this.#rate * past + rate * (1 - past);
    this.#atMs = atMs;
    this.#bytes = bytesSoFar;
  }

  /** Bytes per second; 0 before the first useful sample. */
  get bytesPerSecond(): number {
    return this.#rate;
  }
}

/** Seconds until the last byte is sent, or null while that cannot be told. */
export function secondsLeft(sentBytes: number, totalBytes: number, bytesPerSecond: number): number | null {
  return bytesPerSecond > 0 ? (totalBytes - sentBytes) / bytesPerSecond : null;
}

const TYPES: Record<string, string> = {
  mp4: 'video/mp4',
  m4v: 'video/mp4',
  mov: 'video/quicktime',
  qt: 'video/quicktime',
  mkv: 'video/x-matroska',
  webm: 'video/webm',
  avi: 'video/x-msvideo',
  ts: 'video/mp2t',
  m2ts: 'video/mp2t',
  mts: 'video/mp2t',
};

/** For the file picker. */
export const ACCEPTED = ['video/*', ...Object.keys(TYPES).map((extension) => `.${extension}`)].join(',');

/** Browsers leave the type of a file empty when they do not know its extension; the server looks at the bytes anyway. */
export function contentType(file: { name: string; type: string }): string {
  if (file.type.startsWith('video/')) return file.type;
  const extension = /\.([^.]+)$/.exec(file.name)?.[1]?.toLowerCase() ?? '';
  return TYPES[extension] ?? 'application/octet-stream';
}

/** A first title from a file name: no extension, no underscores. */
export function titleFromName(name: string): string {
  const title = name
    .replace(/\.[a-z0-9]{1,5}$/i, '')
    .replace(/_+/g, ' ')
    .replace(/\s+/g, ' ')
    .trim();
  return title || name || 'Untitled';
}

export type Refusal = { kind: 'empty' } | { kind: 'too-large'; limitBytes: number };

/** What is wrong with a file before any byte is sent; null when nothing is. */
export function refusal(file: { size: number }, limitBytes: number | null): Refusal | null {
  if (file.size === 0) return { kind: 'empty' };
  if (limitBytes !== null && file.size > limitBytes) return { kind: 'too-large', limitBytes };
  return null;
}

/** 128 random bits, URL-safe. Not `randomUUID`, which plain HTTP pages do not have. */
export function randomKey(): string {
  const random = crypto.getRandomValues(new Uint8Array(16));
  return btoa(String.fromCharCode(...random))
    .replace(/\+/g, '-')
    .replace(/\//g, '_')
    .replace(/=+$/, '');
}
