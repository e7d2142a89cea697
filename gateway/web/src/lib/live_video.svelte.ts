/**
 * One video on a page: loaded, then kept up to date until nothing about it changes any more.
 */
import { getVideo } from './api';
import { followVideo } from './follow';
import { ApiError, inWords } from './problems';
import type { Video } from './types';
import { awaitsPoster, isSettled } from './video';

export class LiveVideo {
  video = $state.raw<Video | null>(null);
  problem = $state.raw<ApiError | null>(null);
  readonly #id: string;
  #stop: (() => void) | null = null;
  #closed = false;

  constructor(id: string) {
    this.#id = id;
  }

  /** Loads and follows; returns how to stop. May be called again after a problem. */
  start(): () => void {
    this.problem = null;
    this.#closed = false;
    void this.#load();
    return () => {
      this.#closed = true;
      this.#stop?.();
    };
  }

  async #load(): Promise<void> {
    try {
      const video = await getVideo(this.#id);
      if (this.#closed) return;
      this.video = video;
      if (isSettled(video) && !awaitsPoster(video)) return;
      this.#stop = followVideo(this.#id, {
        onVideo: (next) => (this.video = next),
        onGone: () => (this.problem = new ApiError(404, {})),
      });
    } catch (reason) {
      this.problem = reason instanceof ApiError ? reason : new ApiError(0, { detail: inWords(reason) });
    }
  }
}
