import { describe, expect, it } from 'vitest';
import {
  countedRemark,
  diskUse,
  drainItems,
  findings,
  headline,
  isLeader,
  lacksRemark,
  lag,
  repairRemark,
  scrubRemark,
} from './health';
import type { Cluster, ClusterNode, Drain, Scrub, Store } from './types';

const node = (id: number, extra: Partial<ClusterNode> = {}) =>
  ({
    id,
    name: `node-${id}`,
    status: 'up',
    roles: ['gateway'],
    voter: true,
    applied_index: 100,
    bytes: 10,
    capacity_bytes: 100,
    ...extra,
  }) as ClusterNode;

const cluster = (extra: Partial<Cluster> = {}): Cluster => ({
  cluster_id: 'c',
  self: 1,
  leader: 1,
  term: 1,
  voters: [1, 2, 3],
  layout_epoch: 1,
  under_replicated_blocks: 0,
  nodes: [node(1), node(2), node(3)],
  repair: { queued_blocks: 0, bytes_per_second: 0, eta_seconds: null, waiting_for: null },
  jobs: { queued: 0, running: 0 },
  ...extra,
});

describe('headline', () => {
  it('says when all is well', () => {
    expect(headline(cluster())).toMatchObject({ tone: 'good', title: 'All 3 nodes are healthy' });
  });

  it('puts the missing leader before everything else', () => {
    const sick = cluster({
      leader: null,
      under_replicated_blocks: 5,
      nodes: [node(1), node(2, { status: 'down' }), node(3, { status: 'dead' })],
    });
    expect(headline(sick).title).toBe('No leader');
    expect(findings(sick).map((finding) => finding.title)).toEqual([
      'No leader',
      '2 nodes not answering',
      '5 blocks with too few copies',
    ]);
  });

  it('does not call planned work a problem', () => {
    const planned = cluster({ nodes: [node(1), node(2, { status: 'maintenance' }), node(3)] });
    expect(headline(planned).tone).toBe('good');
    expect(findings(planned)).toHaveLength(1);
  });
});

describe('a drain', () => {
  const drain: Drain = {
    groups: 0,
    copies_missing: 0,
    leads: false,
    votes: false,
    jobs: 0,
    uploads: 0,
    stuck: null,
    waiting_for: [],
  };
  const found = (extra: Partial<Drain>) =>
    findings(
      cluster({ nodes: [node(1), node(2, { status: 'draining', drain: { ...drain, ...extra } })] }),
    )[0];

  it('names all that is left', () => {
    const left = { groups: 512, copies_missing: 1, leads: true, votes: true, jobs: 2, uploads: 1 };
    expect(drainItems({ ...drain, ...left })).toEqual([
      '512 groups of blocks',
      '1 copy',
      'leadership',
      'vote',
      '2 jobs',
      '1 upload',
    ]);
    expect(found({ votes: true, waiting_for: ['it has a vote'] })).toMatchObject({
      tone: 'quiet',
      detail: 'Left to hand over: vote.',
    });
    expect(found({ waiting_for: ['node 1 has to look once more'] })?.detail).toContain('Others look');
  });

  it('asks for help when it goes no further by itself', () => {
    expect(found({ groups: 1024, stuck: 'add a node first', waiting_for: ['add a node first'] })).toEqual({
      tone: 'warn',
      title: 'node-2 cannot hand over its blocks',
      detail: 'Add a node first.',
    });
  });

  it('says when the node can be removed', () => {
    expect(found({})).toMatchObject({ tone: 'quiet', title: 'node-2 can be removed' });
  });
});

describe('findings', () => {
  it('says what repair waits for, or how long it takes', () => {
    const repair = {
      queued_blocks: 5,
      bytes_per_second: 0,
      eta_seconds: null,
      waiting_for: 'node-2 may come back',
    };
    const waiting = cluster({ under_replicated_blocks: 5, repair });
    expect(findings(waiting)[0]?.detail).toBe('Waiting: node-2 may come back.');
    const working = { ...waiting, repair: { ...repair, bytes_per_second: 1e6, eta_seconds: 75 } };
    expect(findings(working)[0]?.detail).toBe('New copies are being made; about 1 min left.');
  });

  it('does not promise copies that only a node which is down can take', () => {
    const short = { under_replicated_blocks: 5, repair: { ...cluster().repair, queued_blocks: 5 } };
    expect(findings(cluster(short))[0]?.detail).toBe('New copies will be made shortly.');
    expect(repairRemark(cluster(short))).toBe('to be made shortly');
    const down = cluster({ ...short, nodes: [node(1), node(2), node(3, { status: 'down' })] });
    expect(findings(down)[1]?.detail).toBe('New copies will be made when node-3 is back.');
    expect(repairRemark(down)).toBe('when node-3 is back');
  });

  it('says that there is nothing to repair only when nothing is queued', () => {
    expect(repairRemark(cluster())).toBe('nothing to repair');
    const queued = { ...cluster().repair, queued_blocks: 3 };
    expect(repairRemark(cluster({ repair: { ...queued, waiting_for: 'no space' } }))).toBe(
      'waiting: no space',
    );
    expect(repairRemark(cluster({ repair: queued }))).not.toBe('nothing to repair');
  });

  it('warns of full disks', () => {
    const full = cluster({ nodes: [node(1, { bytes: 86 }), node(2, { bytes: 96 }), node(3)] });
    expect(findings(full).map((finding) => finding.tone)).toEqual(['bad', 'warn']);
  });
});

describe('findings of the node that answers', () => {
  it('shows what the page does not say itself, with what to do', () => {
    const finding = (code: string, severity: 'critical' | 'warning' | 'notice') => ({
      severity,
      code,
      node: null,
      summary: 'node 2 has a clock that is 7.0 s off',
      remedy: 'Let chrony keep the clocks.',
    });
    const sick = cluster({ findings: [finding('no_leader', 'critical'), finding('clock_skew', 'critical')] });
    expect(findings(sick)).toEqual([
      { tone: 'bad', title: 'Node 2 has a clock that is 7.0 s off', detail: 'Let chrony keep the clocks.' },
    ]);
  });
});

describe('facts of a node', () => {
  it('compares ids as text', () => {
    expect(isLeader(node(1), cluster({ leader: '1' }))).toBe(true);
    expect(isLeader(node(1), cluster({ leader: null }))).toBe(false);
  });
  it('measures lag against the most advanced node', () => {
    const behind = node(3, { applied_index: 40 });
    expect(lag(behind, cluster({ nodes: [node(1), behind] }))).toBe(60);
  });
  it('does not guess a capacity', () => {
    expect(diskUse(node(1, { capacity_bytes: null }))).toBeNull();
    expect(diskUse(node(1, { capacity_bytes: 0 }))).toBeNull();
  });
});

describe('the store', () => {
  const store = (extra: Partial<Store> = {}): Store => ({
    groups: 1024,
    missing_blocks: 0,
    quarantined_blocks: 0,
    repair_waiting_for: null,
    refuses_blocks: false,
    surplus_blocks: 0,
    scrub: null,
    ...extra,
  });
  const scrubbed = (scrub: Partial<Scrub>) =>
    node(1, {
      store: store({
        scrub: { running: false, progress: 0, age_seconds: null, damaged_blocks: 0, ...scrub },
      }),
    });

  it('says what the last count found', () => {
    expect(countedRemark(null)).toEqual(['–', 'copies not counted yet']);
    const counted = { seconds_ago: 90, copies: 12, lacking: 0, unknown: 0 };
    expect(countedRemark(counted)[0]).toBe('12');
    expect(countedRemark(counted)[1]).toMatch(/^copies, all found .+ ago$/);
    expect(countedRemark({ ...counted, lacking: 2, unknown: 1 })[1]).toMatch(/^of 12 copies found/);
    expect(countedRemark({ ...counted, seconds_ago: 0 })[1]).toMatch(/just now$/);
  });

  it('is as old as its oldest scrub', () => {
    expect(scrubRemark([node(1)])[0]).toBe('–');
    expect(scrubRemark([scrubbed({ age_seconds: 5 }), scrubbed({})])[0]).toBe('not yet');
    const [, remark] = scrubRemark([scrubbed({ running: true, progress: 0.5, damaged_blocks: 2 })]);
    expect(remark).toBe('reading all blocks, 50 %; 2 were bad');
  });

  it('does not guess what a node lacks', () => {
    expect(lacksRemark(store({ missing_blocks: null }))).toBe('?');
    expect(lacksRemark(store({ missing_blocks: 3, quarantined_blocks: 1 }))).toBe('3, 1 bad');
  });
});
