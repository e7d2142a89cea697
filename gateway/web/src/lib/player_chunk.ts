/**
 * The player (hls.js and media-chrome) is by far the largest part of the app, so it is loaded when a video is near: on pages that
 * play, and when a pointer approaches a card.
 *
 * A part of the app that cannot be loaded because this page's node died means that the page cannot go on from here. Modules from
 * another origin would be a second copy of the app, so the whole page moves instead: same path, other node.
 */
import type PlayerComponent from '../player/Player.svelte';
import { failed, pool } from './gateways';

let loading: Promise<typeof PlayerComponent> | null = null;

export function loadPlayer(): Promise<typeof PlayerComponent> {
  loading ??= import('../player/Player.svelte').then(
    (module) => module.default,
    (reason: unknown) => {
      loading = null;
      throw reason;
    },
  );
  return loading;
}

/** Loads the player if it is likely to be wanted; a failure shows when it is. */
export function expectPlayer(): void {
  loadPlayer().catch(() => undefined);
}

/** The same page at another node, or null when none is known. */
export function samePageElsewhere(): string | null {
  failed(pool.home);
  const other = pool.candidates().find((origin) => origin !== pool.home);
  return other === undefined ? null : other + location.pathname + location.search;
}
