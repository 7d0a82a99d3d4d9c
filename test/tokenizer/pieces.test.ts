/** How text is cut before merging, against the Rust original (test/fixtures/tokenizer/pieces.json). */
import fs from 'node:fs';
import path from 'node:path';
import { preTokenizer } from '../../lib/checkpoint/gguf_pretokenizers';
import { adaptTokenizerJson } from '../../lib/tokenizer/adapt';
import { createHfTokenizer } from '../../lib/tokenizer/vendor';
import { FIXTURES, errorOf } from '../checkpoint/support';

interface Fixture {
  readonly texts: readonly string[];
  readonly gguf: Readonly<Record<string, readonly (readonly string[])[]>>;
  readonly components: Readonly<Record<string, { readonly component: object; readonly pieces: readonly (readonly string[])[] }>>;
}
const fixture = JSON.parse(fs.readFileSync(path.join(FIXTURES, 'tokenizer', 'pieces.json'), 'utf8')) as Fixture;

function cut(component: unknown, text: string): string[] {
  const json = adaptTokenizerJson({ model: { type: 'BPE', vocab: { a: 0 }, merges: [] }, pre_tokenizer: component }, 'tokenizer.json');
  return createHfTokenizer(json, {}).pre_tokenizer?.(text, { section_index: 0 }) ?? [text];
}

const byteLevel = { type: 'ByteLevel', add_prefix_space: false, use_regex: false };

test.each(Object.keys(fixture.gguf))('GGUF pre-tokenizer %s', (name) => {
  const patterns = preTokenizer(name)?.patterns ?? [];
  expect(patterns).not.toHaveLength(0);
  const splits = patterns.map((Regex) => ({ type: 'Split', pattern: { Regex }, behavior: 'Isolated', invert: false }));
  expect(fixture.texts.map((text) => cut({ type: 'Sequence', pretokenizers: [...splits, byteLevel] }, text))).toEqual(fixture.gguf[name]);
});

test.each(Object.keys(fixture.components))('component %s', (name) => {
  const { component, pieces } = fixture.components[name] as Fixture['components'][string];
  expect(fixture.texts.map((text) => cut(component, text))).toEqual(pieces);
});

test.each([
  [{ type: 'UnicodeScripts' }, 'the pre-tokenizer "UnicodeScripts"'],
  [{ type: 'Split', pattern: { Regex: 'ab+' }, behavior: 'MergedWithNext' }, 'MergedWithNext'],
  [{ type: 'Split', pattern: { Regex: 'a' }, behavior: 'Contiguous', invert: true }, 'inverted'],
  [{ type: 'Sequence', pretokenizers: [{ type: 'BertPreTokenizer' }] }, 'BertPreTokenizer'],
])('refuses what it could only approximate: %j', async (component, text) => {
  const error = await errorOf(() => cut(component, 'x'));
  expect(error.code).toBe('UNSUPPORTED');
  expect(error.message).toContain(text);
});
