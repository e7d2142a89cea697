/**
 * The loader that hls.js uses for playlists and segments: its own XHR loader, asked again at another node when one does not answer.
 *
 * hls.js sees a single request that succeeds, and only URLs of the page's own node, so no playlist ever points at the node that
 * happened to serve it. Which node is asked is decided by `Gateways`; this is a thin shell around that decision.
 */
import type {
  HlsConfig,
  Loader,
  LoaderCallbacks,
  LoaderConfiguration,
  LoaderContext,
  LoaderResponse,
  LoaderStats,
} from 'hls.js';
import { verdict } from '../lib/nodes';

/** Nodes tried for one request. hls.js itself comes back for a segment later if all of them fail. */
const ATTEMPTS_MAX = 4;
/** A body that has stopped growing for this long comes from a frozen node. Well below the buffer we keep. */
const BODY_STALL_MS = 3_000;
const BODY_CHECK_MS = 500;

/** What the loader needs to know about the cluster. */
export interface Gateways {
  /** Every node, best first. */
  candidates(): string[];
  /** The path of a URL that any node can serve; null for URLs that are not the cluster's. */
  pathOf(url: string): string | null;
  succeeded(origin: string): void;
  failed(origin: string): void;
}

/** One answered request, for the statistics. */
export interface Served {
  origin: string;
  /** What the node calls itself in `Reelraft-Node`, where it says so. */
  node: string | null;
  /** Attempts that failed before this one. */
  failovers: number;
}

type LoaderConstructor = new (config: HlsConfig) => Loader<LoaderContext>;

export function failoverLoader(
  Inner: LoaderConstructor,
  gateways: Gateways,
  onServed: (served: Served) => void,
): LoaderConstructor {
  return class FailoverLoader implements Loader<LoaderContext> {
    context: LoaderContext | null = null;
    stats: LoaderStats;
    readonly #hlsConfig: HlsConfig;
    #inner: Loader<LoaderContext>;
    #watchdog: ReturnType<typeof setInterval> | undefined;
    #over = false;

    constructor(config: HlsConfig) {
      this.#hlsConfig = config;
      this.#inner = new Inner(config);
      this.stats = this.#inner.stats;
    }

    load(
      context: LoaderContext,
      config: LoaderConfiguration,
      callbacks: LoaderCallbacks<LoaderContext>,
    ): void {
      this.context = context;
      const path = gateways.pathOf(context.url);
      const origins = path === null ? [] : gateways.candidates().slice(0, ATTEMPTS_MAX);
      const first = origins[0];
      if (path === null || first === undefined) {
        this.#inner.load(context, config, callbacks);
        return;
      }
      this.#attempt(0, first, origins, path, context, withoutRetries(config), callbacks);
    }

    #attempt(
      index: number,
      origin: string,
      origins: readonly string[],
      path: string,
      context: LoaderContext,
      config: LoaderConfiguration,
      callbacks: LoaderCallbacks<LoaderContext>,
    ): void {
      if (index > 0) this.#renewInner();

      /** Goes on to the next node; false when there is none. */
      const elsewhere = (isDown: boolean): boolean => {
        clearInterval(this.#watchdog);
        if (this.#over) return true;
        if (isDown) gateways.failed(origin);
        const next = origins[index + 1];
        if (next === undefined) return false;
        this.#attempt(index + 1, next, origins, path, context, config, callbacks);
        return true;
      };

      this.#watchdog = this.#watchBody(() => {
        if (!elsewhere(true)) callbacks.onTimeout(this.stats, context, null);
      });

      // Typed without optional members: the inner loader only calls those that are there.
      const inner: LoaderCallbacks<LoaderContext> = {
        onSuccess: (response: LoaderResponse, stats, _context, details) => {
          clearInterval(this.#watchdog);
          gateways.succeeded(origin);
          onServed({ origin, node: servedBy(details), failovers: index });
          callbacks.onSuccess({ ...response, url: context.url }, stats, context, details);
        },
        onError: (error, _context, details, stats) => {
          const next = verdict(error.code);
          if (next === 'answer' || !elsewhere(next === 'down'))
            callbacks.onError(error, context, details, stats);
        },
        onTimeout: (stats, _context, details) => {
          if (!elsewhere(true)) callbacks.onTimeout(stats, context, details);
        },
      };
      if (callbacks.onAbort) {
        inner.onAbort = (stats, _context, details) => callbacks.onAbort?.(stats, context, details);
      }
      if (callbacks.onProgress) {
        inner.onProgress = (stats, _context, data, details) =>
          callbacks.onProgress?.(stats, context, data, details);
      }
      this.#inner.load({ ...context, url: origin + path }, { ...config }, inner);
    }

    /** A fresh loader for the next attempt, with the stats object that hls.js already holds. */
    #renewInner(): void {
      const stats = this.stats;
      const spent = this.#inner;
      // Destroying lets go of the stats object, so it is put back; timings start again, because the dead node's silence says
      // nothing about the bandwidth.
      spent.destroy();
      stats.loading = { start: 0, first: 0, end: 0 };
      stats.loaded = 0;
      stats.total = 0;
      stats.aborted = false;
      this.#inner = new Inner(this.#hlsConfig);
      this.#inner.stats = stats;
    }

    #watchBody(onStall: () => void): ReturnType<typeof setInterval> {
      clearInterval(this.#watchdog);
      let seen = -1;
      let sinceMs = performance.now();
      return setInterval(() => {
        const { loading, loaded } = this.stats;
        // Before the first byte the loader's own deadline counts.
        if (loading.first === 0) return;
        if (loaded !== seen) {
          seen = loaded;
          sinceMs = performance.now();
        } else if (performance.now() - sinceMs >= BODY_STALL_MS) {
          onStall();
        }
      }, BODY_CHECK_MS);
    }

    abort(): void {
      this.#over = true;
      clearInterval(this.#watchdog);
      this.#inner.abort();
    }

    destroy(): void {
      this.#over = true;
      clearInterval(this.#watchdog);
      this.#inner.destroy();
    }

    getCacheAge(): number | null {
      return this.#inner.getCacheAge?.() ?? null;
    }

    getResponseHeader(name: string): string | null {
      return this.#inner.getResponseHeader?.(name) ?? null;
    }
  };
}

/** Retries are ours: at another node, at once. */
function withoutRetries(config: LoaderConfiguration): LoaderConfiguration {
  return {
    ...config,
    maxRetry: 0,
    loadPolicy: { ...config.loadPolicy, errorRetry: null, timeoutRetry: null },
  };
}

function servedBy(details: unknown): string | null {
  if (typeof details !== 'object' || details === null || !('getResponseHeader' in details)) return null;
  return (details as { getResponseHeader(name: string): string | null }).getResponseHeader('Reelraft-Node');
}
