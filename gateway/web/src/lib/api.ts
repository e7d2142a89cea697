/**
 * The only place that speaks to the network.
 *
 * A request is a path; which node answers it is decided by `NodePool`. A node that is silent, broken or gone costs one attempt,
 * and the next node is asked within the same call. Every attempt has a deadline and their number is bounded.
 */
import { failed, pool, succeeded } from './gateways';
import { uploadsElsewhere, verdict } from './nodes';
import { ApiError } from './problems';
import type { Cluster, Heartbeat, Problem, Site, Video, VideoPage, Visibility } from './types';

/** A node that has not answered a read within this is taken for dead; reads take milliseconds. */
const READ_DEADLINE_MS = 3_000;
/** A write waits for a majority; the server gives up after 5 s with a 503, which we want to see. */
const WRITE_DEADLINE_MS = 8_000;
/** A read that demands a log index may wait 5 s on the server. */
const INDEXED_READ_DEADLINE_MS = 6_500;
/** Nodes tried per call: enough to step over two dead ones. */
const ATTEMPTS_MAX = 3;
/** For this long after a write, reads demand at least its index. */
const READ_YOUR_WRITES_MS = 10_000;
/** Video pages are small; this bounds what one screen loads. */
const PAGE_SIZE = 24;

interface Call<T> {
  method?: 'GET' | 'POST' | 'PATCH' | 'DELETE';
  body?: unknown;
  signal?: AbortSignal | undefined;
  read: (response: Response, origin: string) => Promise<T> | T;
}

let lastWrite = { index: '', atMs: 0 };

async function send<T>(path: string, { method = 'GET', body, signal, read }: Call<T>): Promise<T> {
  const writes = method !== 'GET';
  let problem = new ApiError(0, {});
  for (const origin of pool.candidates().slice(0, ATTEMPTS_MAX)) {
    try {
      const response = await fetch(origin + path, request(origin, method, body, signal));
      if (response.ok) {
        const result = await read(response, origin);
        succeeded(origin);
        if (writes) noteWrite(response);
        return result;
      }
      problem = await problemOf(response);
    } catch (error) {
      if (signal?.aborted) throw error;
      problem = new ApiError(0, {});
    }
    const next = verdict(problem.status);
    if (next === 'answer') {
      succeeded(origin);
      throw problem;
    }
    // A 503 to a write says that this node sees no majority; it can still serve what it holds.
    if (next === 'down' && !(writes && problem.status === 503)) failed(origin);
  }
  throw problem;
}

function request(
  origin: string,
  method: string,
  body: unknown,
  signal: AbortSignal | undefined,
): RequestInit {
  const headers: Record<string, string> = {};
  if (body !== undefined) headers['Content-Type'] = 'application/json';
  let deadlineMs = method === 'GET' ? READ_DEADLINE_MS : WRITE_DEADLINE_MS;
  // Only at the page's own node: to another, the header would cost a preflight request for each read.
  const recent = Date.now() - lastWrite.atMs < READ_YOUR_WRITES_MS;
  if (method === 'GET' && recent && lastWrite.index && origin === pool.home) {
    headers['Reelraft-Min-Index'] = lastWrite.index;
    deadlineMs = INDEXED_READ_DEADLINE_MS;
  }
  const deadline = AbortSignal.timeout(deadlineMs);
  return {
    method,
    headers,
    body: body === undefined ? null : JSON.stringify(body),
    signal: signal ? AbortSignal.any([signal, deadline]) : deadline,
    cache: 'no-store',
  };
}

function noteWrite(response: Response): void {
  const index = response.headers.get('Reelraft-Index');
  if (index) lastWrite = { index, atMs: Date.now() };
}

async function problemOf(response: Response): Promise<ApiError> {
  const retryAfter = Number(response.headers.get('Retry-After'));
  const problem = (await response.json().catch(() => ({}))) as Problem;
  return new ApiError(response.status, problem, retryAfter > 0 ? retryAfter : null);
}

const json = <T>(response: Response) => response.json() as Promise<T>;
const video = (id: string) => `/api/v1/videos/${encodeURIComponent(id)}`;

export function getSite(): Promise<Site> {
  return send('/api/v1/site', { read: json<Site> });
}

export interface ListQuery {
  q?: string;
  cursor?: string | null;
  limit?: number;
}

export function listVideos(query: ListQuery = {}, signal?: AbortSignal): Promise<VideoPage> {
  const params = new URLSearchParams({ limit: String(query.limit ?? PAGE_SIZE) });
  if (query.q) params.set('q', query.q);
  if (query.cursor) params.set('cursor', query.cursor);
  return send(`/api/v1/videos?${params}`, { signal, read: json<VideoPage> });
}

export function getVideo(id: string, signal?: AbortSignal): Promise<Video> {
  return send(video(id), { signal, read: json<Video> });
}

/** The video that an upload under way is becoming, or null while the server has not created it. */
export async function findUpload(uploadKey: string): Promise<Video | null> {
  const page = await send(`/api/v1/videos?upload_key=${encodeURIComponent(uploadKey)}`, {
    read: json<VideoPage>,
  });
  return page.items[0] ?? null;
}

export type VideoChanges = Partial<Pick<Video, 'title' | 'description' | 'visibility'>>;

export function updateVideo(id: string, changes: VideoChanges): Promise<Video> {
  return send(video(id), { method: 'PATCH', body: changes, read: json<Video> });
}

export function deleteVideo(id: string): Promise<void> {
  return send(video(id), { method: 'DELETE', read: () => undefined });
}

/** The cluster, and the node that said so. */
export function getCluster(): Promise<{ cluster: Cluster; answeredBy: string }> {
  return send('/api/v1/cluster', {
    read: async (response, origin) => ({ cluster: await json<Cluster>(response), answeredBy: origin }),
  });
}

/** Asks one node whether it can serve again, and tells the pool. */
export async function probe(origin: string): Promise<void> {
  try {
    const response = await fetch(`${origin}/readyz`, {
      signal: AbortSignal.timeout(READ_DEADLINE_MS),
      cache: 'no-store',
    });
    if (response.ok) succeeded(origin);
    else failed(origin);
  } catch {
    failed(origin);
  }
}

export function sendHeartbeat(id: string, heartbeat: Heartbeat): Promise<void> {
  return send(`${video(id)}/heartbeat`, { method: 'POST', body: heartbeat, read: () => undefined });
}

/** The last words of a page that is going away: no answer can be waited for. */
export function sendLastHeartbeat(id: string, heartbeat: Heartbeat): void {
  const url = `${pool.current}${video(id)}/heartbeat`;
  const type = 'application/json';
  const body = JSON.stringify(heartbeat);
  if (pool.current === pool.home) {
    navigator.sendBeacon(url, new Blob([body], { type }));
  } else {
    // Beacons carry credentials, which an answer open to every origin may not be given to.
    fetch(url, { method: 'POST', body, headers: { 'Content-Type': type }, keepalive: true }).catch(
      () => undefined,
    );
  }
}

export interface VideoStream {
  close(): void;
}

export interface VideoStreamHandlers {
  onVideo: (video: Video) => void;
  /** Nothing follows. */
  onDeleted: () => void;
  /** Called once; the stream is closed by then. */
  onLost: () => void;
}

/** Server-sent events of one video at the node in use. */
export function streamVideo(id: string, handlers: VideoStreamHandlers): VideoStream {
  const origin = pool.current;
  const source = new EventSource(`${origin}${video(id)}/events`);
  source.addEventListener('video', (event: MessageEvent<string>) => {
    succeeded(origin);
    handlers.onVideo(JSON.parse(event.data) as Video);
  });
  source.addEventListener('deleted', () => {
    source.close();
    handlers.onDeleted();
  });
  source.addEventListener('error', () => {
    // The browser would come back to the same node; we may know a better one.
    source.close();
    handlers.onLost();
  });
  return source;
}

export interface Upload {
  file: File;
  title: string;
  visibility: Visibility;
  contentType: string;
  /** Lets `findUpload` see the video before the last byte has arrived. */
  uploadKey: string;
  onProgress: (sentBytes: number) => void;
  signal: AbortSignal;
}

/**
 * Sends a file in one request. XMLHttpRequest, because fetch tells nothing about bytes sent. Not retried here: the caller
 * decides, since all bytes have to go again.
 */
export function uploadVideo(upload: Upload): Promise<Video> {
  const { file, signal } = upload;
  const origin = pool.current;
  const params = new URLSearchParams({ title: upload.title, visibility: upload.visibility });
  return new Promise<Video>((resolve, reject) => {
    const xhr = new XMLHttpRequest();
    const cancel = () => xhr.abort();
    const finish = (settle: () => void) => {
      signal.removeEventListener('abort', cancel);
      settle();
    };
    xhr.open('POST', `${origin}/api/v1/videos?${params}`);
    xhr.setRequestHeader('Content-Type', upload.contentType);
    xhr.setRequestHeader('Reelraft-Upload-Key', upload.uploadKey);
    xhr.upload.addEventListener('progress', (event) => upload.onProgress(event.loaded));
    xhr.addEventListener('load', () => {
      const body = parse(xhr.responseText);
      if (xhr.status >= 200 && xhr.status < 300 && body !== null) {
        succeeded(origin);
        const index = xhr.getResponseHeader('Reelraft-Index');
        if (index) lastWrite = { index, atMs: Date.now() };
        finish(() => resolve(body as Video));
      } else {
        const retryAfter = Number(xhr.getResponseHeader('Retry-After'));
        const problem = (body ?? {}) as Problem;
        const error = new ApiError(xhr.status, problem, retryAfter > 0 ? retryAfter : null);
        // Whoever repeats it shall do so at another node.
        if (uploadsElsewhere(error.status, error.code)) failed(origin);
        finish(() => reject(error));
      }
    });
    xhr.addEventListener('error', () => {
      failed(origin);
      finish(() =>
        reject(new ApiError(0, { detail: 'The connection to the node was lost during the upload.' })),
      );
    });
    xhr.addEventListener('abort', () => finish(() => reject(new DOMException('Cancelled', 'AbortError'))));
    signal.addEventListener('abort', cancel);
    xhr.send(file);
  });
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}
