import { describe, expect, it } from 'vitest';
import { offersMore, rungName } from './ladder';

describe('offersMore', () => {
  const low = { width: 640, height: 360, bitrate: 9e5 };
  const high = { width: 1920, height: 1080, bitrate: 5e6 };
  it('wants new sizes', () => expect(offersMore([low], [low, high])).toBe(true));
  it('does not care for new numbers on the same picture', () => {
    expect(offersMore([low, high], [{ ...low, bitrate: 7e5 }, high])).toBe(false);
    expect(offersMore([low, high], [low])).toBe(false);
  });
  it('names rungs by the short side', () => {
    expect(rungName({ width: 1080, height: 1920 })).toBe('1080p');
    expect(rungName({ width: 0, height: 0 })).toBe('audio');
  });
});
