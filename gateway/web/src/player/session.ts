/**
 * One video element playing one video: hls.js, its settings, and what happens when something breaks or gets better.
 *
 * hls.js goes first wherever it can run, because only it lets requests move between nodes; browsers that merely claim to play HLS
 * are not asked. Without Media Source Extensions (old iPhones) the browser plays by itself and a failed node is changed by
 * reloading from the next one.
 */
import Hls, { type ErrorData, type HlsConfig, type Level } from 'hls.js';
import { clusterPath, failed, pool, succeeded } from '../lib/gateways';
import { bufferAhead } from './buffer';
import { failoverLoader, type Served } from './failover_loader';
import { offersMore, rungName } from './ladder';

/** A node is given this long to send the first byte of a segment. The buffer is ten times as long. */
const FIRST_BYTE_MS = 2_500;
/** A segment that takes longer is cut off and asked elsewhere; the buffer still covers it. */
const SEGMENT_MS = 20_000;
const PLAYLIST_MS = 8_000;
/** Seconds kept loaded ahead: what a viewer never notices must fit in here. */
const BUFFER_AHEAD_SECONDS = 40;
/** Cheap renditions are loaded up to this far; more would mostly be thrown away. */
const BUFFER_AHEAD_MAX_SECONDS = 90;
const BUFFER_BEHIND_SECONDS = 60;
/** Playlists are asked for early while less than this is left to play. */
const HURRY_SECONDS = 20;
const FRONTIER_STEP_SECONDS = 0.5;
/** After a fatal error: waits between attempts, doubling. */
const RECOVER_MIN_MS = 500;
const RECOVER_MAX_MS = 8_000;
/** A decoder that fails this often in a row will fail again. */
const MEDIA_RECOVERIES_MAX = 2;
/** Played for this long without an error, earlier ones are forgotten. */
const MEDIA_FORGIVE_MS = 20_000;
/** When the ladder has grown, the part of the buffer beyond this many seconds is loaded again in the better quality. */
const KEEP_ON_UPGRADE_SECONDS = 6;
const FLUSH_PATIENCE_MS = 1_000;
/** Preparing the better ladder in the background is given up after this; the next visit has it anyway. */
const UPGRADE_PATIENCE_MS = 20_000;

export interface SessionEvents {
  /** The choice of qualities changed. */
  onLevels(levels: readonly Level[]): void;
  /** Null: all is well again. Otherwise what is wrong, in words, and whether it is final. */
  onTrouble(trouble: { message: string; final: boolean } | null): void;
}

export interface SessionStats {
  mode: 'hls.js' | 'native';
  live: boolean;
  level: Level | null;
  auto: boolean;
  bandwidth: number;
  served: Served | null;
  failovers: number;
  upgraded: boolean;
}

export class PlaybackSession {
  readonly #media: HTMLVideoElement;
  readonly #url: string;
  readonly #events: SessionEvents;
  readonly #bandwidth: number | null;
  #hls: Hls | null = null;
  /** The instance that prepares a better ladder. */
  #next: Hls | null = null;
  #served: Served | null = null;
  #failovers = 0;
  #upgraded = false;
  #recoverMs = RECOVER_MIN_MS;
  #recoverTimer: ReturnType<typeof setTimeout> | undefined;
  #mediaErrors = 0;
  #mediaErrorAtMs = 0;
  #disposeNative: (() => void) | null = null;

  constructor(
    media: HTMLVideoElement,
    url: string,
    start: number,
    bandwidth: number | null,
    events: SessionEvents,
  ) {
    this.#media = media;
    this.#url = new URL(url, location.origin).href;
    this.#events = events;
    this.#bandwidth = bandwidth;
    if (Hls.isSupported()) this.#startHls(start);
    else if (media.canPlayType('application/vnd.apple.mpegurl')) this.#startNative(start);
    else events.onTrouble({ message: 'This browser cannot play video streams.', final: true });
  }

  destroy(): void {
    clearTimeout(this.#recoverTimer);
    this.#next?.destroy();
    this.#hls?.destroy();
    this.#disposeNative?.();
    this.#next = this.#hls = null;
  }

  get stats(): SessionStats {
    const hls = this.#hls;
    return {
      mode: hls ? 'hls.js' : 'native',
      live: hls?.latestLevelDetails?.live ?? false,
      level: hls ? (hls.levels[hls.currentLevel] ?? null) : null,
      auto: hls?.autoLevelEnabled ?? true,
      bandwidth: hls?.bandwidthEstimate ?? 0,
      served: this.#served,
      failovers: this.#failovers,
      upgraded: this.#upgraded,
    };
  }

  /** Name of the rendition on screen. */
  get rendition(): string | null {
    const { level } = this.stats;
    return level ? rungName(level) : null;
  }

  /** Plays one quality, or with null the one that fits. */
  choose(index: number | null): void {
    if (this.#hls) this.#hls.nextLevel = index ?? -1;
  }

  toggleCaptions(): void {
    const hls = this.#hls;
    if (!hls || hls.subtitleTracks.length === 0) return;
    if (hls.subtitleTrack < 0) hls.subtitleTrack = 0;
    hls.subtitleDisplay = !hls.subtitleDisplay;
  }

  /**
   * More of the video has become playable. hls.js asks for a growing playlist once per target duration, which is longer than
   * the first seconds of a fresh upload last; a viewer who is close to the edge should not wait for that.
   */
  frontierMoved(playableSeconds: number): void {
    const hls = this.#hls;
    const edge = hls?.latestLevelDetails?.edge;
    if (!hls || edge === undefined || playableSeconds < edge + FRONTIER_STEP_SECONDS) return;
    const { currentTime } = this.#media;
    const hasAllOfIt = currentTime + bufferAhead(this.#media) > edge - FRONTIER_STEP_SECONDS;
    if (hasAllOfIt && edge - currentTime < HURRY_SECONDS) hls.startLoad(currentTime, true);
  }

  /** Tries again after a final error. */
  retry(): void {
    const at = this.#media.currentTime;
    this.destroy();
    this.#mediaErrors = 0;
    this.#recoverMs = RECOVER_MIN_MS;
    if (Hls.isSupported()) this.#startHls(at);
    else this.#startNative(at);
  }

  #config(start: number): Partial<HlsConfig> {
    const patient = { maxTimeToFirstByteMs: FIRST_BYTE_MS, timeoutRetry: null, errorRetry: null };
    const hlsRetries = { maxNumRetry: 4, retryDelayMs: 500, maxRetryDelayMs: 4_000 };
    const gateways = { candidates: () => pool.candidates(), pathOf: clusterPath, succeeded, failed };
    const config: Partial<HlsConfig> = {
      startPosition: start,
      startFragPrefetch: true,
      maxBufferLength: BUFFER_AHEAD_SECONDS,
      maxMaxBufferLength: BUFFER_AHEAD_MAX_SECONDS,
      backBufferLength: BUFFER_BEHIND_SECONDS,
      capLevelToPlayerSize: true,
      // The worker would need a blob: script; passing fMP4 through is no work worth it.
      enableWorker: false,
      loader: failoverLoader(Hls.DefaultConfig.loader, gateways, (served) => {
        this.#served = served;
        this.#failovers += served.failovers;
        this.#recoverMs = RECOVER_MIN_MS;
      }),
      manifestLoadPolicy: { default: { ...patient, maxLoadTimeMs: PLAYLIST_MS } },
      playlistLoadPolicy: {
        default: { ...patient, maxLoadTimeMs: PLAYLIST_MS, errorRetry: hlsRetries, timeoutRetry: hlsRetries },
      },
      fragLoadPolicy: {
        default: { ...patient, maxLoadTimeMs: SEGMENT_MS, errorRetry: hlsRetries, timeoutRetry: hlsRetries },
      },
    };
    if (this.#bandwidth !== null) config.abrEwmaDefaultEstimate = this.#bandwidth;
    return config;
  }

  #startHls(start: number): void {
    const hls = new Hls(this.#config(start));
    this.#adopt(hls);
    hls.loadSource(this.#url);
    hls.attachMedia(this.#media);
  }

  /** Makes an instance the one whose events count. */
  #adopt(hls: Hls): void {
    this.#hls = hls;
    hls.on(Hls.Events.MANIFEST_PARSED, () => this.#events.onLevels(hls.levels));
    hls.on(Hls.Events.FRAG_BUFFERED, () => this.#events.onTrouble(null));
    hls.on(Hls.Events.ERROR, (_event, data) => this.#onError(hls, data));
  }

  #onError(hls: Hls, data: ErrorData): void {
    if (!data.fatal || hls !== this.#hls) return;
    if (data.type === Hls.ErrorTypes.MEDIA_ERROR) {
      this.#recoverMedia(hls);
    } else if (data.type === Hls.ErrorTypes.NETWORK_ERROR) {
      this.#recoverNetwork(hls);
    } else {
      this.#events.onTrouble({ message: 'The video cannot be played.', final: true });
    }
  }

  #recoverMedia(hls: Hls): void {
    const now = performance.now();
    if (now - this.#mediaErrorAtMs > MEDIA_FORGIVE_MS) this.#mediaErrors = 0;
    this.#mediaErrors += 1;
    this.#mediaErrorAtMs = now;
    if (this.#mediaErrors > MEDIA_RECOVERIES_MAX) {
      this.#events.onTrouble({ message: 'This browser cannot decode the video.', final: true });
    } else {
      hls.recoverMediaError();
    }
  }

  #recoverNetwork(hls: Hls): void {
    this.#events.onTrouble({ message: 'No node answers. Trying again…', final: false });
    clearTimeout(this.#recoverTimer);
    this.#recoverTimer = setTimeout(() => {
      if (hls.levels.length === 0) hls.loadSource(this.#url);
      else hls.startLoad();
    }, this.#recoverMs);
    this.#recoverMs = Math.min(RECOVER_MAX_MS, this.#recoverMs * 2);
  }

  /**
   * Looks at the multivariant playlist again. If it offers more, a second instance takes over the very same media source while
   * it plays: what is buffered stays, and from a few seconds ahead the better renditions follow. The viewer sees no break.
   */
  upgrade(): void {
    const current = this.#hls;
    if (!current || this.#next || this.#upgraded) return;
    const next = new Hls(this.#config(this.#media.currentTime));
    this.#next = next;
    const giveUp = () => {
      clearTimeout(patience);
      if (this.#next !== next) return;
      this.#next = null;
      next.destroy();
    };
    const patience = setTimeout(giveUp, UPGRADE_PATIENCE_MS);
    next.on(Hls.Events.ERROR, (_event, data) => {
      if (data.fatal) giveUp();
    });
    next.on(Hls.Events.MANIFEST_PARSED, () => {
      if (!offersMore(current.levels, next.levels)) giveUp();
    });
    next.once(Hls.Events.BUFFER_CODECS, () => {
      clearTimeout(patience);
      if (this.#next === next) this.#takeOver(current, next);
    });
    next.loadSource(this.#url);
  }

  #takeOver(current: Hls, next: Hls): void {
    const media = this.#media;
    const flushFrom = media.currentTime + KEEP_ON_UPGRADE_SECONDS;
    let handedOver = false;
    const handOver = () => {
      if (handedOver || this.#next !== next) return;
      handedOver = true;
      const source = current.transferMedia();
      this.#next = null;
      this.#upgraded = true;
      this.#adopt(next);
      if (source) next.attachMedia(source);
      else next.attachMedia(media);
      current.destroy();
      this.#events.onLevels(next.levels);
    };
    current.once(Hls.Events.BUFFER_FLUSHED, handOver);
    // Nothing to flush (paused near the end) means no event.
    setTimeout(handOver, FLUSH_PATIENCE_MS);
    current.trigger(Hls.Events.BUFFER_FLUSHING, {
      startOffset: flushFrom,
      endOffset: Infinity,
      type: 'video',
    });
  }

  #startNative(start: number): void {
    const media = this.#media;
    let attempts = 0;
    const load = () => {
      const path = clusterPath(this.#url);
      const origin = pool.candidates()[0];
      media.src = path === null || origin === undefined ? this.#url : origin + path;
    };
    const onLoaded = () => {
      attempts = 0;
      if (start > 0 && media.currentTime < 1) media.currentTime = start;
      this.#events.onTrouble(null);
    };
    const onError = () => {
      failed(new URL(media.currentSrc || media.src, location.origin).origin);
      start = media.currentTime || start;
      attempts += 1;
      if (attempts > pool.origins.length) {
        this.#events.onTrouble({ message: 'No node answers.', final: true });
        return;
      }
      const wasPlaying = !media.paused;
      load();
      if (wasPlaying) void media.play().catch(() => undefined);
    };
    media.addEventListener('loadedmetadata', onLoaded);
    media.addEventListener('error', onError);
    this.#disposeNative = () => {
      media.removeEventListener('loadedmetadata', onLoaded);
      media.removeEventListener('error', onError);
      media.removeAttribute('src');
      media.load();
    };
    load();
  }
}
