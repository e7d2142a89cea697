/**
 * Which node to ask.
 *
 * Every gateway of the cluster can answer every request, so the death of one must not be visible here. This file decides, and
 * does nothing else: no clock, no network, no storage. Callers pass the time in milliseconds and report what happened.
 *
 * The rules:
 * - Stay with the node that works (`current`); at first that is `home`, the node the page came from.
 * - A failure opens that node's breaker: it is asked last until a probe, not a viewer's request, has found it well again.
 * - Each failure in a row doubles the wait before the next probe, so a node that flaps costs less and less.
 * - When home is well again, go back to it: same origin, no extra round trips.
 * - Every known node stays on the list. When all seem dead the least suspicious is tried first, because the fault may be ours.
 * - Pages start their rotation at different nodes (`seed`), so a dead node's viewers do not all run to the same neighbour.
 */
import type { Cluster, ClusterNode, NodeStatus } from './types';

/** First wait before a failed node is probed. */
export const PROBE_AFTER_MS = 2_000;
/** The wait doubles per failure up to this. */
export const PROBE_AFTER_MAX_MS = 60_000;
/** A node that has answered for this long is forgiven its earlier failures. */
export const FORGIVE_AFTER_MS = 60_000;

/** What the cluster says about a gateway. */
export interface Sighting {
  origin: string;
  status: NodeStatus;
}

interface Member {
  origin: string;
  status: NodeStatus;
  failures: number;
  failedAtMs: number;
  /** Closed: asked freely. Open: asked last, and probed once `probeAtMs` has passed. */
  breaker: 'closed' | 'open';
  probeAtMs: number;
}

/** What one attempt at one node means for the next step. */
export type Verdict = 'answer' | 'elsewhere' | 'down';

/**
 * Reads an HTTP status (0: no answer). `down`: the node is in trouble, open its breaker. `elsewhere`: the node is well but may
 * lag behind the others (a 404 right after a write), so another may know more.
 */
export function verdict(status: number): Verdict {
  if (status === 0 || status >= 500) return 'down';
  if (status === 404) return 'elsewhere';
  return 'answer';
}

/** Answers that concern the node and not the cluster: another node may well take the upload. */
const TAKES_NO_UPLOADS: ReadonlySet<string> = new Set(['not_in_service', 'node_drained', 'storage_failed']);

/**
 * Whether a refused upload has to go to another node. Any other 503 says that the cluster cannot take it at present; the node can
 * still serve what it holds.
 */
export function uploadsElsewhere(status: number, code: string): boolean {
  return status === 503 && TAKES_NO_UPLOADS.has(code);
}

/** The smaller, the better a choice. */
function standing(status: NodeStatus): number {
  switch (status) {
    case 'up':
      return 0;
    case 'suspect':
    case 'joining':
      return 1;
    case 'draining':
    case 'maintenance':
      return 2;
    case 'down':
    case 'dead':
      return 3;
  }
}

/** A current node with this standing or better is kept. */
const STAY_UP_TO = 1;

export class NodePool {
  readonly home: string;
  #current: string;
  #members = new Map<string, Member>();
  readonly #seed: number;

  constructor(home: string, seed = 0) {
    this.home = home;
    this.#current = home;
    this.#seed = seed;
    this.#members.set(home, newMember(home, 'up'));
  }

  /** The node that requests go to while nothing fails. */
  get current(): string {
    return this.#current;
  }

  has(origin: string): boolean {
    return this.#members.has(origin);
  }

  get origins(): string[] {
    return [...this.#members.keys()];
  }

  /** Takes in the cluster's present gateways. Breakers survive; nodes no longer listed go, except home and the current one. */
  learn(sightings: readonly Sighting[]): void {
    const listed = new Set<string>();
    for (const { origin, status } of sightings) {
      listed.add(origin);
      const member = this.#members.get(origin);
      if (member) member.status = status;
      else this.#members.set(origin, newMember(origin, status));
    }
    for (const origin of this.#members.keys()) {
      if (!listed.has(origin) && origin !== this.home && origin !== this.#current)
        this.#members.delete(origin);
    }
  }

  /** Every node, best first: the order in which to try one request. */
  candidates(): string[] {
    const rotation = this.#rotation();
    const rank = (member: Member) => {
      if (member.breaker === 'open') return 20;
      if (member.origin === this.#current && standing(member.status) <= STAY_UP_TO) return 0;
      return 1 + standing(member.status);
    };
    return [...this.#members.values()]
      .map((member) => ({ member, rank: rank(member), turn: rotation.get(member.origin) ?? 0 }))
      .sort((a, b) => a.rank - b.rank || a.member.failedAtMs - b.member.failedAtMs || a.turn - b.turn)
      .map(({ member }) => member.origin);
  }

  /** A request at `origin` got no usable answer. */
  failed(origin: string, nowMs: number): void {
    const member = this.#members.get(origin);
    if (!member) return;
    // Several requests in flight die together: that is one failure, not many.
    const sameFailure = member.breaker === 'open' && nowMs < member.probeAtMs;
    if (!sameFailure) {
      member.failures += 1;
      member.probeAtMs = nowMs + probeDelay(member.failures);
    }
    member.failedAtMs = nowMs;
    member.breaker = 'open';
    if (origin === this.#current) this.#current = this.candidates()[0] ?? this.home;
  }

  /** A request at `origin` was answered. */
  succeeded(origin: string, nowMs: number): void {
    const member = this.#members.get(origin);
    if (!member) return;
    const current = this.#members.get(this.#current);
    // A node that answers small questions may still choke on segments: its wait counts, unless we have nothing better.
    const isWaiting = member.breaker === 'open' && nowMs < member.probeAtMs;
    if (isWaiting && current?.breaker === 'closed') return;
    member.breaker = 'closed';
    if (member.failures > 0 && nowMs - member.failedAtMs >= FORGIVE_AFTER_MS) {
      member.failures = 0;
      member.failedAtMs = 0;
    }
    if (origin === this.home || current?.breaker !== 'closed') this.#current = origin;
  }

  /** Failed nodes whose wait is over: ask each whether it is well, then report `succeeded` or `failed`. */
  probesDue(nowMs: number): string[] {
    return [...this.#members.values()]
      .filter((member) => member.breaker === 'open' && nowMs >= member.probeAtMs)
      .map((member) => member.origin);
  }

  #rotation(): Map<string, number> {
    const sorted = [...this.#members.keys()].sort();
    return new Map(sorted.map((origin, index) => [origin, (index + this.#seed) % sorted.length]));
  }
}

function newMember(origin: string, status: NodeStatus): Member {
  return { origin, status, failures: 0, failedAtMs: 0, breaker: 'closed', probeAtMs: 0 };
}

function probeDelay(failures: number): number {
  return Math.min(PROBE_AFTER_MAX_MS, PROBE_AFTER_MS * 2 ** (failures - 1));
}

const LOOPBACK = new Set(['localhost', '127.0.0.1', '[::1]', '0.0.0.0', '[::]']);

/**
 * The origin at which this page can reach a node, or null when it cannot.
 *
 * A node that listens on the loopback address says so in its `http_url`; seen from a phone that means the phone. The page's own
 * host name is then the better guess: same machine, other port. A secure page cannot call plain HTTP, except on loopback.
 */
export function reachableOrigin(httpUrl: string, pageOrigin: string): string | null {
  if (!URL.canParse(httpUrl)) return null;
  const url = new URL(httpUrl);
  const page = new URL(pageOrigin);
  if (url.protocol !== 'http:' && url.protocol !== 'https:') return null;
  const unspecified = url.hostname === '0.0.0.0' || url.hostname === '[::]';
  if (unspecified || (LOOPBACK.has(url.hostname) && !LOOPBACK.has(page.hostname)))
    url.hostname = page.hostname;
  if (page.protocol === 'https:' && url.protocol === 'http:' && !LOOPBACK.has(url.hostname)) return null;
  return url.origin;
}

/**
 * The gateways in a cluster's answer as this page reaches them. `homeId` is the node that serves the page's own origin: it keeps
 * that origin, whatever it calls itself.
 */
export function sightings(cluster: Cluster, pageOrigin: string, homeId: string | null): Sighting[] {
  const seen: Sighting[] = [];
  for (const node of cluster.nodes) {
    const origin = gatewayOrigin(node, pageOrigin, homeId);
    if (origin !== null && !seen.some((other) => other.origin === origin)) {
      seen.push({ origin, status: node.status });
    }
  }
  return seen;
}

function gatewayOrigin(node: ClusterNode, pageOrigin: string, homeId: string | null): string | null {
  if (!node.roles.includes('gateway')) return null;
  if (homeId !== null && String(node.id) === homeId) return pageOrigin;
  return node.http_url ? reachableOrigin(node.http_url, pageOrigin) : null;
}
