import { describe, expect, it } from 'vitest';
import { age, bitrate, bytes, clock, percent, plural, span, views } from './format';

describe('bytes', () => {
  it.each([
    [0, '0 B'],
    [1023, '1023 B'],
    [1024, '1 KiB'],
    [1536, '1.5 KiB'],
    [10 * 1024 ** 2, '10 MiB'],
    [123.4 * 1024 ** 2, '123 MiB'],
    [1023.9 * 1024 ** 2, '1 GiB'],
    [1024 ** 3, '1 GiB'],
    [-5, '0 B'],
  ])('%d is %s', (count, text) => expect(bytes(count)).toBe(text));
});

describe('clock', () => {
  it.each([
    [0, '0:00'],
    [59.9, '0:59'],
    [61, '1:01'],
    [3599, '59:59'],
    [3723, '1:02:03'],
  ])('%d s is %s', (seconds, text) => expect(clock(seconds)).toBe(text));
});

describe('span', () => {
  it.each([
    [0.4, '0 s'],
    [59, '59 s'],
    [90, '2 min'],
    [3600, '1 h'],
    [7500, '2 h 5 min'],
  ])('%d s is %s', (seconds, text) => expect(span(seconds)).toBe(text));
});

describe('age', () => {
  const now = Date.parse('2026-11-20T12:00:00Z');
  it.each([
    ['2026-11-20T11:59:40Z', 'just now'],
    ['2026-11-20T12:00:30Z', 'just now'],
    ['2026-11-20T11:58:59Z', '1 minute ago'],
    ['2026-11-20T09:00:00Z', '3 hours ago'],
    ['2026-11-19T11:00:00Z', 'yesterday'],
    ['2026-10-11T12:00:00Z', 'last month'],
    ['2024-11-20T12:00:00Z', '2 years ago'],
  ])('%s is %s', (created, text) => expect(age(created, now)).toBe(text));
});

describe('small ones', () => {
  it('never calls unfinished things 100 %', () => {
    expect(percent(0.999)).toBe('99 %');
    expect(percent(1)).toBe('100 %');
    expect(percent(7)).toBe('100 %');
    expect(percent(-1)).toBe('0 %');
  });
  it('counts views', () => {
    expect(views(1)).toBe('1 view');
    expect(views(12_840)).toBe('12.8K views');
  });
  it('knows one from many', () => {
    expect(plural(1, 'node')).toBe('1 node');
    expect(plural(2, 'copy', 'copies')).toBe('2 copies');
  });
  it('writes bit rates', () => {
    expect(bitrate(4_200_000)).toBe('4.2 Mb/s');
    expect(bitrate(128_000)).toBe('128 kb/s');
  });
});
