import { describe, expect, it } from 'vitest';
import { HeartbeatRecorder } from './heartbeat';

describe('HeartbeatRecorder', () => {
  const at = (atMs: number, droppedFrames = 0) =>
    ({ atMs, positionSeconds: atMs / 1000, state: 'playing', rendition: '720p', droppedFrames }) as const;

  it('reports stalls and dropped frames as differences', () => {
    const recorder = new HeartbeatRecorder('s', 1_000);
    recorder.started(1_400);
    recorder.stalled(2_000);
    recorder.resumed(2_250);
    recorder.record(at(3_000, 4));
    recorder.record(at(4_000, 5));
    const { session, events } = recorder.take() ?? { session: '', events: [] };
    expect(session).toBe('s');
    expect(events.map((event) => [event.stalls_ms, event.dropped_frames, event.startup_ms])).toEqual([
      [250, 4, 400],
      [0, 1, 400],
    ]);
    expect(recorder.take()).toBeNull();
  });

  it('divides a stall between the events that it spans', () => {
    const recorder = new HeartbeatRecorder('s', 0);
    recorder.started(0);
    recorder.stalled(1_000);
    recorder.record(at(1_600));
    recorder.resumed(2_000);
    recorder.record(at(3_000));
    expect(recorder.take()?.events.map((event) => event.stalls_ms)).toEqual([600, 400]);
  });

  it('does not count the wait for the first frame as a stall', () => {
    const recorder = new HeartbeatRecorder('s', 0);
    recorder.stalled(10);
    recorder.started(900);
    recorder.record(at(1_000));
    expect(recorder.take()?.events[0]).toMatchObject({ stalls_ms: 0, startup_ms: 900 });
  });

  it('keeps batches that could not be sent, and not more than its bound', () => {
    const recorder = new HeartbeatRecorder('s', 0);
    for (let i = 0; i < 50; i++) recorder.record(at(i));
    const lost = recorder.take();
    for (let i = 50; i < 80; i++) recorder.record(at(i));
    if (lost) recorder.putBack(lost);
    const events = recorder.take()?.events ?? [];
    expect(events).toHaveLength(60);
    expect(events[0]?.at_ms).toBe(20);
    expect(events.at(-1)?.at_ms).toBe(79);
  });
});
