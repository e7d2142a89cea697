/**
 * The one `NodePool` of this page, with the clock and the storage that the pool itself does not touch.
 */
import { NodePool, sightings } from './nodes';
import { readJson, writeJson } from './storage';
import type { Cluster } from './types';

const STORAGE_KEY = 'reelraft.gateways';
/** More addresses than this are not worth remembering: a page tries a handful at most. */
const REMEMBERED_MAX = 32;

const home = location.origin;

export const pool = new NodePool(home, Math.floor(Math.random() * 1024));

// What an earlier page learnt, so that a node may die even before the first answer about the cluster. A guess, hence `suspect`.
pool.learn(
  readJson<string[]>(STORAGE_KEY, [])
    .filter((origin) => typeof origin === 'string' && URL.canParse(origin))
    .slice(0, REMEMBERED_MAX)
    .map((origin) => ({ origin, status: 'suspect' as const })),
);

let homeId: string | null = null;

/** Takes in an answer about the cluster that `answeredBy` gave. */
export function learnCluster(cluster: Cluster, answeredBy: string): void {
  if (answeredBy === home && cluster.self !== null) homeId = String(cluster.self);
  pool.learn(sightings(cluster, home, homeId));
  writeJson(STORAGE_KEY, pool.origins.filter((origin) => origin !== home).slice(0, REMEMBERED_MAX));
}

export function succeeded(origin: string): void {
  pool.succeeded(origin, Date.now());
}

export function failed(origin: string): void {
  pool.failed(origin, Date.now());
}

/**
 * The part of a URL that is the same on every node, or null when the URL is not one of ours.
 */
export function clusterPath(url: string): string | null {
  if (!URL.canParse(url, home)) return null;
  const parsed = new URL(url, home);
  return pool.has(parsed.origin) ? parsed.pathname + parsed.search : null;
}

/** `path` at the node in use, for `<img src>` and the like. */
export function atCurrentNode(path: string): string {
  return pool.current === home ? path : pool.current + path;
}
