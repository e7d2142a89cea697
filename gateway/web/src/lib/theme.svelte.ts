/**
 * Light, dark or as the system says. The colours themselves are `light-dark()` pairs in `app.css`; this only sets which side
 * counts, and remembers it.
 */
import { readJson, writeJson } from './storage';

export type Theme = 'system' | 'light' | 'dark';

const STORAGE_KEY = 'reelraft.theme';
const THEMES: readonly Theme[] = ['system', 'light', 'dark'];

const remembered = readJson<Theme>(STORAGE_KEY, 'system');
let chosen = $state<Theme>(THEMES.includes(remembered) ? remembered : 'system');

function apply(): void {
  document.documentElement.dataset.theme = chosen;
}

apply();

export const theme = {
  get chosen(): Theme {
    return chosen;
  },
  next(): void {
    chosen = THEMES[(THEMES.indexOf(chosen) + 1) % THEMES.length] ?? 'system';
    writeJson(STORAGE_KEY, chosen);
    apply();
  },
};
