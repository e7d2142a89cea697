/**
 * Comparing the ladders of two multivariant playlists. Pure.
 *
 * hls.js reads the multivariant playlist once. A video that is being processed lists the renditions that exist then; when it is
 * ready there may be more. Loading it again is worth a switch only if something was added.
 */
export interface Rung {
  width: number;
  height: number;
  bitrate: number;
}

/** Names a rung as people do: by its short side. */
export function rungName({ width, height }: Pick<Rung, 'width' | 'height'>): string {
  return width > 0 && height > 0 ? `${Math.min(width, height)}p` : 'audio';
}

/** Whether `next` offers pictures that `current` does not. */
export function offersMore(current: readonly Rung[], next: readonly Rung[]): boolean {
  const known = new Set(current.map(sizeOf));
  return next.some((rung) => !known.has(sizeOf(rung)));
}

function sizeOf({ width, height }: Rung): string {
  return `${width}x${height}`;
}
