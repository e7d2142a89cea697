/**
 * The time, for ages like "3 minutes ago". One timer for all of them.
 */
const TICK_MS = 20_000;

let now = $state(Date.now());
setInterval(() => (now = Date.now()), TICK_MS);

export const wallClock = {
  get nowMs(): number {
    return now;
  },
};
