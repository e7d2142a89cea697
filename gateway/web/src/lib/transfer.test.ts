import { describe, expect, it } from 'vitest';
import { contentType, randomKey, RateMeter, refusal, secondsLeft, titleFromName } from './transfer';

describe('RateMeter', () => {
  it('knows nothing at first', () => expect(new RateMeter(0).bytesPerSecond).toBe(0));

  it('finds a steady rate', () => {
    const meter = new RateMeter(0);
    for (let t = 250; t <= 5_000; t += 250) meter.sample(t, t * 2);
    expect(meter.bytesPerSecond).toBeCloseTo(2_000);
  });

  it('follows a change within a few half-lives, without jumping', () => {
    const meter = new RateMeter(0);
    meter.sample(1_000, 1_000_000);
    meter.sample(2_000, 1_100_000);
    expect(meter.bytesPerSecond).toBeGreaterThan(300_000);
    for (let t = 3; t <= 16; t++) meter.sample(t * 1_000, 1_100_000 + (t - 2) * 100_000);
    expect(meter.bytesPerSecond).toBeLessThan(115_000);
  });

  it('ignores events that come too close together', () => {
    const meter = new RateMeter(0);
    meter.sample(1_000, 1_000);
    meter.sample(1_001, 500_000);
    expect(meter.bytesPerSecond).toBe(1_000);
  });
});

describe('secondsLeft', () => {
  it('divides what is left by the rate', () => expect(secondsLeft(40, 100, 20)).toBe(3));
  it('cannot tell without a rate', () => expect(secondsLeft(0, 100, 0)).toBeNull());
});

describe('contentType', () => {
  it.each([
    ['a.mp4', 'video/mp4', 'video/mp4'],
    ['a.MKV', '', 'video/x-matroska'],
    ['a.ts', 'text/vnd.trolltech.linguist', 'video/mp2t'],
    ['a.tar.mov', '', 'video/quicktime'],
    ['noextension', '', 'application/octet-stream'],
    ['a.txt', 'text/plain', 'application/octet-stream'],
  ])('%s (%s) is sent as %s', (name, type, expected) => expect(contentType({ name, type })).toBe(expected));
});

describe('titleFromName', () => {
  it.each([
    ['My_holiday__2026.mp4', 'My holiday 2026'],
    ['v1.2 final.mov', 'v1.2 final'],
    ['.mp4', '.mp4'],
    ['plain', 'plain'],
  ])('%s becomes %s', (name, title) => expect(titleFromName(name)).toBe(title));
});

describe('refusal', () => {
  it('refuses what the server would refuse', () => {
    expect(refusal({ size: 0 }, null)).toEqual({ kind: 'empty' });
    expect(refusal({ size: 11 }, 10)).toEqual({ kind: 'too-large', limitBytes: 10 });
    expect(refusal({ size: 10 }, 10)).toBeNull();
  });
  it('leaves an unknown limit to the server', () => expect(refusal({ size: 1e15 }, null)).toBeNull());
});

describe('randomKey', () => {
  it('is 128 URL-safe bits, new each time', () => {
    expect(randomKey()).toMatch(/^[A-Za-z0-9_-]{22}$/);
    expect(randomKey()).not.toBe(randomKey());
  });
});
