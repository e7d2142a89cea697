import type { HlsConfig, Loader, LoaderCallbacks, LoaderConfiguration, LoaderContext } from 'hls.js';
import { beforeEach, describe, expect, it, vi } from 'vitest';
import { NodePool } from '../lib/nodes';
import { failoverLoader, type Served } from './failover_loader';

const A = 'http://a';
const B = 'http://b';
const C = 'http://c';

type Callbacks = LoaderCallbacks<LoaderContext>;

/** What each node does with a request. */
let behaviour: Record<string, 'answers' | 'times out' | number>;
let asked: string[];
let retriesByItself: boolean;

/** Stands in for the XHR loader of hls.js: answers at once, as the node of the URL does. */
class FakeInner implements Loader<LoaderContext> {
  context: LoaderContext | null = null;
  stats = {
    aborted: false,
    loaded: 0,
    retry: 0,
    total: 0,
    chunkCount: 0,
    bwEstimate: 0,
    loading: { start: 0, first: 0, end: 0 },
    parsing: { start: 0, end: 0 },
    buffering: { start: 0, first: 0, end: 0 },
  };
  load(context: LoaderContext, config: LoaderConfiguration, callbacks: Callbacks): void {
    asked.push(context.url);
    retriesByItself = config.loadPolicy.errorRetry !== null;
    const does = behaviour[new URL(context.url).origin] ?? 0;
    if (does === 'answers') {
      this.stats.loaded = 7;
      callbacks.onSuccess({ url: context.url, data: 'x', code: 200 }, this.stats, context, null);
    } else if (does === 'times out') {
      callbacks.onTimeout(this.stats, context, null);
    } else {
      callbacks.onError({ code: does, text: '' }, context, null, this.stats);
    }
  }
  abort(): void {
    this.stats.aborted = true;
  }
  destroy(): void {
    this.stats.aborted = true;
  }
}

const policy = {
  maxTimeToFirstByteMs: 1,
  maxLoadTimeMs: 1,
  timeoutRetry: null,
  errorRetry: { maxNumRetry: 3, retryDelayMs: 1, maxRetryDelayMs: 1 },
};
const config: LoaderConfiguration = {
  loadPolicy: policy,
  maxRetry: 0,
  timeout: 1,
  retryDelay: 0,
  maxRetryDelay: 0,
};

describe('failoverLoader', () => {
  let pool: NodePool;
  let served: Served[];
  let callbacks: Record<'onSuccess' | 'onError' | 'onTimeout', ReturnType<typeof vi.fn>>;

  beforeEach(() => {
    asked = [];
    served = [];
    callbacks = { onSuccess: vi.fn(), onError: vi.fn(), onTimeout: vi.fn() };
    pool = new NodePool(A);
    pool.learn([A, B, C].map((origin) => ({ origin, status: 'up' })));
  });

  function load(url: string) {
    const FailoverLoader = failoverLoader(
      FakeInner,
      {
        candidates: () => pool.candidates(),
        pathOf: (address) => (pool.has(new URL(address).origin) ? new URL(address).pathname : null),
        succeeded: (origin) => pool.succeeded(origin, 0),
        failed: (origin) => pool.failed(origin, 0),
      },
      (one) => served.push(one),
    );
    const loader = new FailoverLoader({} as HlsConfig);
    const { stats } = loader;
    loader.load({ url, responseType: 'text' } as LoaderContext, config, callbacks as unknown as Callbacks);
    return { loader, stats };
  }

  it('asks the page’s node and passes the answer on', () => {
    behaviour = { [A]: 'answers' };
    load(`${A}/v/x/1.m4s`);
    expect(asked).toEqual([`${A}/v/x/1.m4s`]);
    expect(retriesByItself).toBe(false);
    expect(callbacks.onSuccess).toHaveBeenCalledOnce();
    expect(served).toEqual([{ origin: A, node: null, failovers: 0 }]);
  });

  it.each([['times out' as const], [0], [503]])('asks the next node when one answers %s', (fault) => {
    behaviour = { [A]: fault, [B]: 'answers' };
    const { loader, stats } = load(`${A}/v/x/1.m4s`);
    expect(asked).toEqual([`${A}/v/x/1.m4s`, `${B}/v/x/1.m4s`]);
    expect(callbacks.onError).not.toHaveBeenCalled();
    expect(callbacks.onTimeout).not.toHaveBeenCalled();
    expect(served[0]).toMatchObject({ origin: B, failovers: 1 });
    expect(pool.current).toBe(B);
    // hls.js measures with the object it was given; the dead node must leave no trace in it.
    expect(loader.stats).toBe(stats);
    expect(stats).toMatchObject({ aborted: false, loaded: 7 });
  });

  it('answers under the URL that was asked for, so that playlists stay independent of nodes', () => {
    behaviour = { [A]: 0, [B]: 'answers' };
    load(`${A}/v/x/index.m3u8`);
    expect(callbacks.onSuccess.mock.calls[0]?.[0]).toMatchObject({ url: `${A}/v/x/index.m3u8` });
  });

  it('goes straight to the node in use for the next request', () => {
    behaviour = { [A]: 0, [B]: 'answers' };
    load(`${A}/1`);
    asked = [];
    load(`${A}/2`);
    expect(asked).toEqual([`${B}/2`]);
  });

  it('looks for a missing segment elsewhere without blaming the node', () => {
    behaviour = { [A]: 404, [B]: 'answers' };
    load(`${A}/v/x/9.m4s`);
    expect(callbacks.onSuccess).toHaveBeenCalledOnce();
    expect(pool.current).toBe(A);
  });

  it('reports the failure when no node can help', () => {
    behaviour = { [A]: 0, [B]: 'times out', [C]: 500 };
    load(`${A}/1`);
    expect(asked).toHaveLength(3);
    expect(callbacks.onError).toHaveBeenCalledOnce();
    expect(callbacks.onSuccess).not.toHaveBeenCalled();
  });

  it('does not repeat a refusal elsewhere', () => {
    behaviour = { [A]: 403, [B]: 'answers' };
    load(`${A}/1`);
    expect(asked).toHaveLength(1);
    expect(callbacks.onError).toHaveBeenCalledOnce();
  });

  it('leaves other people’s URLs alone', () => {
    behaviour = { 'http://cdn': 'answers' };
    load('http://cdn/1');
    expect(asked).toEqual(['http://cdn/1']);
    expect(retriesByItself).toBe(true);
    expect(served).toEqual([]);
  });
});
