/**
 * The list of videos, kept while the app runs so that coming back from a video finds it as it was.
 */
import { getVideo, listVideos } from './api';
import { inWords } from './problems';
import type { Video } from './types';
import { appendPage, isStale, mergeFirstPage, PosterWait } from './video';

/** While something is being uploaded or processed, its card should move. */
const REFRESH_BUSY_MS = 2_000;
/** Otherwise only new videos are to be found. */
const REFRESH_IDLE_MS = 15_000;
/** Unfinished videos beyond the first page that are refreshed one by one. */
const STRAGGLERS_MAX = 8;

type Phase = 'loading' | 'shown' | 'failed';

class Library {
  items = $state.raw<Video[]>([]);
  query = $state('');
  phase = $state<Phase>('loading');
  error = $state<string | null>(null);
  next = $state<string | null>(null);
  loadingMore = $state(false);
  moreError = $state<string | null>(null);
  #abort: AbortController | null = null;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #open = false;
  readonly #posters = new PosterWait();

  /** Shows the videos that match; an unchanged query keeps what is shown and only refreshes it. */
  async search(query: string): Promise<void> {
    if (query === this.query && this.phase === 'shown') return this.refresh();
    this.#abort?.abort();
    const abort = (this.#abort = new AbortController());
    this.query = query;
    if (this.items.length === 0) this.phase = 'loading';
    this.error = null;
    try {
      const page = await listVideos({ q: query }, abort.signal);
      this.items = page.items;
      this.next = page.next;
      this.moreError = null;
      this.phase = 'shown';
    } catch (reason) {
      if (abort.signal.aborted) return;
      this.error = inWords(reason);
      this.phase = 'failed';
    }
  }

  async loadMore(): Promise<void> {
    if (this.loadingMore || this.next === null) return;
    this.loadingMore = true;
    this.moreError = null;
    const { query } = this;
    try {
      const page = await listVideos({ q: query, cursor: this.next });
      if (query === this.query) {
        this.items = appendPage(this.items, page.items);
        this.next = page.next;
      }
    } catch (reason) {
      this.moreError = inWords(reason);
    } finally {
      this.loadingMore = false;
    }
  }

  /** Brings the first page and all unfinished videos up to date; what is shown stays when that fails. */
  async refresh(): Promise<void> {
    const { query } = this;
    try {
      const page = await listVideos({ q: query });
      if (query !== this.query) return;
      const merged = mergeFirstPage(
        this.items,
        page.items.map((video) => this.#newer(video)),
        page.next === null,
      );
      if (this.items.length <= page.items.length) this.next = page.next;
      this.items = merged;
      this.error = null;
      this.phase = 'shown';
      const fresh = new Set(page.items.map((video) => video.id));
      const stragglers = merged.filter((video) => this.#isMoving(video) && !fresh.has(video.id));
      await Promise.all(stragglers.slice(0, STRAGGLERS_MAX).map((video) => this.#refreshOne(video.id)));
    } catch (reason) {
      if (this.items.length === 0) {
        this.error = inWords(reason);
        this.phase = 'failed';
      }
    }
  }

  /** Starts refreshing; returns how to stop. */
  open(): () => void {
    this.#open = true;
    this.#schedule();
    const onVisible = () => {
      if (!document.hidden) void this.refresh().then(() => this.#schedule());
    };
    document.addEventListener('visibilitychange', onVisible);
    return () => {
      this.#open = false;
      clearTimeout(this.#timer);
      document.removeEventListener('visibilitychange', onVisible);
    };
  }

  #schedule(): void {
    clearTimeout(this.#timer);
    if (!this.#open || document.hidden) return;
    const busy = this.items.some((video) => this.#isMoving(video));
    this.#timer = setTimeout(
      () => void this.refresh().then(() => this.#schedule()),
      busy ? REFRESH_BUSY_MS : REFRESH_IDLE_MS,
    );
  }

  #isMoving(video: Video): boolean {
    return this.#posters.isOpen(video, performance.now());
  }

  #newer(video: Video): Video {
    const known = this.items.find((other) => other.id === video.id);
    return known && isStale(known, video) ? known : video;
  }

  async #refreshOne(id: string): Promise<void> {
    const video = await getVideo(id).catch(() => null);
    if (video) this.items = this.items.map((other) => (other.id === id ? this.#newer(video) : other));
  }
}

export const library = new Library();
