/** Conversations on the real engine; the template is one of our own, because the story model has none. */
import { ChatSession, type Context, type Model, loadModel } from '../../lib';
import { failure, readAll, readSome, removeVariants, storyModel, storyVariant } from '../generate/fixture';

const template =
  '{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}';

let model: Model;
let context: Context;
beforeAll(async () => {
  model = await loadModel(storyVariant({ 'chat_template.jinja': template }), { precision: 'exact' });
});
beforeEach(async () => {
  context = await model.createContext({ contextSize: 256, sequences: 2 });
});
afterEach(() => context.dispose());
afterAll(async () => {
  await model.dispose();
  removeVariants();
});

const options = { maxTokens: 8 };

test('a turn is the template plus a generation, and enters the history', async () => {
  const chat = new ChatSession(context, { systemPrompt: 'Tell stories.' });
  expect(chat.history).toEqual([{ role: 'system', content: 'Tell stories.' }]);
  const pieces: string[] = [];
  const answer = await chat.prompt('Hello', { ...options, onText: (piece) => pieces.push(piece) });
  expect(pieces.join('')).toBe(answer);
  expect(chat.history.slice(1)).toEqual([
    { role: 'user', content: 'Hello' },
    { role: 'assistant', content: answer },
  ]);
  const plain = await readAll(context.generate('system: Tell stories.\nuser: Hello\nassistant:', { ...options, sequence: 1 }));
  expect(answer).toBe(plain.items.join(''));
  expect(chat.lastResult?.tokens).toEqual(plain.result.tokens);
});

test('the second turn reuses the first, and answers as a fresh context would', async () => {
  const chat = new ChatSession(context);
  await chat.prompt('Hello', options);
  const before = chat.history;
  const answer = await chat.prompt('And then?', options);
  expect(chat.lastResult?.timing.reusedTokens).toBeGreaterThan(10);
  const other = new ChatSession(context, { history: before, sequence: 1 });
  expect(await other.prompt('And then?', options)).toBe(answer);
  expect(other.lastResult?.timing.reusedTokens).toBe(0);
});

test('stream yields the answer; leaving early or an abort changes no history', async () => {
  const chat = new ChatSession(context);
  const streamed = await readAll(chat.stream('Hello', options));
  expect(streamed.items.join('')).toBe(chat.history[1]?.content);
  const before = chat.history;
  await readSome(chat.stream('More', options), 2);
  expect(chat.history).toBe(before);
  const abort = new AbortController();
  expect((await failure(() => chat.prompt('More', { ...options, signal: abort.signal, onText: () => abort.abort() }))).code).toBe(
    'CANCELLED',
  );
  expect(chat.history).toBe(before);
  const broken = chat.prompt('More', {
    ...options,
    onText: () => {
      throw new RangeError('mine');
    },
  });
  await expect(broken).rejects.toThrow('mine');
  expect(chat.history).toBe(before);
  expect(await chat.prompt('More', options)).toBe(await new ChatSession(context, { history: before, sequence: 1 }).prompt('More', options));
});

test('reset keeps the system prompt only', async () => {
  const chat = new ChatSession(context, { systemPrompt: 'S' });
  await chat.prompt('Hello', options);
  chat.reset();
  expect(chat.history).toEqual([{ role: 'system', content: 'S' }]);
  expect(chat.lastResult).toBeUndefined();
});

test('a conversation longer than the context is refused and changes nothing', async () => {
  const chat = new ChatSession(context);
  const { code, message } = await failure(() => chat.prompt('word '.repeat(300), options));
  expect(code).toBe('INVALID_ARGUMENT');
  expect(message).toMatch(/^The prompt has \d+ tokens but the context holds 256/);
  expect(chat.history).toEqual([]);
});

test('a model without template says what to do', async () => {
  const plain = await loadModel(storyModel);
  const { code, message } = await failure(async () => new ChatSession(await plain.createContext({ contextSize: 16 })));
  expect(code).toBe('UNSUPPORTED');
  expect(message).toContain('has no chat template, so it was not made for conversations: use context.generate()');
  await plain.dispose();
});

test.each([
  [{ system: 'x' }, 'Unknown option "system" for ChatSession. Known options: systemPrompt, history, sequence'],
  [{ systemPrompt: 3 }, 'Expected string for systemPrompt but received 3 of type number'],
  [{ sequence: 2 }, 'Expected integer between 0 and 1 for sequence but received 2 of type number'],
  [{ history: 'x' }, 'Expected array of messages for history but received "x" of type string'],
  [
    { history: [{ role: 'tool', content: '' }] },
    'Expected "system", "user" or "assistant" for history[0].role but received "tool" of type string',
  ],
  [
    {
      history: [
        { role: 'user', content: 'a' },
        { role: 'system', content: '' },
      ],
    },
    'Expected "user" or "assistant" for history[1].role but received "system" of type string',
  ],
  [{ history: [{ role: 'user' }] }, 'Expected string for history[0].content but received undefined'],
  [{ history: [null] }, 'Expected "system", "user" or "assistant" for history[0].role but received undefined'],
  [
    { systemPrompt: 'a', history: [{ role: 'system', content: 'b' }] },
    'Expected no system message because systemPrompt is given for history but received "b" of type string',
  ],
])('refuses %j', async (bad, message) => {
  expect(await failure(() => new ChatSession(context, bad as never))).toEqual({ code: 'INVALID_ARGUMENT', message });
});

test('arguments of a turn are checked', async () => {
  const chat = new ChatSession(context);
  expect((await failure(() => chat.stream(3 as never))).message).toBe('Expected string for text but received 3 of type number');
  expect((await failure(() => chat.prompt('a', { sequence: 0 } as never))).message).toContain('Unknown option "sequence" for prompt.');
  expect((await failure(() => chat.stream('a', { onText: () => {} } as never))).message).toContain('Unknown option "onText" for stream.');
  expect((await failure(() => new ChatSession({} as never))).message).toBe(
    'Expected Context from model.createContext() for context but received an instance of Object',
  );
});
