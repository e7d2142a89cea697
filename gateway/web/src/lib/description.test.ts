import { expect, it } from 'vitest';
import { splitDescription } from './description';

const shown = (text: string) => splitDescription(text).map((part) => `${part.kind}:${part.text}`);

it('finds links without the punctuation around them', () => {
  expect(shown('See https://example.org/a?b=1, then (http://x.y).')).toEqual([
    'text:See ',
    'link:https://example.org/a?b=1',
    'text:, then (',
    'link:http://x.y',
    'text:).',
  ]);
});

it('finds times, and nothing that only looks like one', () => {
  expect(shown('0:40 Blocks, 1:02:03 end, 12:345 and 1:2:3:4')).toEqual([
    'time:0:40',
    'text: Blocks, ',
    'time:1:02:03',
    'text: end, 12:345 and 1:2:3:4',
  ]);
});

it('never makes links of other schemes, and loses no character', () => {
  const text = 'javascript:alert(1) <b>x</b>\n';
  expect(splitDescription(text)).toEqual([{ kind: 'text', text }]);
});
