/**
 * What a viewer experienced, gathered for the server. Pure: fed with facts, hands out batches.
 *
 * Stalls and dropped frames are differences since the event before, so that the server can add events up in any grouping and a
 * lost batch loses only its own share.
 */
import type { Heartbeat, HeartbeatEvent, PlaybackState } from '../lib/types';

/** Events kept while no node takes them; the oldest go first. Ten minutes of regular ones. */
const EVENTS_MAX = 60;

export interface Snapshot {
  atMs: number;
  positionSeconds: number;
  state: PlaybackState;
  rendition: string | null;
  /** Frames dropped since playback began. */
  droppedFrames: number;
}

export class HeartbeatRecorder {
  readonly #session: string;
  readonly #openedAtMs: number;
  #events: HeartbeatEvent[] = [];
  #stalledSinceMs: number | null = null;
  #stallsMs = 0;
  #startupMs: number | null = null;
  #droppedBefore = 0;

  constructor(session: string, openedAtMs: number) {
    this.#session = session;
    this.#openedAtMs = openedAtMs;
  }

  /** The first frame is on screen. Only the first call counts. */
  started(atMs: number): void {
    this.#startupMs ??= Math.round(atMs - this.#openedAtMs);
  }

  stalled(atMs: number): void {
    // Waiting for the very first frame is start-up, not a stall.
    if (this.#startupMs !== null) this.#stalledSinceMs ??= atMs;
  }

  resumed(atMs: number): void {
    this.#takeStall(atMs);
    this.#stalledSinceMs = null;
  }

  get startupMs(): number | null {
    return this.#startupMs;
  }

  record(snapshot: Snapshot): void {
    this.#takeStall(snapshot.atMs);
    this.#events.push({
      at_ms: Math.round(snapshot.atMs),
      position_seconds: Math.round(snapshot.positionSeconds * 1000) / 1000,
      state: snapshot.state,
      rendition: snapshot.rendition,
      stalls_ms: Math.round(this.#stallsMs),
      startup_ms: this.#startupMs,
      dropped_frames: Math.max(0, snapshot.droppedFrames - this.#droppedBefore),
    });
    this.#stallsMs = 0;
    this.#droppedBefore = snapshot.droppedFrames;
    if (this.#events.length > EVENTS_MAX) this.#events = this.#events.slice(-EVENTS_MAX);
  }

  /** What is to be sent, or null when there is nothing. The events count as sent until `putBack`. */
  take(): Heartbeat | null {
    if (this.#events.length === 0) return null;
    const events = this.#events;
    this.#events = [];
    return { session: this.#session, events };
  }

  /** No node took the batch: keep it for the next one. */
  putBack(heartbeat: Heartbeat): void {
    this.#events = [...heartbeat.events, ...this.#events].slice(-EVENTS_MAX);
  }

  #takeStall(atMs: number): void {
    if (this.#stalledSinceMs === null) return;
    this.#stallsMs += atMs - this.#stalledSinceMs;
    this.#stalledSinceMs = atMs;
  }
}
