/** Life cycle: every method of Model and Context while idle, running and disposed; loading and its options. */
import { type Context, type Model, evaluate, loadModel } from '../../lib';
import { failure, prompt, readAll, readSome, removeVariants, storyModel, storyText, storyVariant } from './fixture';

afterAll(removeVariants);

const modelDisposed = { code: 'DISPOSED', message: 'The model was disposed; load it again with loadModel()' };
const contextDisposed = { code: 'DISPOSED', message: 'The context was disposed; create a new one with model.createContext()' };

describe('loadModel', () => {
  test.each([
    [{ threads: 0 }, 'Expected integer between 1 and 256 for threads but received 0 of type number'],
    [{ threads: -1 }, 'Expected integer between 1 and 256 for threads but received -1 of type number'],
    [{ threads: 1.5 }, 'Expected integer between 1 and 256 for threads but received 1.5 of type number'],
    [{ threads: 2 ** 32 }, 'Expected integer between 1 and 256 for threads but received 4294967296 of type number'],
    [{ threads: '2' }, 'Expected integer between 1 and 256 for threads but received "2" of type string'],
    [{ precision: 'f32' }, 'Expected one of "fast", "exact" for precision but received "f32" of type string'],
    [{ onLoadProgress: 1 }, 'Expected function for onLoadProgress but received 1 of type number'],
    [{ signal: {} }, 'Expected AbortSignal for signal but received an instance of Object'],
    [
      { thread: 1 },
      'Unknown option "thread" for loadModel. Did you mean "threads"? Known options: threads, precision, lmHeadBits, packedCache, hub, onLoadProgress, signal',
    ],
    [3, 'Expected object for the options of loadModel but received 3 of type number'],
  ])('refuses %j', async (options, message) => {
    expect(await failure(() => loadModel(storyModel, options as never))).toEqual({ code: 'INVALID_ARGUMENT', message });
  });

  test.each([[undefined], [''], [3]])('refuses the path %p', async (path) => {
    expect((await failure(() => loadModel(path as never))).message).toMatch(/^Expected non-empty path for path but received /);
  });

  test('a path that does not exist is IO', async () => {
    expect((await failure(() => loadModel('./no-such-model'))).code).toBe('IO');
  });

  test('an aborted signal', async () => {
    expect(await failure(() => loadModel(storyModel, { signal: AbortSignal.abort() }))).toEqual({
      code: 'CANCELLED',
      message: 'The operation was aborted',
    });
  });

  test('tells what it loaded, and reports progress up to 1', async () => {
    const fractions: number[] = [];
    const model = await loadModel(storyModel, { threads: 1, onLoadProgress: (fraction) => fractions.push(fraction) });
    expect(model.architecture).toBe('llama');
    expect([model.vocabSize, model.contextLength]).toEqual([512, 1024]);
    expect(model.info).toMatchObject({ path: storyModel, architecture: 'llama', bitsPerWeight: 16, precision: 'fast', threads: 1 });
    expect(model.info.storedBytes).toBe(model.info.parameters * 2);
    expect(model.info.weightBytes).toBeGreaterThan(0);
    expect(fractions.at(-1)).toBe(1);
    expect([...fractions].sort((a, b) => a - b)).toEqual(fractions);
    await model.dispose();
  });

  test('what a progress callback throws is what loadModel throws', async () => {
    const onLoadProgress = (): void => {
      throw new RangeError('mine');
    };
    await expect(loadModel(storyModel, { onLoadProgress })).rejects.toThrow('mine');
  });
});

describe('createContext', () => {
  let model: Model;
  beforeAll(async () => {
    model = await loadModel(storyModel);
  });
  afterAll(() => model.dispose());

  const contextSize = 'integer between 1 and 1024 for contextSize';
  const sequences = 'integer between 1 and 256 for sequences';
  test.each([
    [{ contextSize: 0 }, `Expected ${contextSize} but received 0 of type number`],
    [{ contextSize: -5 }, `Expected ${contextSize} but received -5 of type number`],
    [{ contextSize: 1025 }, `Expected ${contextSize} but received 1025 of type number`],
    [{ contextSize: 2 ** 32 }, `Expected ${contextSize} but received 4294967296 of type number`],
    [{ contextSize: 8.5 }, `Expected ${contextSize} but received 8.5 of type number`],
    [{ contextSize: '8' }, `Expected ${contextSize} but received "8" of type string`],
    [{ sequences: 0 }, `Expected ${sequences} but received 0 of type number`],
    [{ sequences: 2 ** 32 }, `Expected ${sequences} but received 4294967296 of type number`],
    [{ kvCache: 'f16' }, 'Expected object for kvCache but received "f16" of type string'],
    [{ kvCache: { key: 'q8' } }, 'Expected one of "f16", "f32" for key but received "q8" of type string'],
  ])('refuses %j', async (options, message) => {
    expect(await failure(() => model.createContext(options as never))).toEqual({ code: 'INVALID_ARGUMENT', message });
  });

  test('keys and values of different types are not supported', async () => {
    expect(await failure(() => model.createContext({ kvCache: { key: 'f16', value: 'f32' } }))).toEqual({
      code: 'UNSUPPORTED',
      message:
        'Keys and values of different types are not supported: received key "f16" and value "f32" for kvCache; use the same for both',
    });
  });

  test('defaults', async () => {
    const context = await model.createContext();
    expect([context.contextSize, context.sequences, context.kvCache, context.disposed]).toEqual([
      1024,
      1,
      { key: 'f16', value: 'f16' },
      false,
    ]);
    await context.dispose();
    const exact = await loadModel(storyModel, { precision: 'exact' });
    expect((await exact.createContext({ contextSize: 8 })).kvCache).toEqual({ key: 'f32', value: 'f32' });
    expect((await exact.createContext({ contextSize: 8, kvCache: { value: 'f16' } })).kvCache).toEqual({ key: 'f16', value: 'f16' });
    await exact.dispose();
  });

  test('sequence numbers are checked', async () => {
    const context = await model.createContext({ contextSize: 8, sequences: 2 });
    for (const bad of [-1, 2, 0.5, 2 ** 32, '0']) {
      expect((await failure(() => context.tokens(bad as number))).message).toMatch(
        /^Expected integer between 0 and 1 for sequence but received /,
      );
      expect((await failure(() => context.generate('a', { sequence: bad as number }))).message).toMatch(
        /^Expected integer between 0 and 1 for sequence but received /,
      );
    }
    await context.dispose();
  });
});

test('a checkpoint without tokenizer runs on token ids', async () => {
  const { rmSync } = await import('node:fs');
  const variant = storyVariant({});
  rmSync(`${variant}/tokenizer.json`);
  const model = await loadModel(variant);
  const context = await model.createContext({ contextSize: 16 });
  expect((await readAll(context.generateTokens([1, 2, 3], { maxTokens: 2 }))).items.length).toBe(2);
  const { code, message } = await failure(() => context.generate('text'));
  expect(code).toBe('UNSUPPORTED');
  expect(message).toContain('has no tokenizer.json');
  await model.dispose();
});

/** Every method, with what it gives on a usable object. */
const methods: readonly [string, (model: Model, context: Context) => unknown][] = [
  ['context.generate', (_model, context) => readSome(context.generate('a', { maxTokens: 1 }), 1)],
  ['context.generateTokens', (_model, context) => readSome(context.generateTokens([5], { maxTokens: 1 }), 1)],
  ['context.tokens', (_model, context) => context.tokens()],
  ['context.reset', (_model, context) => context.reset()],
  ['model.createContext', async (model) => (await model.createContext({ contextSize: 4 })).dispose()],
  ['evaluate.logits', (model) => evaluate.logits(model, [1, 2])],
  ['evaluate.perplexity', (model) => evaluate.perplexity(model, { tokens: Array(16).fill(5), contextSize: 8 })],
];

describe.each(methods)('%s', (name, method) => {
  const onContext = name.startsWith('context.');

  async function setUp(): Promise<[Model, Context]> {
    const model = await loadModel(storyModel);
    return [model, await model.createContext({ contextSize: 64 })];
  }

  test('idle', async () => {
    const [model, context] = await setUp();
    await method(model, context);
    await model.dispose();
  });

  test('while the context generates', async () => {
    const [model, context] = await setUp();
    const running = context.generateTokens(prompt, { maxTokens: 8, ignoreEos: true });
    await running.next();
    const pending = running.next(); // a native step is under way
    if (onContext && name !== 'context.tokens') expect((await failure(() => method(model, context))).code).toBe('INVALID_ARGUMENT');
    else await method(model, context);
    expect((await pending).done).toBe(false);
    expect((await readAll(running)).items.length).toBe(6); // nothing was disturbed
    await model.dispose();
  });

  test('with the context disposed', async () => {
    const [model, context] = await setUp();
    await context.dispose();
    if (onContext) expect(await failure(() => method(model, context))).toEqual(contextDisposed);
    else await method(model, context);
    await model.dispose();
  });

  test('with the model disposed', async () => {
    const [model, context] = await setUp();
    await model.dispose();
    expect(await failure(() => method(model, context))).toEqual(modelDisposed);
  });
});

describe('dispose', () => {
  test('is idempotent, and disposing the model disposes its contexts', async () => {
    const model = await loadModel(storyModel);
    const context = await model.createContext({ contextSize: 16 });
    await Promise.all([context.dispose(), context.dispose(), model.dispose(), model.dispose()]);
    await model.dispose();
    expect([model.disposed, context.disposed]).toEqual([true, true]);
  });

  test('waits for the running step; the generation ends with DISPOSED', async () => {
    const model = await loadModel(storyModel);
    const context = await model.createContext({ contextSize: 1024 });
    const ids = model.tokenizer.encode(storyText).slice(0, 900);
    const running = readAll(context.generateTokens(ids, { maxTokens: 4 }));
    const ended = failure(() => running);
    await new Promise(setImmediate);
    await context.dispose();
    expect(await ended).toEqual(contextDisposed);
    await model.dispose();
  });

  test('of the model while a context is made', async () => {
    const model = await loadModel(storyModel);
    const creation = failure(() => model.createContext());
    await model.dispose();
    expect(await creation).toEqual(modelDisposed);
  });

  test('of the model during an evaluation', async () => {
    const model = await loadModel(storyModel);
    let disposal: Promise<void> | undefined;
    const onProgress = (): void => {
      disposal ??= model.dispose();
    };
    expect(await failure(() => evaluate.perplexity(model, { text: storyText, contextSize: 256, onProgress }))).toEqual(modelDisposed);
    await disposal;
  });

  test('is what `await using` calls', async () => {
    const model = await loadModel(storyModel);
    const context = await model.createContext({ contextSize: 8 });
    await context[Symbol.asyncDispose]();
    await model[Symbol.asyncDispose]();
    expect([context.disposed, model.disposed]).toEqual([true, true]);
  });
});
