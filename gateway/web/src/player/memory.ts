/**
 * What the player remembers between visits: volume, speed, bandwidth, and where each video was left.
 */
import { readJson, writeJson } from '../lib/storage';

const SETTINGS_KEY = 'reelraft.player';
const POSITIONS_KEY = 'reelraft.positions';
/** Videos whose position is remembered; the ones watched longest ago are forgotten. */
const POSITIONS_MAX = 200;

export interface Settings {
  volume: number;
  muted: boolean;
  speed: number;
  /** Bits per second, the last good estimate: the next video starts in a fitting quality. */
  bandwidth: number | null;
}

const DEFAULTS: Settings = { volume: 1, muted: false, speed: 1, bandwidth: null };

export function loadSettings(): Settings {
  const stored = readJson<Partial<Settings>>(SETTINGS_KEY, {});
  const { volume, muted, speed, bandwidth } = { ...DEFAULTS, ...stored };
  return {
    volume: inRange(volume, 0, 1) ? volume : DEFAULTS.volume,
    muted: muted === true,
    speed: inRange(speed, 0.25, 2) ? speed : DEFAULTS.speed,
    bandwidth: inRange(bandwidth, 1, 1e10) ? bandwidth : null,
  };
}

export function saveSettings(changes: Partial<Settings>): void {
  writeJson(SETTINGS_KEY, { ...loadSettings(), ...changes });
}

function inRange(value: unknown, low: number, high: number): value is number {
  return typeof value === 'number' && value >= low && value <= high;
}

type Positions = [id: string, seconds: number][];

export function loadPosition(id: string): number | null {
  const found = loadPositions().find(([other]) => other === id);
  return found && inRange(found[1], 0, 1e6) ? found[1] : null;
}

/** Zero forgets it. */
export function savePosition(id: string, seconds: number): void {
  const others = loadPositions().filter(([other]) => other !== id);
  const kept = others.slice(0, POSITIONS_MAX - 1);
  writeJson(POSITIONS_KEY, seconds > 0 ? [[id, Math.floor(seconds)], ...kept] : others);
}

function loadPositions(): Positions {
  const stored = readJson<unknown>(POSITIONS_KEY, []);
  return Array.isArray(stored)
    ? stored.filter((entry): entry is Positions[number] => Array.isArray(entry))
    : [];
}
