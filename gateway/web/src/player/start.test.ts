import { describe, expect, it } from 'vitest';
import { startPosition } from './start';

describe('startPosition', () => {
  const input = {
    requested: null,
    remembered: null,
    playableSeconds: 100,
    durationSeconds: 100,
    growing: false,
  };

  it('begins at the start, also while the video grows', () => {
    expect(startPosition(input)).toBe(0);
    expect(startPosition({ ...input, growing: true })).toBe(0);
  });
  it('prefers the link to the memory', () => {
    expect(startPosition({ ...input, requested: 30, remembered: 60 })).toBe(30);
  });
  it('resumes, but not in the first seconds or at the end', () => {
    expect(startPosition({ ...input, remembered: 60 })).toBe(60);
    expect(startPosition({ ...input, remembered: 5 })).toBe(0);
    expect(startPosition({ ...input, remembered: 95 })).toBe(0);
  });
  it('stays behind the frontier', () => {
    expect(startPosition({ ...input, requested: 90, playableSeconds: 20, growing: true })).toBe(16);
    expect(startPosition({ ...input, requested: 90, playableSeconds: 2, growing: true })).toBe(0);
    expect(startPosition({ ...input, requested: 500 })).toBe(99);
  });
});
