/** Chat templates: the environment of transformers, and templates that fail. */
import path from 'node:path';
import { openCheckpoint } from '../../lib/checkpoint';
import type { Checkpoint } from '../../lib/checkpoint/types';
import { type ChatMessage, Tokenizer } from '../../lib/tokenizer';
import { strftime } from '../../lib/tokenizer/chat_template';
import { FIXTURES, errorOf } from '../checkpoint/support';

let tiny: Checkpoint;
beforeAll(async () => {
  tiny = await openCheckpoint(path.join(FIXTURES, 'tiny-stories'));
});

function render(
  chatTemplate: string,
  messages: readonly ChatMessage[] = [{ role: 'user', content: 'Hi' }],
  addGenerationPrompt?: boolean,
): string {
  return Tokenizer.fromCheckpoint({ ...tiny, chatTemplate }).applyChatTemplate(messages, { addGenerationPrompt });
}

test('messages, special tokens and the generation prompt', () => {
  const template =
    "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}]{{ m.content | trim }}{{ eos_token }}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}";
  expect(render(template, [{ role: 'user', content: ' Hi ' }])).toBe('<s>[user]Hi</s>[assistant]');
  expect(render(template, [{ role: 'user', content: 'Hi' }], false)).toBe('<s>[user]Hi</s>');
});

test('blocks are trimmed as transformers does', () => {
  expect(render('{% if true %}\n  {% for m in messages %}\n{{ m.content }}\n  {% endfor %}\n{% endif %}\n!')).toBe('Hi\n!');
});

test('tools and documents are none, unknown names are undefined', () => {
  expect(render('{{ tools is none }}{{ documents is none }}{{ tools is defined }}{{ custom is defined }}')).toBe('truetruetruefalse');
});

test('encodeChat adds no special tokens of its own', () => {
  const tokenizer = Tokenizer.fromCheckpoint({
    ...tiny,
    chatTemplate: '{{ bos_token }}{{ messages[0].content }}',
    tokenizerConfig: { ...tiny.tokenizerConfig, add_bos_token: true },
  });
  const ids = [...tokenizer.encodeChat([{ role: 'user', content: 'Hi' }])];
  expect(ids.filter((id) => id === tokenizer.bosId)).toHaveLength(1);
  expect(ids).toEqual([...tokenizer.encode('Hi')]);
});

test('a template may refuse', async () => {
  const error = await errorOf(() => render("{{ raise_exception('roles must alternate') }}"));
  expect(error.code).toBe('INVALID_ARGUMENT');
  expect(error.message).toContain('refuses these messages: roles must alternate');
});

test.each([
  ['{% for %}', 'cannot be read'],
  ['{{ messages | no_such_filter }}', 'fails on these messages'],
  ['{% for i in range(1000000000) %}x{% endfor %}', 'range() of 1000000000 numbers'],
])('%s is UNSUPPORTED', async (template, text) => {
  const error = await errorOf(() => render(template));
  expect(error.code).toBe('UNSUPPORTED');
  expect(error.message).toContain(text);
});

test('range counts as in Python', () => {
  expect(
    render('{{ range(3) | join(",") }} {{ range(1, 4) | join(",") }} {{ range(5, 0, -2) | join(",") }} {{ range(0) | join(",") }}!'),
  ).toBe('0,1,2 1,2,3 5,3,1 !');
});

test('no template', async () => {
  const tokenizer = Tokenizer.fromCheckpoint(tiny);
  expect(tokenizer.hasChatTemplate).toBe(false);
  const error = await errorOf(() => tokenizer.applyChatTemplate([{ role: 'user', content: 'Hi' }]));
  expect(error.code).toBe('UNSUPPORTED');
  expect(error.message).toContain('comes without a chat template');
});

test.each([
  ['a text', 'Hi', 'Expected array of {role, content} for messages but received "Hi" of type string'],
  ['a hole', [{ role: 'user', content: 'a' }, null], 'messages[1] but received null'],
  ['a missing content', [{ role: 'user' }], 'messages[0] but received {role: "user" of type string, content: undefined}'],
  ['a text as message', ['Hi'], 'messages[0] but received "Hi" of type string'],
])('messages: %s', async (_, messages, text) => {
  const error = await errorOf(() => render('x', messages as never));
  expect(error.code).toBe('INVALID_ARGUMENT');
  expect(error.message).toContain(text);
});

test('strftime speaks English whatever the locale', () => {
  const date = new Date(2024, 6, 4, 15, 5, 9); // a Thursday
  expect(strftime(date, '%d %b %Y|%B|%A|%a|%H:%M:%S|%I %p|%y|%m|%-d|%e|100%%|%Q')).toBe(
    '04 Jul 2024|July|Thursday|Thu|15:05:09|03 PM|24|07|4| 4|100%|%Q',
  );
  expect(render("{{ strftime_now('%Y') | length }}")).toBe('4');
});
