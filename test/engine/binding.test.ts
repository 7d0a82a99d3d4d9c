/** The binding refuses what memory safety forbids, whatever lib/ does, and goes on working. */
import { type LowbitError } from '../../lib/errors';
import { type ContextHandle, type ModelHandle, type ModelSpec, type StepSpec, native, toLowbitError } from '../../lib/native';
import { specOf, withContext, withModel } from './fixtures';

const tokens = Int32Array.of(5, 6, 7);

/** The error of a call that throws or rejects. */
async function failure(call: () => unknown): Promise<LowbitError> {
  try {
    await call();
  } catch (reason) {
    return toLowbitError(reason);
  }
  throw new Error('the call succeeded');
}

async function expectWorking(context: ContextHandle): Promise<void> {
  native().truncate(context, 0, 0);
  const { token } = await native().step(context, { sequence: 0, tokens, sample: greedy }, {});
  expect(token).toBeGreaterThanOrEqual(0);
}

const greedy = { temperature: 0, topK: 0, topP: 1, minP: 0, repeatPenalty: 1, repeatLastN: 64, seed: 1n };

describe('loadModel', () => {
  let spec: ModelSpec;
  beforeAll(async () => {
    spec = await specOf('tiny-stories', 'exact');
  });

  const broken: [string, (spec: ModelSpec) => unknown, string][] = [
    ['no object', () => 7, 'spec'],
    ['files', (s) => ({ ...s, files: 'x' }), 'spec.files'],
    ['missing file', (s) => ({ ...s, files: ['/does/not/exist'] }), '/does/not/exist'],
    ['threads', (s) => ({ ...s, threads: 1e9 }), 'spec.threads'],
    ['precision', (s) => ({ ...s, precision: 'double' }), 'spec.precision'],
    ['offset', (s) => ({ ...s, tensors: s.tensors.map((t, i) => (i === 3 ? { ...t, offset: 2 ** 50 } : t)) }), 'reaches beyond the end'],
    ['negative offset', (s) => ({ ...s, tensors: s.tensors.map((t) => ({ ...t, offset: -1 })) }), 'spec.tensors[0].offset'],
    ['bytes', (s) => ({ ...s, tensors: s.tensors.map((t) => ({ ...t, bytes: t.bytes + 2 })) }), 'should have'],
    ['shape', (s) => ({ ...s, tensors: s.tensors.map((t) => ({ ...t, shape: t.shape.map(() => 2 ** 52) })) }), 'impossible'],
    ['dtype', (s) => ({ ...s, tensors: s.tensors.map((t) => ({ ...t, dtype: 'F7' })) }), 'F7'],
    [
      'weight source',
      (s) => ({ ...s, plan: { ...s.plan, weights: s.plan.weights.map((w) => ({ ...w, source: { kind: 'tensor', tensor: 4000 } })) } }),
      'not in the table',
    ],
    ['weight shape', (s) => ({ ...s, plan: { ...s.plan, weights: s.plan.weights.map((w) => ({ ...w, n: w.n * 2 })) } }), 'invalid'],
    ['op', (s) => ({ ...s, plan: { ...s.plan, ops: s.plan.ops.map((o) => ({ ...o, op: 'jump' })) } }), 'jump'],
    ['view', (s) => ({ ...s, plan: { ...s.plan, logits: { buffer: 0, offset: 0, width: 2 ** 30 } } }), 'logits'],
    ['vocabulary', (s) => ({ ...s, plan: { ...s.plan, vocabSize: 513 } }), 'invalid'],
  ];
  test.each(broken)('refuses a bad %s', async (_name, change, text) => {
    const error = await failure(() => native().loadModel(change(spec) as ModelSpec, {}));
    expect(error.message).toContain(text);
    expect(['INVALID_ARGUMENT', 'UNSUPPORTED', 'CORRUPT_FILE', 'IO']).toContain(error.code);
    await withModel(spec, async (model) => expect(native().modelInfo(model).parameters).toBeGreaterThan(800_000));
  });
});

describe('handles', () => {
  test('only the right kind is accepted', async () => {
    const model = await native().loadModel(await specOf('tiny-stories', 'exact'), {});
    const cancel = native().createCancel();
    for (const wrong of [undefined, null, 5, 'x', {}, [], cancel, new Map()]) {
      expect((await failure(() => native().modelInfo(wrong as ModelHandle))).message).toContain('model handle');
      expect((await failure(() => native().step(wrong as ContextHandle, { sequence: 0, tokens }, {}))).message).toContain('context handle');
    }
    expect((await failure(() => native().cancel(model as never))).message).toContain('cancel handle');
    await native().disposeModel(model);
  });

  test('a disposed model and context answer with an error, twice is fine, and order is enforced', async () => {
    const binding = native();
    const model = await binding.loadModel(await specOf('tiny-stories', 'fast'), {});
    const context = await binding.createContext(model, { contextSize: 16, sequences: 2, kvType: 'f16' });
    expect((await failure(() => binding.disposeModel(model))).message).toContain('1 contexts');
    const running = binding.step(context, { sequence: 0, tokens, sample: greedy }, {});
    expect((await failure(() => binding.truncate(context, 0, 0))).message).toContain('step is running');
    const disposed = binding.disposeContext(context);
    await running; // finishes first
    await disposed;
    await binding.disposeContext(context);
    expect((await failure(() => binding.step(context, { sequence: 0, tokens }, {}))).message).toContain('disposed');
    expect((await failure(() => binding.sequenceLength(context, 0))).message).toContain('disposed');
    await binding.disposeModel(model);
    await binding.disposeModel(model);
    expect((await failure(() => binding.modelInfo(model))).message).toContain('disposed');
    expect((await failure(() => binding.createContext(model, { contextSize: 16, sequences: 1, kvType: 'f16' }))).message).toContain(
      'disposed',
    );
  });

  test('memory goes back', async () => {
    const before = native().engineInfo().memory;
    await withModel(await specOf('tiny-stories', 'fast'), (model) =>
      withContext(model, 64, 'f16', async () => {
        expect(native().engineInfo().memory.weights).toBeGreaterThan(before.weights);
        expect(native().engineInfo().memory.kvCache).toBeGreaterThan(before.kvCache);
      }),
    );
    expect(native().engineInfo().memory).toEqual(before);
  });
});

describe('step', () => {
  test('bad specs are refused and leave the sequence as it was', async () => {
    await withModel(await specOf('tiny-stories', 'exact'), (model) =>
      withContext(model, 8, 'f32', async (context) => {
        const bad: [unknown, string][] = [
          [{ sequence: 0, tokens: new Int32Array(0) }, 'at least one token'],
          [{ sequence: 0, tokens: [1, 2] }, 'tokens'],
          [{ sequence: 0, tokens: new Float32Array(2) }, 'tokens'],
          [{ sequence: 1, tokens }, 'sequence'],
          [{ sequence: -1, tokens }, 'sequence'],
          [{ sequence: 0, tokens: Int32Array.of(512) }, 'vocabulary'],
          [{ sequence: 0, tokens: Int32Array.of(-1) }, 'vocabulary'],
          [{ sequence: 0, tokens: new Int32Array(9) }, 'Context overflow'],
          [{ sequence: 0, tokens, sample: { ...greedy, seed: 1 } }, 'seed'],
          [{ sequence: 0, tokens, sample: { ...greedy, topP: NaN } }, 'topP'],
          [{ sequence: 0, tokens, sample: { ...greedy, temperature: -1 } }, 'temperature'],
          [{ sequence: 0, tokens, logits: { from: 0, out: new Float32Array(3 * 512 - 1) } }, 'rows * vocabSize'],
          [{ sequence: 0, tokens, score: { from: 0, targets: tokens, out: new Float64Array(2) } }, 'out'],
          [{ sequence: 0, tokens, score: { from: 2, targets: tokens, out: new Float64Array(3) } }, 'rows to score'],
          [{ sequence: 0, tokens, score: { from: 0, targets: Int32Array.of(600), out: new Float64Array(1) } }, 'Target token 600'],
        ];
        await native().step(context, { sequence: 0, tokens }, {});
        for (const [spec, text] of bad) {
          expect((await failure(() => native().step(context, spec as StepSpec, {}))).message).toContain(text);
          expect(native().sequenceLength(context, 0)).toBe(3);
        }
        await expectWorking(context);
      }),
    );
  });

  test('a cancelled step leaves the sequence as it was', async () => {
    await withModel(await specOf('tiny-stories', 'exact'), (model) =>
      withContext(model, 1024, 'f32', async (context) => {
        await native().step(context, { sequence: 0, tokens }, {});
        const cancel = native().createCancel();
        const running = native().step(context, { sequence: 0, tokens: new Int32Array(1000).fill(9) }, { cancel });
        native().cancel(cancel);
        expect((await failure(() => running)).code).toBe('CANCELLED');
        expect(native().sequenceLength(context, 0)).toBe(3);
        await expectWorking(context);
      }),
    );
  });

  test('progress ends at its total', async () => {
    await withModel(await specOf('tiny-stories', 'exact'), (model) =>
      withContext(model, 1024, 'f32', async (context) => {
        const calls: number[] = [];
        await native().step(
          context,
          { sequence: 0, tokens: new Int32Array(1024).fill(9) },
          { onProgress: (done, total) => calls.push(done / total) },
        );
        expect(calls.at(-1)).toBe(1);
        await expectWorking(context);
      }),
    );
  });
});
