/** Generations at the border: the binding refuses what memory safety forbids, whatever lib/ does, and goes on working. */
import type { LowbitError } from '../../lib/errors';
import {
  type ContextHandle,
  type GenerationEnd,
  type GenerationHandle,
  type GenerationSpec,
  native,
  toLowbitError,
} from '../../lib/native';
import { specOf, withContext, withModel } from './fixtures';

const sample = { temperature: 0, topK: 0, topP: 1, minP: 0, repeatPenalty: 1, repeatLastN: 64, seed: 1n };
const spec: GenerationSpec = {
  sequence: 0,
  keep: 0,
  prompt: Int32Array.of(5, 6, 7),
  sample,
  maxTokens: 4,
  stopTokens: new Int32Array(0),
};

async function failure(call: () => unknown): Promise<LowbitError> {
  try {
    await call();
  } catch (reason) {
    return toLowbitError(reason);
  }
  throw new Error('the call succeeded');
}

/** Starts, and reads until the generation says that it is over. */
function start(context: ContextHandle, changes: Partial<GenerationSpec> = {}) {
  const tokens: number[] = [];
  let over: (finish: unknown) => void = () => {};
  const finished = new Promise<unknown>((resolve) => (over = resolve));
  const handle: GenerationHandle = native().startGeneration(context, { ...spec, ...changes }, (news, finish) => {
    tokens.push(...news);
    if (finish === undefined) native().readGeneration(handle, tokens.length);
    else over(finish);
  });
  return { handle, tokens, finished };
}

const withTwo = async (use: (context: ContextHandle) => Promise<void>): Promise<void> =>
  withModel(await specOf('tiny-stories', 'fast'), async (model) => {
    const context = await native().createContext(model, { contextSize: 32, sequences: 2, kvType: 'f16' });
    await use(context);
    await native().disposeContext(context);
  });

test('bad specs and handles are refused, and nothing is left behind', async () => {
  await withModel(await specOf('tiny-stories', 'exact'), (model) =>
    withContext(model, 8, 'f32', async (context) => {
      const bad: [unknown, string][] = [
        [7, 'spec'],
        [{ ...spec, sequence: 1 }, 'sequence'],
        [{ ...spec, sequence: -1 }, 'spec.sequence'],
        [{ ...spec, keep: 1 }, 'keep'],
        [{ ...spec, keep: -1 }, 'spec.keep'],
        [{ ...spec, prompt: [1] }, 'spec.prompt'],
        [{ ...spec, prompt: new Int32Array(0) }, 'at least one token'],
        [{ ...spec, prompt: new Int32Array(9) }, 'Context overflow'],
        [{ ...spec, prompt: Int32Array.of(512) }, 'vocabulary'],
        [{ ...spec, sample: undefined }, 'spec.sample'],
        [{ ...spec, sample: { ...sample, topP: NaN } }, 'topP'],
        [{ ...spec, maxTokens: 0 }, 'maxTokens'],
        [{ ...spec, maxTokens: 2 ** 31 }, 'maxTokens'],
        [{ ...spec, stopTokens: undefined }, 'stopTokens'],
        [{ ...spec, promptLookup: { ngram: 0, maxTokens: 1 } }, 'ngram'],
        [{ ...spec, promptLookup: { ngram: 1, maxTokens: 1.5 } }, 'maxTokens'],
      ];
      for (const [one, text] of bad) {
        expect((await failure(() => native().startGeneration(context, one as GenerationSpec, () => {}))).message).toContain(text);
      }
      expect((await failure(() => native().startGeneration(context, spec, 3 as never))).message).toContain('function');
      expect((await failure(() => native().startGeneration(model as never, spec, () => {}))).message).toContain('context handle');
      for (const wrong of [undefined, {}, context, model]) {
        expect((await failure(() => native().readGeneration(wrong as never, 0))).message).toContain('generation handle');
        expect((await failure(() => native().endGeneration(wrong as never, 0))).message).toContain('generation handle');
      }
      const { handle, tokens, finished } = start(context);
      expect((await failure(() => native().readGeneration(handle, -1))).message).toContain('number of tokens');
      expect(await finished).toBe('length');
      expect(tokens.length).toBe(4);
      expect(await native().endGeneration(handle, 4)).toMatchObject({ length: 6, decoded: 3 });
      expect(native().sequenceLength(context, 0)).toBe(6);
    }),
  );
});

test('what may happen beside a generation and what may not', async () => {
  await withTwo(async (context) => {
    const binding = native();
    const { handle, finished } = start(context, { maxTokens: 20 });
    expect((await failure(() => binding.startGeneration(context, spec, () => {}))).message).toContain('Sequence 0 is generating');
    expect((await failure(() => binding.truncate(context, 0, 0))).message).toContain('Sequence 0 is generating');
    expect((await failure(() => binding.sequenceLength(context, 0))).message).toContain('Sequence 0 is generating');
    expect((await failure(() => binding.step(context, { sequence: 1, tokens: spec.prompt }, {}))).message).toContain('are generating');
    binding.truncate(context, 1, 0);
    const second = start(context, { sequence: 1 });
    expect(await Promise.all([finished, second.finished])).toEqual(['length', 'length']);
    // over, but not ended: the tokens may still be wanted, or not
    expect((await failure(() => binding.truncate(context, 0, 0))).message).toContain('Sequence 0 is generating');
    const ends = await Promise.all([binding.endGeneration(handle, 2), binding.endGeneration(second.handle, 0)]);
    expect(ends.map(({ length }) => length)).toEqual([4, 3]);
    expect((await failure(() => binding.endGeneration(handle, 2))).message).toContain('ended before');
    binding.readGeneration(handle, 2); // too late, and harmless
    expect(binding.sequenceLength(context, 0)).toBe(4);
    const { token } = await binding.step(context, { sequence: 1, tokens: spec.prompt, sample }, {});
    expect(token).toBeGreaterThanOrEqual(0);
    const busy = binding.step(context, { sequence: 1, tokens: spec.prompt }, {});
    expect((await failure(() => binding.startGeneration(context, spec, () => {}))).message).toContain('step is running');
    await busy;
  });
});

test('disposing the context closes its generations, ended or not, and a callback that throws harms nobody', async () => {
  let end: Promise<GenerationEnd> | undefined;
  let handle: GenerationHandle | undefined;
  await withTwo(async (context) => {
    handle = start(context, { maxTokens: 25 }).handle;
    const thrower = native().startGeneration(context, { ...spec, sequence: 1, maxTokens: 25 }, () => {
      throw new RangeError('mine');
    });
    await new Promise(setImmediate);
    end = native().endGeneration(thrower, 1);
  });
  expect((await end!).length).toBeLessThanOrEqual(3);
  expect((await native().endGeneration(handle!, 1)).length).toBe(0);
});

test('keep and stop tokens', async () => {
  await withTwo(async (context) => {
    const first = start(context, { maxTokens: 8 });
    await first.finished;
    await native().endGeneration(first.handle, 8);
    const stop = first.tokens[5] as number;
    const at = first.tokens.indexOf(stop);
    const again = start(context, { keep: 2, prompt: Int32Array.of(7), maxTokens: 8, stopTokens: Int32Array.of(-5, stop) });
    expect(await again.finished).toBe('eos');
    expect(again.tokens).toEqual(first.tokens.slice(0, at));
    expect((await native().endGeneration(again.handle, at + 1)).length).toBe(3 + at);
  });
});
