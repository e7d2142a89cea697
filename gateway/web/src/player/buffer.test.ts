import { describe, expect, it } from 'vitest';
import { aheadOf } from './buffer';

describe('aheadOf', () => {
  const ranges = (...pairs: [number, number][]) => ({
    length: pairs.length,
    start: (i: number) => pairs[i]?.[0] ?? NaN,
    end: (i: number) => pairs[i]?.[1] ?? NaN,
  });
  it('joins ranges over tiny holes only', () => {
    expect(aheadOf(ranges([0, 10], [10.1, 20], [25, 30]), 4)).toBe(16);
    expect(aheadOf(ranges([25, 30]), 4)).toBe(0);
    expect(aheadOf(ranges(), 4)).toBe(0);
  });
});
