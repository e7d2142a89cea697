/**
 * Durations of scripted transitions, none for people who asked for less motion.
 */
const reduced = matchMedia('(prefers-reduced-motion: reduce)');

export function calm(milliseconds: number): { duration: number } {
  return { duration: reduced.matches ? 0 : milliseconds };
}
