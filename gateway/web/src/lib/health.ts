/**
 * The state of the cluster in a few sentences, problems first. Pure.
 */
import { count, plural, span } from './format';
import type {
  Cluster,
  ClusterNode,
  CopyCount,
  Drain,
  NodeStatus,
  Scrub,
  ServerFinding,
  Store,
} from './types';

export type Tone = 'good' | 'warn' | 'bad' | 'quiet';

export interface Finding {
  tone: Tone;
  title: string;
  detail: string;
}

/** A disk this full is worth a word before the watermarks of the store act. */
const DISK_WARN = 0.85;
const DISK_BAD = 0.95;

/** What is wrong, worst first. Empty when all is well. */
export function findings(cluster: Cluster): Finding[] {
  const found: Finding[] = [];
  if (cluster.leader === null) {
    found.push({
      tone: 'bad',
      title: 'No leader',
      detail: 'A majority of the voters is needed to elect one. Playback goes on; uploads and changes wait.',
    });
  }
  const gone = cluster.nodes.filter((node) => node.status === 'down' || node.status === 'dead');
  if (gone.length > 0) {
    found.push({
      tone: 'bad',
      title: `${plural(gone.length, 'node')} not answering`,
      detail:
        gone.length === 1
          ? `${names(gone)}. What it holds has further copies on other nodes.`
          : `${names(gone)}.`,
    });
  }
  if (cluster.under_replicated_blocks > 0) {
    const eta = cluster.repair.eta_seconds;
    found.push({
      tone: 'warn',
      title: `${plural(cluster.under_replicated_blocks, 'block')} with too few copies`,
      detail: repairSentence(cluster, eta),
    });
  }
  const suspect = cluster.nodes.filter((node) => node.status === 'suspect');
  if (suspect.length > 0) {
    found.push({
      tone: 'warn',
      title: `${plural(suspect.length, 'node')} late`,
      detail: `Not heard for some seconds: ${names(suspect)}.`,
    });
  }
  for (const node of cluster.nodes) {
    const use = diskUse(node);
    if (use !== null && use >= DISK_WARN) {
      found.push({
        tone: use >= DISK_BAD ? 'bad' : 'warn',
        title: `${node.name} is running out of space`,
        detail: `${Math.round(use * 100)} % of its capacity is in use.`,
      });
    }
  }
  for (const node of cluster.nodes) {
    if (node.status === 'draining') found.push(leaving(node));
    if (node.status === 'maintenance') {
      found.push({
        tone: 'quiet',
        title: `${node.name} is in maintenance`,
        detail: 'Its copies stay where they are for now.',
      });
    }
  }
  for (const finding of cluster.findings ?? []) {
    if (!TOLD_HERE.has(finding.code)) {
      found.push({ tone: TONES[finding.severity], title: sentence(finding.summary), detail: finding.remedy });
    }
  }
  return found.sort((a, b) => RANK[a.tone] - RANK[b.tone]);
}

function leaving({ name, drain }: ClusterNode): Finding {
  if (!drain)
    return { tone: 'quiet', title: `${name} is being drained`, detail: 'Its copies move to other nodes.' };
  if (drain.stuck !== null) {
    return {
      tone: 'warn',
      title: `${name} cannot hand over its blocks`,
      detail: `${sentence(drain.stuck)}.`,
    };
  }
  if (isDrained(drain)) {
    return { tone: 'quiet', title: `${name} can be removed`, detail: 'It has handed over everything.' };
  }
  const items = drainItems(drain);
  const detail =
    items.length > 0
      ? `Left to hand over: ${items.join(', ')}.`
      : 'Others look whether they have all of its blocks.';
  return { tone: 'quiet', title: `${name} is being drained`, detail };
}

/** Whether the node has nothing left that is its alone. */
export function isDrained(drain: Drain): boolean {
  return drain.waiting_for.length === 0;
}

/** What the node has yet to hand over, in a few words each. */
export function drainItems(drain: Drain): string[] {
  const items: string[] = [];
  if (drain.groups > 0) items.push(`${plural(drain.groups, 'group')} of blocks`);
  if (drain.copies_missing !== null && drain.copies_missing > 0) {
    items.push(drain.copies_missing === 1 ? '1 copy' : `${count(drain.copies_missing)} copies`);
  }
  if (drain.leads) items.push('leadership');
  if (drain.votes) items.push('vote');
  if (drain.jobs > 0) items.push(plural(drain.jobs, 'job'));
  if (drain.uploads > 0) items.push(plural(drain.uploads, 'upload'));
  return items;
}

/** What the sentences above say already, in the words of this page. */
const TOLD_HERE = new Set([
  'no_leader',
  'no_layout',
  'node_down',
  'node_dead',
  'node_late',
  'node_draining',
  'node_maintenance',
  'too_few_copies',
  'store_trouble',
]);

const TONES: Record<ServerFinding['severity'], Tone> = { critical: 'bad', warning: 'warn', notice: 'quiet' };

const RANK: Record<Tone, number> = { bad: 0, warn: 1, quiet: 2, good: 3 };

export function sentence(text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

function repairSentence(cluster: Cluster, eta: number | null): string {
  const { waiting_for: waitingFor, bytes_per_second: rate } = cluster.repair;
  if (rate > 0 && eta !== null) return `New copies are being made; about ${span(eta)} left.`;
  if (rate > 0) return 'New copies are being made.';
  if (waitingFor) return `Waiting: ${waitingFor}.`;
  const down = cluster.nodes.filter((node) => node.status === 'down');
  if (down.length === 0) return 'New copies will be made shortly.';
  return `New copies will be made when ${backAgain(down)}.`;
}

/** Beside the number of copies to make, while none is being made. */
export function repairRemark(cluster: Cluster): string {
  const { queued_blocks: queued, waiting_for: waitingFor } = cluster.repair;
  if (cluster.repair.paused_by) return `paused by ${cluster.repair.paused_by}`;
  if (waitingFor) return `waiting: ${waitingFor}`;
  if (queued === 0) return 'nothing to repair';
  const down = cluster.nodes.filter((node) => node.status === 'down');
  return down.length === 0 ? 'to be made shortly' : `when ${backAgain(down)}`;
}

/** What the last count of all copies came to: a figure and a remark. */
export function countedRemark(counted: CopyCount | null | undefined): [figure: string, remark: string] {
  if (!counted) return ['–', 'copies not counted yet'];
  const found = counted.copies - counted.lacking - counted.unknown;
  const when = counted.seconds_ago < 2 ? 'just now' : `${span(counted.seconds_ago)} ago`;
  if (found === counted.copies) return [count(found), `copies, all found ${when}`];
  return [count(found), `of ${count(counted.copies)} copies found ${when}`];
}

/** How long ago every node had read all its blocks, and what is going on: a figure and a remark. */
export function scrubRemark(nodes: readonly ClusterNode[]): [figure: string, remark: string] {
  const scrubs = nodes.flatMap((node) => node.store?.scrub ?? []);
  if (scrubs.length === 0) return ['–', 'blocks not read yet'];
  const damaged = scrubs.reduce((sum, scrub) => sum + scrub.damaged_blocks, 0);
  const running = scrubs.filter((scrub) => scrub.running);
  const ages = scrubs.map((scrub) => scrub.age_seconds);
  const figure = ages.includes(null) ? 'not yet' : span(Math.max(...ages.map((age) => age ?? 0)));
  const progress = running.length > 0 ? Math.min(...running.map((scrub) => scrub.progress)) : null;
  const remark =
    progress === null ? 'since all blocks were read' : `reading all blocks, ${Math.floor(progress * 100)} %`;
  return [figure, damaged === 0 ? remark : `${remark}; ${count(damaged)} were bad`];
}

/** How far a node is with reading its blocks, or how long ago it was through. */
export function scrubWord(scrub: Scrub | null): string {
  if (scrub?.running) return `${Math.floor(scrub.progress * 100)} %`;
  const age = scrub?.age_seconds ?? null;
  return age === null ? 'not yet' : `${span(age)} ago`;
}

/** Whether a node has what it should: a few words. */
export function lacksRemark(store: Store): string {
  if (store.missing_blocks === null) return '?';
  const damaged = store.quarantined_blocks > 0 ? `, ${count(store.quarantined_blocks)} bad` : '';
  return `${count(store.missing_blocks)}${damaged}`;
}

function backAgain(down: readonly ClusterNode[]): string {
  return down.length === 1 ? `${names(down)} is back` : `${names(down)} are back`;
}

/** The one line on top. */
export function headline(cluster: Cluster): Finding {
  const [worst] = findings(cluster).filter((finding) => finding.tone !== 'quiet');
  if (worst) return worst;
  const { length } = cluster.nodes;
  const title = length === 1 ? 'The node is healthy' : `All ${count(length)} nodes are healthy`;
  return { tone: 'good', title, detail: 'Every block has all its copies.' };
}

function names(nodes: readonly ClusterNode[]): string {
  return nodes.map((node) => node.name).join(', ');
}

/** Share of the disk in use, or null where the node has not said. */
export function diskUse(node: ClusterNode): number | null {
  return node.capacity_bytes ? node.bytes / node.capacity_bytes : null;
}

const STATUS: Record<NodeStatus, { label: string; tone: Tone }> = {
  joining: { label: 'Joining', tone: 'quiet' },
  up: { label: 'Up', tone: 'good' },
  suspect: { label: 'Suspect', tone: 'warn' },
  down: { label: 'Down', tone: 'bad' },
  dead: { label: 'Dead', tone: 'bad' },
  draining: { label: 'Draining', tone: 'quiet' },
  maintenance: { label: 'Maintenance', tone: 'quiet' },
};

export function statusOf(node: ClusterNode): { label: string; tone: Tone } {
  return STATUS[node.status] ?? { label: node.status, tone: 'quiet' };
}

/** Log entries that a node is behind the most advanced one. */
export function lag(node: ClusterNode, cluster: Cluster): number {
  const head = Math.max(...cluster.nodes.map((other) => other.applied_index));
  return Math.max(0, head - node.applied_index);
}

export function isLeader(node: ClusterNode, cluster: Cluster): boolean {
  return cluster.leader !== null && String(cluster.leader) === String(node.id);
}
