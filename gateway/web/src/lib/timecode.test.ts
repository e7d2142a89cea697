import { describe, expect, it } from 'vitest';
import { parseTimecode, timeQuery } from './timecode';

describe('parseTimecode', () => {
  it.each([
    ['90', 90],
    ['1.5', 1.5],
    ['1:30', 90],
    ['1:02:03', 3723],
    ['1m30s', 90],
    ['2h', 7200],
    ['1h2m3s', 3723],
    ['45s', 45],
  ])('%s is %d s', (text, seconds) => expect(parseTimecode(text)).toBe(seconds));

  it.each([null, '', 'abc', '-5', '1:2:3:4', '9999999', '1e9', 's', '10 s'])('%s is not a time', (text) =>
    expect(parseTimecode(text)).toBeNull(),
  );
});

describe('timeQuery', () => {
  it('leaves the start out', () => expect(timeQuery(0.7)).toBe(''));
  it('rounds down', () => expect(timeQuery(90.9)).toBe('?t=90'));
});
