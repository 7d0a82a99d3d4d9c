/** Calibrations in little memory and in pieces: same bits as one that keeps everything in memory and runs through. */
import { type LowbitError } from '../../lib/errors';
import { type CalibrationHandle, type ModelHandle, type ModelSpec, type SolveOptions, native, toLowbitError } from '../../lib/native';
import { defaultSettings } from '../../lib/quantize/settings';
import { specOf, withModel } from './fixtures';

const samples = 3;
const length = 100;
const tokens = Int32Array.from({ length: samples * length }, (_, i) => (i * 31 + (i >> 3) * 7) % 500);
const offsets = Int32Array.from({ length: samples + 1 }, (_, i) => i * length);
const options: SolveOptions = {
  ...defaultSettings,
  method: 'gptq',
  groupSize: 32,
  blockSize: 128,
  minTokens: 1,
  zeroOffset: 1,
};

interface Run {
  readonly precision: 'exact' | 'fast';
  readonly stateBytes?: number;
  readonly firstBlock?: number;
  readonly states?: readonly Float32Array[];
}

async function withCalibration<T>(model: ModelHandle, run: Run, use: (calibration: CalibrationHandle) => Promise<T>): Promise<T> {
  const { precision, stateBytes = 2 ** 40, firstBlock = 0 } = run;
  const spec = { tokens, offsets, precision, tokenWeights: 'equal' as const, stateBytes, firstBlock };
  const calibration = await native().createCalibration(model, spec, {});
  try {
    return await use(calibration);
  } finally {
    await native().disposeCalibration(calibration);
  }
}

/** Codes and scales of every linear of the blocks, and the states at the end of the second block. */
async function solved(spec: ModelSpec, run: Run): Promise<{ codes: Map<number, string>; states: Float32Array[] }> {
  const codes = new Map<number, string>();
  const states: Float32Array[] = [];
  await withModel(spec, (model) =>
    withCalibration(model, run, async (calibration) => {
      for (const [sample, values] of (run.states ?? []).entries()) await native().setCalibrationState(calibration, { sample, values }, {});
      for (let finished = false; !finished;) {
        const stop = await native().calibrationAdvance(calibration, { hessian: true }, {});
        finished = stop.finished;
        if (stop.weights.length === 0 && stop.block === 1) {
          for (let s = 0; s < samples; s++) states.push(await native().calibrationState(calibration, s, {}));
        }
        const jobs = stop.weights.map((weight) => ({ weight, options }));
        for (const { weight, qweight, scales, error } of await native().calibrationSolve(calibration, jobs, {})) {
          codes.set(weight, `${Buffer.from(qweight.buffer).toString('base64')} ${scales.join()} ${error}`);
        }
      }
    }),
  );
  return { codes, states };
}

describe.each(['exact', 'fast'] as const)('precision %s', (precision) => {
  let spec: ModelSpec;
  let whole: { codes: Map<number, string>; states: Float32Array[] };
  beforeAll(async () => {
    spec = await specOf('tiny-stories', 'exact');
    whole = await solved(spec, { precision });
    expect(whole.codes.size).toBe(28);
  });

  test('with weights block by block', async () => {
    expect((await solved({ ...spec, lazy: true }, { precision })).codes).toEqual(whole.codes);
  });

  test.each([0, tokens.length * 4 * 300])('with %d bytes for states', async (stateBytes) => {
    expect((await solved({ ...spec, lazy: true }, { precision, stateBytes })).codes).toEqual(whole.codes);
  });

  test('in two pieces', async () => {
    const second = await solved({ ...spec, lazy: true }, { precision, firstBlock: 2, states: whole.states });
    expect(second.codes.size).toBe(14);
    for (const [weight, codes] of second.codes) expect(codes).toBe(whole.codes.get(weight));
  });
});

describe('what a calibration refuses', () => {
  let spec: ModelSpec;
  beforeAll(async () => {
    spec = { ...(await specOf('tiny-stories', 'exact')), lazy: true };
  });
  const failure = async (call: () => unknown): Promise<LowbitError> => {
    try {
      await call();
    } catch (reason) {
      return toLowbitError(reason);
    }
    throw new Error('the call succeeded');
  };

  test('states at the wrong time, of the wrong sample or size', async () => {
    await withModel(spec, async (model) => {
      await withCalibration(model, { precision: 'exact' }, async (calibration) => {
        const values = new Float32Array(length * 128);
        expect((await failure(() => native().calibrationState(calibration, 0, {}))).message).toContain('at the end of a block');
        expect((await failure(() => native().setCalibrationState(calibration, { sample: 0, values }, {}))).message).toContain('no state');
      });
      await withCalibration(model, { precision: 'exact', firstBlock: 1 }, async (calibration) => {
        const set = (sample: number, size: number) => () =>
          native().setCalibrationState(calibration, { sample, values: new Float32Array(size) }, {});
        expect((await failure(() => native().calibrationAdvance(calibration, { hessian: true }, {}))).message).toContain(
          'waits for the states',
        );
        expect((await failure(set(0, 5))).message).toContain(`has 5 values; expected ${length * 128}`);
        expect((await failure(set(samples, length * 128))).message).toContain(`no state of sample ${samples}`);
        await set(0, length * 128)();
        expect((await failure(set(0, length * 128))).message).toContain('no state of sample 0');
        expect((await failure(() => native().setCalibrationState(calibration, { sample: 1, values: 'x' as never }, {}))).message).toContain(
          'state.values',
        );
      });
      expect((await failure(() => withCalibration(model, { precision: 'exact', firstBlock: 4 }, async () => undefined))).message).toContain(
        'cannot begin at block 4 of 4',
      );
    });
  });

  test('rows beyond a weight', async () => {
    await withModel(spec, async (model) => {
      const rows = (begin: number, end: number) => () => native().exportWeight(model, 0, { begin, end }, {});
      for (const [begin, end] of [
        [0, 10_000],
        [5, 4],
      ] as const)
        expect((await failure(rows(begin, end))).code).toBe('INVALID_ARGUMENT');
      expect((await failure(rows(-1, 4))).message).toContain('rows.begin');
      expect(await rows(3, 5)()).toHaveLength(2 * 128);
    });
  });

  test('a lazy model does not run', async () => {
    await withModel(spec, async (model) => {
      const context = await native().createContext(model, { contextSize: 8, sequences: 1, kvType: 'f32' });
      const error = await failure(() => native().step(context, { sequence: 0, tokens: Int32Array.of(1) }, {}));
      expect(error).toMatchObject({ code: 'INTERNAL', message: 'The embedding is not in memory' });
      await native().disposeContext(context);
    });
  });
});
