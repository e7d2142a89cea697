/**
 * A description as plain text, links and times. Pure; nothing in it is ever taken as markup.
 */
import { parseTimecode } from './timecode';

export type Part =
  | { kind: 'text'; text: string }
  | { kind: 'link'; text: string }
  | { kind: 'time'; text: string; seconds: number };

/** Web addresses without the punctuation that follows them in a sentence, and times like 1:20 or 1:02:03. */
const INTERESTING =
  /(https?:\/\/[^\s<>"']*[^\s<>"'.,;:!?)\]}])|(?<![\d:])((?:\d{1,2}:)?\d{1,2}:\d{2})(?![\d:])/g;

export function splitDescription(text: string): Part[] {
  const parts: Part[] = [];
  let from = 0;
  for (const match of text.matchAll(INTERESTING)) {
    if (match.index > from) parts.push({ kind: 'text', text: text.slice(from, match.index) });
    const [whole, link] = match;
    const seconds = link === undefined ? parseTimecode(whole) : null;
    if (link !== undefined) parts.push({ kind: 'link', text: link });
    else if (seconds !== null) parts.push({ kind: 'time', text: whole, seconds });
    else parts.push({ kind: 'text', text: whole });
    from = match.index + whole.length;
  }
  if (from < text.length) parts.push({ kind: 'text', text: text.slice(from) });
  return parts;
}
