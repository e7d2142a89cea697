import { beforeEach, describe, expect, it } from 'vitest';
import {
  FORGIVE_AFTER_MS,
  NodePool,
  PROBE_AFTER_MAX_MS,
  PROBE_AFTER_MS,
  reachableOrigin,
  sightings,
  uploadsElsewhere,
  verdict,
} from './nodes';
import type { Cluster, ClusterNode } from './types';

const A = 'http://a';
const B = 'http://b';
const C = 'http://c';
const up = (...origins: string[]) => origins.map((origin) => ({ origin, status: 'up' as const }));

describe('NodePool', () => {
  let pool: NodePool;
  beforeEach(() => {
    pool = new NodePool(A);
    pool.learn(up(A, B, C));
  });

  it('asks the node the page came from first and knows all others', () => {
    expect(pool.candidates()[0]).toBe(A);
    expect(pool.candidates().toSorted()).toEqual([A, B, C]);
  });

  it('moves on when the current node fails and stays with the one that works', () => {
    pool.failed(A, 1_000);
    expect(pool.current).toBe(B);
    expect(pool.candidates()).toEqual([B, C, A]);
    pool.succeeded(B, 1_010);
    pool.succeeded(C, 1_020);
    expect(pool.current).toBe(B);
  });

  it('survives two dead nodes', () => {
    pool.failed(A, 1_000);
    pool.failed(B, 1_100);
    expect(pool.candidates()).toEqual([C, A, B]);
  });

  it('tries the node that failed longest ago first when all have failed', () => {
    pool.failed(B, 1_000);
    pool.failed(A, 2_000);
    pool.failed(C, 3_000);
    expect(pool.candidates()).toEqual([B, A, C]);
  });

  it('does not send requests to a failed node before a probe found it well', () => {
    pool.failed(A, 0);
    expect(pool.probesDue(PROBE_AFTER_MS - 1)).toEqual([]);
    expect(pool.probesDue(PROBE_AFTER_MS)).toEqual([A]);
    expect(pool.candidates().at(-1)).toBe(A);
  });

  it('goes back home after a good probe, but not to another recovered node', () => {
    pool.failed(A, 0);
    pool.failed(B, 10);
    expect(pool.current).toBe(C);
    pool.succeeded(B, 5_000);
    expect(pool.current).toBe(C);
    pool.succeeded(A, 5_000);
    expect(pool.current).toBe(A);
  });

  it('does not take back a node that failed just now because another request got through', () => {
    pool.failed(A, 0);
    pool.succeeded(A, 100);
    expect(pool.current).toBe(B);
    expect(pool.candidates().at(-1)).toBe(A);
  });

  it('takes what it gets when every node has failed', () => {
    for (const origin of [A, B, C]) pool.failed(origin, 0);
    pool.succeeded(C, 100);
    expect(pool.current).toBe(C);
    expect(pool.candidates()[0]).toBe(C);
  });

  it('counts requests that die together as one failure', () => {
    for (let i = 0; i < 6; i++) pool.failed(A, i);
    expect(pool.probesDue(PROBE_AFTER_MS)).toEqual([A]);
  });

  it('waits longer for a node that keeps failing, up to a limit', () => {
    let now = 0;
    const waits: number[] = [];
    for (let i = 0; i < 8; i++) {
      pool.failed(A, now);
      const failedAt = now;
      while (!pool.probesDue(now).includes(A)) now += 500;
      waits.push(now - failedAt);
    }
    expect(waits.slice(0, 4)).toEqual([2_000, 4_000, 8_000, 16_000]);
    expect(waits.at(-1)).toBe(PROBE_AFTER_MAX_MS);
  });

  it('remembers a flapping node until it has been well for a while', () => {
    pool.failed(A, 0);
    pool.succeeded(A, 3_000);
    pool.failed(A, 4_000);
    expect(pool.probesDue(4_000 + PROBE_AFTER_MS)).toEqual([]);
    pool.succeeded(A, 4_000 + FORGIVE_AFTER_MS);
    pool.failed(A, 100_000);
    expect(pool.probesDue(100_000 + PROBE_AFTER_MS)).toEqual([A]);
  });

  it('prefers nodes that the cluster calls up', () => {
    pool.learn([
      { origin: A, status: 'up' },
      { origin: B, status: 'down' },
      { origin: C, status: 'suspect' },
    ]);
    expect(pool.candidates()).toEqual([A, C, B]);
  });

  it('leaves a node that is being drained', () => {
    pool.learn([...up(B, C), { origin: A, status: 'draining' }]);
    expect(pool.candidates()).toEqual([B, C, A]);
  });

  it('forgets nodes that left, but never home or the current one', () => {
    pool.failed(A, 0);
    pool.learn(up(C));
    expect(pool.origins.toSorted()).toEqual([A, B, C]);
    pool.succeeded(A, 5_000);
    pool.learn(up(C));
    expect(pool.origins.toSorted()).toEqual([A, C]);
  });

  it('spreads the viewers of a dead node over the others', () => {
    const choices = [0, 1, 2].map((seed) => {
      const one = new NodePool(A, seed);
      one.learn(up(A, B, C));
      one.failed(A, 0);
      return one.current;
    });
    expect(new Set(choices)).toEqual(new Set([B, C]));
  });

  it('ignores reports about nodes it does not know', () => {
    pool.failed('http://elsewhere', 0);
    pool.succeeded('http://elsewhere', 0);
    expect(pool.current).toBe(A);
  });
});

describe('verdict', () => {
  it.each([
    [0, 'down'],
    [500, 'down'],
    [503, 'down'],
    [404, 'elsewhere'],
    [200, 'answer'],
    [403, 'answer'],
    [413, 'answer'],
  ])('reads %i as %s', (status, expected) => {
    expect(verdict(status)).toBe(expected);
  });
});

describe('reachableOrigin', () => {
  it.each([
    ['http://10.0.0.2:8080/', 'http://10.0.0.1:8080', 'http://10.0.0.2:8080'],
    ['http://127.0.0.1:8081', 'http://localhost:8080', 'http://127.0.0.1:8081'],
    ['http://127.0.0.1:8081', 'http://192.168.1.5:8080', 'http://192.168.1.5:8081'],
    ['http://0.0.0.0:8081', 'http://localhost:8080', 'http://localhost:8081'],
    ['http://10.0.0.2:8080', 'https://videos.example', null],
    ['https://n2.example', 'https://videos.example', 'https://n2.example'],
    ['ftp://10.0.0.2', 'http://10.0.0.1', null],
    ['not a url', 'http://10.0.0.1', null],
  ])('%s seen from %s is %s', (url, page, expected) => {
    expect(reachableOrigin(url, page)).toBe(expected);
  });
});

describe('sightings', () => {
  const node = (id: number, extra: Partial<ClusterNode> = {}) =>
    ({ id, roles: ['gateway'], status: 'up', http_url: `http://10.0.0.${id}:8080`, ...extra }) as ClusterNode;
  const cluster = (...nodes: ClusterNode[]) => ({ nodes }) as Cluster;

  it('keeps the page’s origin for the node that served it', () => {
    const seen = sightings(cluster(node(1), node(2)), 'http://videos.example', '1');
    expect(seen.map((s) => s.origin)).toEqual(['http://videos.example', 'http://10.0.0.2:8080']);
  });

  it('leaves out nodes without the gateway role or an address', () => {
    const seen = sightings(
      cluster(node(1), node(2, { roles: ['store'] }), node(3, { http_url: null })),
      A,
      null,
    );
    expect(seen.map((s) => s.origin)).toEqual(['http://10.0.0.1:8080']);
  });
});

describe('uploadsElsewhere', () => {
  it('leaves a node that takes no uploads', () => {
    for (const code of ['node_drained', 'not_in_service', 'storage_failed']) {
      expect(uploadsElsewhere(503, code)).toBe(true);
    }
  });
  it('stays where the cluster is the reason, or the upload itself', () => {
    expect(uploadsElsewhere(503, 'no_majority')).toBe(false);
    expect(uploadsElsewhere(503, 'too_few_copies')).toBe(false);
    expect(uploadsElsewhere(422, 'node_drained')).toBe(false);
  });
});
