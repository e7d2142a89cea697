/**
 * Keys of the player. Pure: from a key to what it means.
 */
export type Action =
  | { do: 'toggle-play' }
  | { do: 'seek-by'; seconds: number }
  | { do: 'seek-to'; fraction: number }
  | { do: 'step'; frames: 1 | -1 }
  | { do: 'volume-by'; step: number }
  | { do: 'speed-by'; steps: 1 | -1 }
  | { do: 'toggle-mute' }
  | { do: 'toggle-fullscreen' }
  | { do: 'toggle-theatre' }
  | { do: 'toggle-captions' }
  | { do: 'toggle-pip' }
  | { do: 'toggle-stats' }
  | { do: 'help' };

export interface Key {
  key: string;
  shiftKey: boolean;
  ctrlKey: boolean;
  altKey: boolean;
  metaKey: boolean;
}

const KEYS: Record<string, Action> = {
  ' ': { do: 'toggle-play' },
  k: { do: 'toggle-play' },
  j: { do: 'seek-by', seconds: -10 },
  l: { do: 'seek-by', seconds: 10 },
  ArrowLeft: { do: 'seek-by', seconds: -5 },
  ArrowRight: { do: 'seek-by', seconds: 5 },
  ArrowUp: { do: 'volume-by', step: 0.05 },
  ArrowDown: { do: 'volume-by', step: -0.05 },
  Home: { do: 'seek-to', fraction: 0 },
  End: { do: 'seek-to', fraction: 1 },
  ',': { do: 'step', frames: -1 },
  '.': { do: 'step', frames: 1 },
  '<': { do: 'speed-by', steps: -1 },
  '>': { do: 'speed-by', steps: 1 },
  m: { do: 'toggle-mute' },
  f: { do: 'toggle-fullscreen' },
  t: { do: 'toggle-theatre' },
  c: { do: 'toggle-captions' },
  i: { do: 'toggle-pip' },
  s: { do: 'toggle-stats' },
  '?': { do: 'help' },
};

/** What a key means, or null when it is not ours. Chords belong to the browser. */
export function actionFor({ key, ctrlKey, altKey, metaKey }: Key): Action | null {
  if (ctrlKey || altKey || metaKey) return null;
  if (/^[0-9]$/.test(key)) return { do: 'seek-to', fraction: Number(key) / 10 };
  return KEYS[key] ?? KEYS[key.toLowerCase()] ?? null;
}

/** For the help, in the order in which people look for them. */
export const HELP: readonly (readonly [keys: readonly string[], meaning: string])[] = [
  [['Space', 'K'], 'Play or pause'],
  [['J', 'L'], 'Back or forward 10 s'],
  [['←', '→'], 'Back or forward 5 s'],
  [[',', '.'], 'One frame back or forward'],
  [['0', '…', '9'], 'Jump to 0 % … 90 %'],
  [['Home', 'End'], 'Jump to the start or the end'],
  [['↑', '↓'], 'Louder or quieter'],
  [['M'], 'Sound on or off'],
  [['<', '>'], 'Slower or faster'],
  [['F'], 'Full screen'],
  [['T'], 'Theatre: wider on the page'],
  [['I'], 'Picture in picture'],
  [['C'], 'Captions'],
  [['S'], 'Statistics'],
  [['?'], 'This help'],
];

export const SPEEDS: readonly number[] = [0.25, 0.5, 0.75, 1, 1.25, 1.5, 1.75, 2];

/** The next speed in a direction; stays at the ends. */
export function stepSpeed(current: number, steps: 1 | -1): number {
  const ordered = steps > 0 ? SPEEDS : SPEEDS.toReversed();
  const next = ordered.find((speed) => (steps > 0 ? speed > current + 0.001 : speed < current - 0.001));
  return next ?? current;
}
