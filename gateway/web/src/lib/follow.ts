/**
 * Keeps one video up to date until it will not change any more, its poster included.
 *
 * Events from the server make it prompt; a slow poll beside them makes it sure, because an event stream to a frozen node goes
 * silent without an error. Browsers open few connections to one host, so only some followers stream and the others just poll.
 */
import { getVideo, streamVideo, type VideoStream } from './api';
import { ApiError } from './problems';
import { awaitsPoster, isSettled, isStale, POSTER_WAIT_MS } from './video';
import type { Video } from './types';

/** Browsers allow six HTTP/1.1 connections per host; uploads and segments need the others. */
const STREAMS_MAX = 2;
const POLL_WITH_STREAM_MS = 10_000;
const POLL_ALONE_MS = 2_000;
const RECONNECT_MIN_MS = 500;
const RECONNECT_MAX_MS = 10_000;

let streams = 0;

export interface Follower {
  onVideo: (video: Video) => void;
  /** The video does not exist any more. Nothing follows. */
  onGone?: () => void;
}

/** Starts to follow; the returned function stops it. */
export function followVideo(id: string, { onVideo, onGone }: Follower): () => void {
  let stopped = false;
  let known: Video | null = null;
  let stream: VideoStream | null = null;
  let reconnectMs = RECONNECT_MIN_MS;
  let reconnectTimer: ReturnType<typeof setTimeout> | undefined;
  let pollTimer: ReturnType<typeof setTimeout> | undefined;
  let posterTimer: ReturnType<typeof setTimeout> | undefined;

  const stop = () => {
    if (stopped) return;
    stopped = true;
    clearTimeout(reconnectTimer);
    clearTimeout(pollTimer);
    clearTimeout(posterTimer);
    closeStream();
  };

  const closeStream = () => {
    if (!stream) return;
    stream.close();
    stream = null;
    streams -= 1;
  };

  const receive = (video: Video) => {
    if (stopped || (known && isStale(known, video))) return;
    known = video;
    onVideo(video);
    if (awaitsPoster(video)) posterTimer ??= setTimeout(stop, POSTER_WAIT_MS);
    else if (isSettled(video)) stop();
  };

  const gone = () => {
    stop();
    onGone?.();
  };

  const connect = () => {
    if (stopped || stream || streams >= STREAMS_MAX) return;
    streams += 1;
    stream = streamVideo(id, {
      onVideo: (video) => {
        reconnectMs = RECONNECT_MIN_MS;
        receive(video);
      },
      onDeleted: gone,
      onLost: () => {
        closeStream();
        // The poll finds out whether the node is gone, and moves to another.
        schedulePoll(0);
        reconnectTimer = setTimeout(connect, reconnectMs * (0.75 + Math.random() / 2));
        reconnectMs = Math.min(RECONNECT_MAX_MS, reconnectMs * 2);
      },
    });
  };

  const poll = async () => {
    try {
      receive(await getVideo(id));
    } catch (error) {
      if (error instanceof ApiError && error.status === 404) {
        gone();
      }
    }
    if (!stopped) {
      connect();
      schedulePoll(stream ? POLL_WITH_STREAM_MS : POLL_ALONE_MS);
    }
  };

  const schedulePoll = (afterMs: number) => {
    if (stopped) return;
    clearTimeout(pollTimer);
    pollTimer = setTimeout(() => void poll(), afterMs);
  };

  connect();
  schedulePoll(stream ? POLL_WITH_STREAM_MS : 0);
  return stop;
}
