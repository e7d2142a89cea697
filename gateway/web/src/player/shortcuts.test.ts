import { describe, expect, it } from 'vitest';
import { actionFor, stepSpeed } from './shortcuts';

describe('actionFor', () => {
  const press = (key: string, extra = {}) =>
    actionFor({ key, shiftKey: false, ctrlKey: false, altKey: false, metaKey: false, ...extra });

  it('knows the keys', () => {
    expect(press('k')).toEqual({ do: 'toggle-play' });
    expect(press('K', { shiftKey: true })).toEqual({ do: 'toggle-play' });
    expect(press('>', { shiftKey: true })).toEqual({ do: 'speed-by', steps: 1 });
    expect(press('7')).toEqual({ do: 'seek-to', fraction: 0.7 });
    expect(press('?')).toEqual({ do: 'help' });
  });
  it('leaves chords and other keys alone', () => {
    expect(press('f', { ctrlKey: true })).toBeNull();
    expect(press('k', { metaKey: true })).toBeNull();
    expect(press('q')).toBeNull();
    expect(press('Tab')).toBeNull();
  });
});

describe('stepSpeed', () => {
  it('moves along the list and stays at its ends', () => {
    expect(stepSpeed(1, 1)).toBe(1.25);
    expect(stepSpeed(1, -1)).toBe(0.75);
    expect(stepSpeed(2, 1)).toBe(2);
    expect(stepSpeed(0.25, -1)).toBe(0.25);
    expect(stepSpeed(1.1, 1)).toBe(1.25);
  });
});
