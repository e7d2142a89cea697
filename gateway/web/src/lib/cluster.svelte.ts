/**
 * What is known about the cluster, refreshed as often as the most eager onlooker wants. Every answer also tells `NodePool` which
 * nodes there are, and each round probes the nodes whose breaker is due, so that a recovered node comes back into use.
 */
import { getCluster, probe } from './api';
import { learnCluster, pool } from './gateways';
import { inWords } from './problems';
import type { Cluster } from './types';

/** Often enough to know a new node before it is needed; a cluster answer is a few kilobytes. */
const BACKGROUND_MS = 15_000;

let cluster = $state.raw<Cluster | null>(null);
let answeredBy = $state('');
let answeredAtMs = $state(0);
let error = $state<string | null>(null);

export const clusterView = {
  get cluster(): Cluster | null {
    return cluster;
  },
  /** Origin of the node that gave the last answer. */
  get answeredBy(): string {
    return answeredBy;
  },
  get answeredAtMs(): number {
    return answeredAtMs;
  },
  /** Why the last attempt failed, or null when it did not. */
  get error(): string | null {
    return error;
  },
};

const onlookers = new Set<number[]>();
let timer: ReturnType<typeof setTimeout> | undefined;
let running = false;

async function refresh(): Promise<void> {
  clearTimeout(timer);
  if (running) return;
  running = true;
  try {
    const answer = await getCluster();
    cluster = answer.cluster;
    answeredBy = answer.answeredBy;
    answeredAtMs = Date.now();
    error = null;
    learnCluster(answer.cluster, answer.answeredBy);
  } catch (reason) {
    error = inWords(reason);
  }
  await Promise.all(pool.probesDue(Date.now()).map(probe));
  running = false;
  schedule();
}

function schedule(): void {
  clearTimeout(timer);
  if (onlookers.size === 0) return;
  const wanted = Math.min(...[...onlookers].flat());
  // A video may go on playing in a hidden tab, so what is known must not grow old there either.
  const intervalMs = document.hidden ? Math.max(wanted, BACKGROUND_MS) : wanted;
  timer = setTimeout(() => void refresh(), intervalMs);
}

/** Asks now and then every `intervalMs`; returns how to stop. */
export function watchCluster(intervalMs = BACKGROUND_MS): () => void {
  const onlooker = [intervalMs];
  onlookers.add(onlooker);
  void refresh();
  return () => {
    onlookers.delete(onlooker);
    schedule();
  };
}

function refreshNow(): void {
  if (!document.hidden && onlookers.size > 0) void refresh();
}
document.addEventListener('visibilitychange', refreshNow);
addEventListener('online', refreshNow);
