/**
 * Puts the levels of hls.js on the media element as `videoRenditions`, where media-chrome's quality menu finds them, and reports
 * what the viewer picks there.
 */
import type { Level } from 'hls.js';
import type { VideoRenditionList, VideoTrack } from 'media-tracks';

/** What `media-tracks/polyfill` adds to every media element. */
interface TrackedVideo extends HTMLVideoElement {
  videoRenditions: VideoRenditionList;
  addVideoTrack(kind: string): VideoTrack;
  removeVideoTrack(track: VideoTrack): void;
}

export class RenditionMenu {
  readonly #media: TrackedVideo;
  readonly #onChange: () => void;
  #track: VideoTrack | null = null;

  /** `choose` gets the level's index, or null for automatic. */
  constructor(media: HTMLVideoElement, choose: (index: number | null) => void) {
    this.#media = media as TrackedVideo;
    this.#onChange = () => {
      const index = this.#media.videoRenditions.selectedIndex;
      choose(index < 0 ? null : index);
    };
    this.#media.videoRenditions.addEventListener('change', this.#onChange);
  }

  show(levels: readonly Level[]): void {
    if (this.#track) this.#media.removeVideoTrack(this.#track);
    const track = this.#media.addVideoTrack('main');
    track.selected = true;
    for (const [index, level] of levels.entries()) {
      const rendition = track.addRendition(
        level.url[0] ?? '',
        level.width,
        level.height,
        level.videoCodec,
        level.bitrate,
        level.frameRate,
      );
      rendition.id = String(index);
    }
    this.#track = track;
  }

  destroy(): void {
    this.#media.videoRenditions.removeEventListener('change', this.#onChange);
  }
}
