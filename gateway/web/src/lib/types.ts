/**
 * What the HTTP API says, field by field. The names are the server's; `GET /api/openapi.json` is the authority.
 */

export type Visibility = 'public' | 'unlisted' | 'private';

export type VideoState = 'uploading' | 'processing' | 'ready' | 'failed';

export interface Rendition {
  name: string;
  kind: 'video' | 'audio';
  width: number | null;
  height: number | null;
  /** Bits per second. */
  bitrate: number;
  codecs: string | null;
  /** Seconds of this rendition that exist. */
  seconds: number;
}

export interface VideoError {
  code: string;
  detail: string;
}

/** Paths that are the same on every node, or null for what does not exist (yet). */
export interface VideoUrls {
  watch: string;
  embed: string;
  hls: string;
  dash: string;
  thumbnail: string | null;
  sprites: string | null;
  source: string | null;
}

export interface Video {
  id: string;
  title: string;
  description: string;
  visibility: Visibility;
  state: VideoState;
  /** The frontier: how many seconds from the start can be played now. */
  playable_seconds: number;
  /** 0 to 1. */
  progress: number;
  /** Null until the source has been probed. */
  duration_seconds: number | null;
  width: number | null;
  height: number | null;
  renditions: Rendition[];
  error: VideoError | null;
  views: number;
  /** RFC 3339. */
  created_at: string;
  urls: VideoUrls;
}

export interface VideoPage {
  items: Video[];
  /** Where the next page starts, or null after the last one. */
  next: string | null;
}

export interface Site {
  name: string;
  version: string;
  max_upload_bytes: number;
  anonymous_upload: boolean;
}

/** Ids are compared as strings: a number and its decimal form name the same node. */
export type NodeId = string | number;

export type NodeRole = 'store' | 'gateway' | 'transcoder';

export type NodeStatus = 'joining' | 'up' | 'suspect' | 'down' | 'dead' | 'draining' | 'maintenance';

export interface ClusterNode {
  id: NodeId;
  name: string;
  zone: string;
  roles: NodeRole[];
  status: NodeStatus;
  voter: boolean;
  http_url: string | null;
  rpc_addr: string;
  version: string;
  applied_index: number;
  blocks: number;
  bytes: number;
  /** Null or 0 where the node has not said. */
  capacity_bytes: number | null;
  last_seen_seconds: number | null;
  /** Only while it is being drained. */
  drain?: Drain;
  /** Null while it has not said anything of its blocks. */
  store?: Store | null;
}

/** How the blocks of a node are. */
export interface Store {
  /** Placement groups that the layout gives it. */
  groups: number;
  /** Blocks that it should hold and does not; null while that is not known. */
  missing_blocks: number | null;
  quarantined_blocks: number;
  repair_waiting_for: string | null;
  refuses_blocks: boolean;
  /** Copies that belong on other nodes by now; null while that is not known. */
  surplus_blocks: number | null;
  scrub: Scrub | null;
}

/** How a node reads all its blocks again to check them. */
export interface Scrub {
  running: boolean;
  /** Of the present cycle: 0 to 1. */
  progress: number;
  /** Since the last full cycle ended; null before the first. */
  age_seconds: number | null;
  damaged_blocks: number;
}

/** How the placement groups are. */
export interface Groups {
  settled: number;
  moving: number;
  releasing: number;
}

/** What is left of deleted videos. */
export interface Garbage {
  waiting_blocks: number;
  waiting_bytes: number;
  backlog_blocks: number;
}

/** A count of all copies, made by asking every node for every block that it should hold. */
export interface CopyCount {
  seconds_ago: number;
  copies: number;
  lacking: number;
  unknown: number;
}

/** What a node that is being drained has yet to hand over. */
export interface Drain {
  /** Placement groups that the layout gives it. */
  groups: number;
  /** Copies that other nodes have yet to make; null while that is not known. */
  copies_missing: number | null;
  leads: boolean;
  votes: boolean;
  jobs: number;
  uploads: number;
  /** Why its blocks are not moved, until somebody does something about it. */
  stuck: string | null;
  /** Why it cannot be removed yet, in sentences; empty when it can. */
  waiting_for: string[];
}

export interface Repair {
  queued_blocks: number;
  bytes_per_second: number;
  eta_seconds: number | null;
  waiting_for: string | null;
  /** Who paused it, if somebody did. */
  paused_by?: string | null;
  /** Null before the first count. */
  counted?: CopyCount | null;
}

export interface Jobs {
  queued: number;
  running: number;
}

export interface Cluster {
  cluster_id: string;
  /** The node that answers; null while it belongs to no cluster. */
  self: NodeId | null;
  leader: NodeId | null;
  term: number;
  voters: NodeId[];
  layout_epoch: number;
  under_replicated_blocks: number;
  nodes: ClusterNode[];
  repair: Repair;
  groups?: Groups;
  garbage?: Garbage;
  jobs: Jobs;
  /** What is wrong and what to do, the worst first. */
  findings?: ServerFinding[];
}

export interface ServerFinding {
  severity: 'critical' | 'warning' | 'notice';
  code: string;
  node: NodeId | null;
  summary: string;
  remedy: string;
}

/** RFC 9457, with the two members that every error of ours carries. */
export interface Problem {
  title?: string;
  status?: number;
  detail?: string;
  code?: string;
  request_id?: string;
}

export type PlaybackState = 'playing' | 'paused' | 'stalled' | 'ended';

export interface HeartbeatEvent {
  /** Milliseconds since the epoch, by the viewer's clock. */
  at_ms: number;
  position_seconds: number;
  state: PlaybackState;
  /** Name of the rendition on screen, for example `720p`, or null before the first frame. */
  rendition: string | null;
  /** Milliseconds of stall since the event before this one. */
  stalls_ms: number;
  /** Milliseconds from asking for the video to its first frame; null before it. */
  startup_ms: number | null;
  /** Frames dropped since the event before this one. */
  dropped_frames: number;
}

export interface Heartbeat {
  session: string;
  events: HeartbeatEvent[];
}
