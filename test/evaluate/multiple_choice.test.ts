/** evaluate.multipleChoice against log-probabilities recomputed from evaluate.logits, with the tokens that lm-evaluation-harness would take. */
import { writeFileSync } from 'node:fs';
import path from 'node:path';
import { type Model, type MultipleChoiceItem, evaluate, loadModel } from '../../lib';
import { temporaryDirectory } from '../checkpoint/support';
import { failure, removeVariants, storyModel, storyText, storyVariant } from '../generate/fixture';

const scratch = temporaryDirectory();
let model: Model;
beforeAll(async () => {
  model = await loadModel(storyModel, { precision: 'exact' });
});
afterAll(async () => {
  await model.dispose();
  removeVariants();
});

const story = storyText.slice(0, 400);
const items: readonly MultipleChoiceItem[] = [
  {
    context: 'Once upon a time, there was a little',
    choices: ['girl named Molly.', 'stone', 'quantum field theory of everything'],
    answer: 0,
  },
  // The second choice begins with the first; the spaces at the end belong to the choices.
  { context: `${story}  `, choices: ['He', 'He was very', 'zzz'], answer: 'zzz' },
  { question: 'What did the girl see?', choices: ['A bird', 'Ärger 🙂', 'a'], answer: 'B' },
  { context: '', choices: ['Once upon a time', 'upon Once time a'], answer: 0 },
];

/** Encodes a pair as lm-evaluation-harness does: trailing spaces move, the whole is cut where the context alone ends. */
function pair(of: Model, context: string, continuation: string, bos: readonly number[]): readonly [number[], number[]] {
  const spaces = context.length - context.replace(/\s+$/, '').length;
  if (spaces > 0) {
    continuation = context.slice(-spaces) + continuation;
    context = context.slice(0, -spaces);
  }
  const encode = (text: string): number[] => [...bos, ...of.tokenizer.encode(text, { addSpecialTokens: false })];
  const before = encode(context);
  const after = encode(context + continuation).slice(before.length);
  return [before.length > 0 ? before : [of.tokenizer.bosId ?? (of.tokenizer.eosIds[0] as number)], after];
}

async function recomputed(of: Model, context: string, continuation: string, bos: readonly number[], most = Infinity): Promise<number> {
  const [before, after] = pair(of, context, continuation, bos);
  const cut = Math.max(0, before.length + after.length - 1 - most);
  const tokens = [...before, ...after].slice(cut);
  const logits = await evaluate.logits(of, tokens.slice(0, -1));
  let sum = 0;
  for (let i = tokens.length - after.length; i < tokens.length; i++) {
    const row = logits.subarray((i - 1) * of.vocabSize, i * of.vocabSize);
    const max = row.reduce((a, b) => Math.max(a, b));
    const log = Math.log(row.reduce((total, value) => total + Math.exp(value - max), 0));
    sum += (row[tokens[i] as number] as number) - max - log;
  }
  return sum;
}

const contextOf = ({ context, question }: MultipleChoiceItem): string => context ?? `Question: ${question}\nAnswer:`;
const argmax = (values: readonly number[]): number => values.indexOf(Math.max(...values));
/** f32 logits of some tens, whose sums run in another order when a row shares its step with others: a few 1e-6 per token. */
const tolerance = 1e-3;

test.each([
  ['with BOS', true, ' ', 'characters'],
  ['without BOS, by bytes', false, ' ', 'bytes'],
  ['another delimiter, by tokens', false, '', 'tokens'],
] as const)('log-probabilities, choices and both accuracies: %s', async (_, addBos, delimiter, normalization) => {
  const bos = addBos ? [model.tokenizer.bosId as number] : [];
  const expected: number[][] = [];
  for (const item of items) {
    const sums: number[] = [];
    for (const choice of item.choices) sums.push(await recomputed(model, contextOf(item), delimiter + choice, bos));
    expected.push(sums);
  }
  const seen: number[] = [];
  const found = await evaluate.multipleChoice(model, {
    items,
    addBos,
    delimiter,
    normalization,
    onProgress: ({ done, total, accuracy }) => seen.push(done, total, accuracy),
  });
  const answers = [0, 2, 1, 0];
  let right = 0;
  let rightNormalized = 0;
  for (const [i, item] of items.entries()) {
    const result = found.results[i] as (typeof found.results)[number];
    const lengths = item.choices.map((choice) =>
      normalization === 'tokens'
        ? pair(model, contextOf(item), delimiter + choice, bos)[1].length
        : normalization === 'bytes'
          ? Buffer.from(choice).length
          : Array.from(choice).length,
    );
    const sums = expected[i] as number[];
    for (const [c, sum] of sums.entries()) expect(Math.abs((result.logProbabilities[c] as number) - sum) <= tolerance).toBe(true);
    const normalized = argmax(sums.map((sum, c) => sum / (lengths[c] as number)));
    expect(result).toMatchObject({ answer: answers[i], chosen: argmax(sums), chosenNormalized: normalized });
    right += argmax(sums) === answers[i] ? 1 : 0;
    rightNormalized += normalized === answers[i] ? 1 : 0;
  }
  const error = (p: number): number => Math.sqrt((p * (1 - p)) / 3);
  expect(found).toMatchObject({
    items: 4,
    accuracy: right / 4,
    normalizedAccuracy: rightNormalized / 4,
    standardError: error(right / 4),
    normalizedStandardError: error(rightNormalized / 4),
    normalization,
    delimiter,
    addBos,
    truncated: 0,
  });
  expect(seen.slice(-3)).toEqual([4, 4, right / 4]);
});

test('from a file: JSON Lines, with empty lines, Windows line ends and other keys', async () => {
  const file = path.join(scratch, 'tasks.jsonl');
  writeFileSync(file, `\uFEFF${items.map((item) => JSON.stringify({ id: 'x', ...item })).join('\r\n\n')}\r\n`);
  const fromFile = await evaluate.multipleChoice(model, { file });
  expect({ ...fromFile, seconds: 0 }).toEqual({ ...(await evaluate.multipleChoice(model, { items })), seconds: 0 });
  expect((await evaluate.multipleChoice(model, { file, limit: 2 })).items).toBe(2);
});

test('what does not fit the context is cut at its beginning, and counted', async () => {
  const short = await loadModel(storyVariant({ 'config.json': { max_position_embeddings: 32 } }), { precision: 'exact' });
  const item = { context: story, choices: ['He was happy', 'x'], answer: 0 };
  const found = await evaluate.multipleChoice(short, { items: [item, { ...item, context: 'Once' }], addBos: false });
  expect(found.truncated).toBe(2);
  for (const [i, choice] of item.choices.entries()) {
    const sum = await recomputed(short, story, ` ${choice}`, [], 32);
    expect(Math.abs((found.results[0]?.logProbabilities[i] as number) - sum) <= tolerance).toBe(true);
  }
  const long = await failure(() => evaluate.multipleChoice(short, { items: [{ ...item, choices: [story, 'x'] }] }));
  expect(long).toMatchObject({ code: 'INVALID_ARGUMENT', message: expect.stringMatching(/^items\[0\]: .* tokens/) as string });
  await short.dispose();
});

describe('what is wrong is named', () => {
  const good = JSON.stringify(items[0]);
  test.each([
    ['{"context": "a"', /:3: the line is no JSON/],
    ['[]', /:3: expected an object/],
    ['{"choices": ["a", "b"], "answer": 0}', /:3: expected exactly one of the keys/],
    ['{"context": "a", "question": "b", "choices": ["a", "b"], "answer": 0}', /:3: expected exactly one of the keys/],
    ['{"context": 7, "choices": ["a", "b"], "answer": 0}', /:3: expected a string for "context"/],
    ['{"question": "a", "choices": ["a"], "answer": 0}', /:3: expected 2 to 1000 texts/],
    ['{"question": "a", "choices": ["a", ""], "answer": 0}', /:3: .*"choices"\[1\]/],
    ['{"question": "a", "choices": ["a", "b"], "answer": 2}', /:3: expected an index from 0 to 1/],
    ['{"question": "a", "choices": ["a", "b"], "answer": 0.5}', /:3: expected an index/],
    ['{"question": "a", "choices": ["a", "b"], "answer": "C"}', /:3: expected an index/],
    ['{"question": "a", "choices": ["a", "b"]}', /:3: expected an index.*undefined/],
  ])('%s', async (line, message) => {
    const file = path.join(scratch, 'bad.jsonl');
    writeFileSync(file, `${good}\n\n${line}\n`);
    const error = await failure(() => evaluate.multipleChoice(model, { file }));
    expect(error.code).toBe('INVALID_ARGUMENT');
    expect(error.message).toMatch(message);
    expect(error.message).toContain(file);
  });

  test('options', async () => {
    const call = (options: object) => failure(() => evaluate.multipleChoice(model, options));
    expect(await call({})).toMatchObject({ code: 'INVALID_ARGUMENT', message: expect.stringContaining('file and items') as string });
    expect(await call({ file: 'x', items })).toMatchObject({ code: 'INVALID_ARGUMENT' });
    expect(await call({ items: [] })).toMatchObject({ message: 'items: the list is empty' });
    expect(await call({ items: 'x' })).toMatchObject({ message: expect.stringContaining('for items') as string });
    expect(await call({ items, normalization: 'words' })).toMatchObject({ message: expect.stringContaining('"bytes"') as string });
    expect(await call({ items, limit: 0 })).toMatchObject({ code: 'INVALID_ARGUMENT' });
    expect(await call({ file: path.join(scratch, 'none') })).toMatchObject({
      code: 'IO',
      message: expect.stringContaining('no such file') as string,
    });
    writeFileSync(path.join(scratch, 'empty'), '\n');
    expect(await call({ file: path.join(scratch, 'empty') })).toMatchObject({
      message: expect.stringContaining('holds no questions') as string,
    });
    expect(await call({ items, signal: AbortSignal.abort() })).toMatchObject({ code: 'CANCELLED' });
    const controller = new AbortController();
    expect(await call({ items, signal: controller.signal, onProgress: () => controller.abort() })).toMatchObject({ code: 'CANCELLED' });
  });
});
