/**
 * Errors of the API in words. The server's `detail` is written for people and comes first; these sentences are for the cases in
 * which no server answered, or for codes where the reader can do something.
 */
import type { Problem } from './types';

export class ApiError extends Error {
  override readonly name = 'ApiError';
  /** HTTP status; 0 when no node answered. */
  readonly status: number;
  /** Stable code, `unreachable` when no node answered. */
  readonly code: string;
  readonly requestId: string | null;
  /** Seconds that the server asked us to wait, if it did. */
  readonly retryAfterSeconds: number | null;

  constructor(status: number, problem: Problem, retryAfterSeconds: number | null = null) {
    super(sentence(status, problem));
    this.status = status;
    this.code = problem.code ?? (status === 0 ? 'unreachable' : `http_${status}`);
    this.requestId = problem.request_id ?? null;
    this.retryAfterSeconds = retryAfterSeconds;
  }

  /** Whether the same request may well succeed a little later. */
  get passing(): boolean {
    return this.status === 0 || this.status === 429 || this.status >= 500;
  }
}

function sentence(status: number, problem: Problem): string {
  if (problem.detail) return problem.detail;
  if (problem.title) return problem.title;
  if (status === 0) return 'No node of the cluster answers. Check your connection.';
  if (status === 404) return 'This does not exist, or not any more.';
  if (status === 413) return 'The file is larger than this site accepts.';
  if (status === 429) return 'Too many requests. Wait a moment.';
  if (status >= 500) return 'The cluster cannot do this right now.';
  return `The request was refused (${status}).`;
}

/** Any thrown value as a sentence. */
export function inWords(error: unknown): string {
  return error instanceof Error && error.message ? error.message : 'Something went wrong.';
}
