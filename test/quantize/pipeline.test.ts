// The pipeline with a stand-in for the engine: what is asked of the engine, what is written, and that failures leave nothing behind.
import { cp, mkdir, mkdtemp, readFile, readdir, rm, symlink, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { LowbitError } from '../../lib/errors';
import { quantize, type QuantizeOptions, type QuantizeProgress } from '../../lib/quantize';
import { renderReport } from '../../lib/report';
import { defaultSettings } from '../../lib/quantize/settings';
import { FakeEngine, engineError } from './fake_engine';
import { dequantize, floats, readTensors, type RawTensor } from './reference';

// Rounding in JavaScript takes seconds on a busy machine.
jest.setTimeout(60_000);

let mockEngine = new FakeEngine();
// The binding is loaded once per process; the object it gets forwards to the engine of the running test.
jest.mock('node-gyp-build', () => () => new Proxy({}, { get: (_target, name) => mockEngine[name as keyof FakeEngine] }));

const source = path.join(__dirname, '..', 'fixtures', 'tiny-stories');
const linears = [
  'self_attn.q_proj',
  'self_attn.k_proj',
  'self_attn.v_proj',
  'self_attn.o_proj',
  'mlp.gate_proj',
  'mlp.up_proj',
  'mlp.down_proj',
];
const names = [0, 1, 2, 3].flatMap((block) => linears.map((name) => `model.layers.${block}.${name}`));

let directory: string;
let output: string;
beforeEach(async () => {
  directory = await mkdtemp(path.join(os.tmpdir(), 'lowbit-quantize-'));
  output = path.join(directory, 'out');
  mockEngine = new FakeEngine();
});
afterEach(async () => {
  expect(mockEngine.live).toBe(0);
  await rm(directory, { recursive: true, force: true });
});

const tokens = (samples: number, length = 64): number[][] =>
  Array.from({ length: samples }, (_, s) => Array.from({ length }, (_, i) => (s * 7 + i) % 512));
const run = (options: Partial<QuantizeOptions> = {}) =>
  quantize({ model: source, output, calibration: tokens(8), calibrationSamples: 8, calibrationLength: 64, ...options });

async function failure(promise: Promise<unknown>): Promise<LowbitError> {
  const caught: unknown = await promise.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  expect(caught).toBeInstanceOf(LowbitError);
  return caught as LowbitError;
}

function same(a: RawTensor | undefined, b: RawTensor | undefined): boolean {
  return a !== undefined && b !== undefined && a.dtype === b.dtype && a.shape.join() === b.shape.join() && a.bytes.equals(b.bytes);
}

const expectNothingLeft = async (): Promise<void> => expect(await readdir(directory)).toEqual([]);
const json = async (name: string): Promise<Record<string, unknown>> =>
  JSON.parse(await readFile(path.join(output, name), 'utf8')) as Record<string, unknown>;

test('GPTQ visits every stop once and solves true-sequentially', async () => {
  await run();
  const block = ['advance with', 'solve', 'advance with', 'solve', 'advance with', 'solve', 'advance with', 'solve', 'advance without'];
  expect(mockEngine.calls).toEqual([
    'loadModel',
    'createCalibration',
    ...block,
    ...block,
    ...block,
    ...block,
    'disposeCalibration',
    'disposeModel',
  ]);
  expect(mockEngine.spec).toMatchObject({ precision: 'exact', threads: 0 });
  expect([...(mockEngine.calibrationSpec?.tokens ?? [])]).toEqual(tokens(8).flat());
  expect(mockEngine.jobs.map(({ options }) => options)).toEqual(
    Array(28).fill({
      ...defaultSettings,
      method: 'gptq',
      bits: 4,
      groupSize: 128,
      sym: true,
      descAct: true,
      staticGroups: true,
      actGroupAware: true,
      mse: 2,
      hessianMse: true,
      refitScales: true,
      sweeps: 4,
      rowGuard: true,
      classic: false,
      dampPercent: 0.05,
      dampAutoIncrement: 0.01,
      blockSize: 128,
      minTokens: 256,
      zeroOffset: 1,
    }),
  );
});

test('rounding needs no calibration', async () => {
  const report = await run({ method: 'rtn', calibration: undefined as never });
  expect(mockEngine.calls).toEqual(['loadModel', ...Array<string>(28).fill('solveWeight'), 'disposeModel']);
  expect(mockEngine.jobs[0]?.options).toMatchObject({ method: 'rtn', minTokens: 0 });
  expect(report.calibration).toBeNull();
  expect(report.linears[0]).not.toHaveProperty('dampPercent');
});

const layouts: [string, Partial<QuantizeOptions>, number, 'gptq' | 'gptq_v2'][] = [
  ['4 bit, group 128', {}, 4, 'gptq'],
  ['3 bit, group 64', { bits: 3, groupSize: 64 }, 3, 'gptq'],
  ['2 bit, group 32', { bits: 2, groupSize: 32 }, 2, 'gptq'],
  ['8 bit, whole rows', { bits: 8, groupSize: -1 }, 8, 'gptq'],
  ['4 bit, asymmetric', { sym: false }, 4, 'gptq_v2'],
  ['4 bit in version 2', { format: 'gptq_v2' }, 4, 'gptq_v2'],
];

test.each(layouts)('writes %s as the format says', async (_name, options, bits, format) => {
  const report = await run({ method: 'rtn', ...options });
  expect(report.checkpointFormat).toBe(format);
  const before = readTensors(source);
  const after = readTensors(output);
  const expected = [...before.keys()].filter((name) => !names.includes(name.replace('.weight', '')));
  expect([...after.keys()].sort()).toEqual(
    [...expected, ...names.flatMap((name) => ['qweight', 'qzeros', 'scales', 'g_idx'].map((part) => `${name}.${part}`))].sort(),
  );
  expect(expected.filter((name) => !same(after.get(name), before.get(name)))).toEqual([]);
  for (const name of names) {
    const original = floats(before.get(`${name}.weight`) as RawTensor);
    const { weights, scaleOf } = dequantize(after, name, bits, format);
    const wrong = weights.findIndex(
      (value, i) => !(Math.abs(value - (original[i] as number)) <= (scaleOf[i] as number) * (0.5 + 2 ** (bits - 11))),
    );
    expect(wrong).toBe(-1);
  }
  expect((await json('config.json'))['quantization_config']).toMatchObject({ bits, checkpoint_format: format, quant_method: 'gptq' });
});

test('the small files are carried over byte for byte, links followed, others left', async () => {
  const model = path.join(directory, 'model');
  await cp(source, model, { recursive: true });
  await writeFile(path.join(directory, 'blob'), '{{ messages }}\r\n');
  await symlink(path.join(directory, 'blob'), path.join(model, 'chat_template.jinja'));
  for (const name of ['merges.txt', 'LICENSE', 'pytorch_model.bin', 'modeling_x.py', 'text.bin'])
    await writeFile(path.join(model, name), name);
  await run({ model, method: 'rtn' });
  expect((await readdir(output)).sort()).toEqual(
    [
      'LICENSE',
      'chat_template.jinja',
      'config.json',
      'generation_config.json',
      'lowbit_report.csv',
      'lowbit_report.html',
      'lowbit_report.json',
      'merges.txt',
      'model.safetensors',
      'quantize_config.json',
      'tokenizer.json',
      'tokenizer_config.json',
    ].sort(),
  );
  for (const name of [
    'merges.txt',
    'LICENSE',
    'chat_template.jinja',
    'tokenizer.json',
    'tokenizer_config.json',
    'generation_config.json',
  ]) {
    expect(await readFile(path.join(output, name))).toEqual(await readFile(path.join(model, name)));
  }
  const config = await readFile(path.join(output, 'config.json'), 'utf8');
  const original = await readFile(path.join(source, 'config.json'), 'utf8');
  expect(config.startsWith(original.slice(0, original.lastIndexOf('}')).trimEnd())).toBe(true);
  expect((await json('config.json'))['quantization_config']).toEqual(await json('quantize_config.json'));
  await rm(model, { recursive: true });
});

test('large outputs are sharded', async () => {
  await run({ method: 'rtn', maxShardBytes: 65_536 });
  const index = (await json('model.safetensors.index.json'))['weight_map'] as Record<string, string>;
  expect(new Set(Object.values(index)).size).toBeGreaterThan(3);
  expect(Object.keys(index).sort()).toEqual([...readTensors(output).keys()].sort());
});

test('rules give single linears other settings or leave them dense', async () => {
  const report = await run({ dynamic: { '-:.*o_proj': {}, '.*layers\\.0\\..*v_proj': { bits: 8, groupSize: 64 } } });
  expect(report.skipped).toEqual(names.filter((name) => name.endsWith('o_proj')));
  expect(report.linears.filter(({ bits }) => bits === 8).map(({ name, groupSize }) => [name, groupSize])).toEqual([
    ['model.layers.0.self_attn.v_proj', 64],
  ]);
  // Nothing to solve before o_proj: no Hessian there.
  expect(mockEngine.calls.filter((call) => call === 'advance without')).toHaveLength(8);
  const after = readTensors(output);
  expect(same(after.get('model.layers.2.self_attn.o_proj.weight'), readTensors(source).get('model.layers.2.self_attn.o_proj.weight'))).toBe(
    true,
  );
  expect(after.has('model.layers.2.self_attn.o_proj.qweight')).toBe(false);
  expect((await json('config.json'))['quantization_config']).toMatchObject({
    dynamic: { '-:.*o_proj': {}, '.*layers\\.0\\..*v_proj': { bits: 8, group_size: 64 } },
  });
});

test('the report says what was done', async () => {
  mockEngine.tamper = (result) => (result['weight'] === 2 ? { ...result, fallbacks: ['damping raised'], error: 0.5 } : result);
  const report = await run({ calibrationSamples: 20, groupSize: 64 });
  const bytes = readTensors(output);
  const quantized = [...bytes]
    .filter(([name]) => /\.(qweight|qzeros|scales|g_idx)$/.test(name))
    .reduce((sum, [, tensor]) => sum + tensor.bytes.length, 0);
  const parameters = names.reduce(
    (sum, name) => sum + (readTensors(source).get(`${name}.weight`)?.shape ?? []).reduce((a, b) => a * b, 1),
    0,
  );
  const all = [...readTensors(source).values()].reduce((sum, { shape }) => sum + shape.reduce((a, b) => a * b, 1), 0);
  const size = (await readFile(path.join(output, 'model.safetensors'))).length;
  const first = report.linears[0];
  expect(report.linears.map(({ name }) => name)).toEqual(names);
  expect(first).toMatchObject({
    n: 128,
    k: 128,
    bits: 4,
    groupSize: 64,
    sym: true,
    error: 0.25,
    dampPercent: 0.06,
    deadColumns: 3,
    tokens: 640,
    seconds: 0.5,
    fallbacks: [],
  });
  expect(report).toMatchObject({
    lowbit: { cpu: 'fake cpu', isa: 'fake', bf16: true, threads: 2 },
    model: { name: 'tiny-stories', kind: 'hf', architecture: 'llama' },
    output,
    checkpointFormat: 'gptq',
    options: { method: 'gptq', bits: 4, groupSize: 64, calibrationSamples: 20, calibrationLength: 64, calibrationPrecision: 'fast' },
    calibration: { source: 'tokens', samples: 8, samplesWanted: 20, length: 64, tokens: 512, samplesDropped: 0, rowsDropped: 16 },
    skipped: [],
    fallbacks: ['model.layers.0.self_attn.k_proj: damping raised'],
    warnings: ['Calibration used 8 samples (512 tokens) of the 20 asked for, all there are'],
  });
  expect(report.calibration?.sha256).toMatch(/^[0-9a-f]{64}$/);
  expect(report.totals.parameters).toBe(all);
  expect(report.totals.quantizedParameters).toBe(parameters);
  expect(report.totals.bitsPerWeight).toBeCloseTo((quantized * 8) / parameters, 9);
  expect(report.totals.bitsPerWeightModel).toBeCloseTo((size * 8) / all, 9);
  expect(report.totals).toMatchObject({ bytesBefore: all * 2, bytesAfter: size });
  expect(report.totals.error).toBeCloseTo((27 * 0.25 + 0.5) / 28, 12);
  for (const value of [...Object.values(report.seconds), report.totals.seconds]) expect(value >= 0).toBe(true);

  const stored = await readFile(path.join(output, 'lowbit_report.json'), 'utf8');
  expect(stored).not.toContain(directory);
  expect(stored).not.toContain(path.dirname(source));
  expect(JSON.parse(stored)).toMatchObject({
    checkpoint_format: 'gptq',
    totals: { bits_per_weight: report.totals.bitsPerWeight },
    linears: report.linears.map(({ name, groupSize }) => ({ name, group_size: groupSize })),
  });
});

test('report files: all, the first alone, or none', async () => {
  const files = async (): Promise<string[]> => (await readdir(output)).filter((name) => name.startsWith('lowbit_report')).sort();
  const report = await run({ method: 'rtn' });
  expect(await files()).toEqual(['lowbit_report.csv', 'lowbit_report.html', 'lowbit_report.json']);
  // The page is that of the file and of what was returned, and says no more of this machine's folders than the file.
  const page = await readFile(path.join(output, 'lowbit_report.html'), 'utf8');
  expect(page).toBe(renderReport(await json('lowbit_report.json')).html);
  expect(page).toBe(renderReport(report).html);
  expect(page).not.toContain(directory);
  await run({ method: 'rtn', report: 'json', overwrite: true });
  expect(await files()).toEqual(['lowbit_report.json']);
  await run({ method: 'rtn', report: 'none', overwrite: true });
  expect(await files()).toEqual([]);
});

test('progress never falls, names blocks and ends at one', async () => {
  const events: QuantizeProgress[] = [];
  await run({ onProgress: (event) => events.push(event) });
  events.reduce((last, { fraction }) => {
    expect(fraction >= last && fraction <= 1).toBe(true);
    return fraction;
  }, 0);
  expect(events.at(-1)).toMatchObject({ phase: 'write', block: -1, blocks: 4, fraction: 1, error: 0.25 });
  expect(new Set(events.map(({ phase }) => phase))).toEqual(new Set(['load', 'calibrate', 'solve', 'write']));
  expect(events[0]?.error).toBeUndefined();
  expect(new Set(events.filter(({ phase }) => phase === 'solve').map(({ block }) => block))).toEqual(new Set([0, 1, 2, 3]));
});

test.each(['fast', 'exact'] as const)('calibration of precision %s is what the engine is asked for', async (calibrationPrecision) => {
  const report = await run({ calibrationPrecision });
  expect(mockEngine.calibrationSpec?.precision).toBe(calibrationPrecision);
  expect(report.options['calibrationPrecision']).toBe(calibrationPrecision);
});

test('without calibration the built-in text is used, and the report warns', async () => {
  const report = await run({ calibration: undefined as never });
  expect(report.calibration).toMatchObject({ source: 'built-in', samples: 8, tokens: 512 });
  expect(report.warnings).toEqual([expect.stringContaining('small built-in text, because no calibration was given')]);
});

test('an iterable is left alone when the run cannot start', async () => {
  const next = jest.fn(() => ({ done: true as const, value: undefined }));
  await failure(run({ calibration: { [Symbol.iterator]: () => ({ next }) }, dynamic: { '.*no_such_linear': { bits: 8 } } }));
  expect(next).not.toHaveBeenCalled();
});

test('text is tokenised by the model', async () => {
  const text = await readFile(path.join(source, 'text.txt'), 'utf8');
  const report = await run({ calibration: text, calibrationSamples: 6, calibrationLength: 100 });
  expect(report.calibration).toMatchObject({ source: 'text', samples: 6, tokens: 600 });
  expect([...(mockEngine.calibrationSpec?.offsets ?? [])]).toEqual([0, 100, 200, 300, 400, 500, 600]);
  const again = await run({
    calibration: { file: path.join(source, 'text.txt') },
    calibrationSamples: 6,
    calibrationLength: 100,
    overwrite: true,
  });
  expect(again.calibration?.sha256).toBe(report.calibration?.sha256);
});

describe('aborts and failures leave nothing behind', () => {
  test.each(['loadModel', 'createCalibration', 'advance with', 'solve', 'advance without'])('abort during %s', async (name) => {
    const controller = new AbortController();
    mockEngine.onCall = (call) => call === name && controller.abort(new Error('enough'));
    const error = await failure(run({ signal: controller.signal }));
    expect(error.code).toBe('CANCELLED');
    await expectNothingLeft();
  });

  test('abort before the start does nothing', async () => {
    const error = await failure(run({ signal: AbortSignal.abort() }));
    expect(error.code).toBe('CANCELLED');
    expect(mockEngine.calls).toEqual([]);
    await expectNothingLeft();
  });

  test('abort while dense tensors are written', async () => {
    const controller = new AbortController();
    const error = await failure(run({ signal: controller.signal, onProgress: ({ phase }) => phase === 'write' && controller.abort() }));
    expect(error.code).toBe('CANCELLED');
    expect(await readdir(directory)).toEqual(['out.lowbit-work']); // the solved blocks, no output
  });

  test('an exception in onProgress ends the run and reaches the caller', async () => {
    const thrown = new TypeError('mine');
    await expect(
      run({
        onProgress: ({ phase }) => {
          if (phase === 'solve') throw thrown;
        },
      }),
    ).rejects.toBe(thrown);
    await expectNothingLeft();
  });

  test.each([
    ['loadModel', { code: 'OUT_OF_MEMORY', message: 'no room' }],
    ['solve', { code: 'CORRUPT_FILE', message: 'not finite' }],
  ])('an error of the engine in %s', async (name, reason) => {
    mockEngine.onCall = (call) => {
      if (call === name) throw engineError(reason.code, reason.message);
    };
    expect(await failure(run())).toMatchObject(reason);
    await expectNothingLeft();
  });

  test.each<[string, (result: Record<string, unknown>) => Record<string, unknown>]>([
    ['tensors of another size', (result) => ({ ...result, scales: new Uint16Array(4) })],
    ['another weight', (result) => ({ ...result, weight: 10_000 })],
    ['other bits', (result) => ({ ...result, bits: 3 })],
  ])('%s from the engine is a bug, not a file', async (_name, tamper) => {
    mockEngine.tamper = tamper;
    expect((await failure(run({ method: 'rtn' }))).code).toBe('INTERNAL');
    await expectNothingLeft();
  });

  test('an existing output survives a failed overwrite', async () => {
    await mkdir(output);
    await writeFile(path.join(output, 'keep'), 'this');
    mockEngine.onCall = (call) => {
      if (call === 'solve') throw engineError('OUT_OF_MEMORY', 'no room');
    };
    await failure(run({ overwrite: true }));
    expect(await readdir(directory)).toEqual(['out']);
    expect(await readdir(output)).toEqual(['keep']);
  });
});

describe('nothing starts when something is wrong', () => {
  afterEach(() => expect(mockEngine.calls).toEqual([]));

  test('all problems come in one error', async () => {
    await writeFile(path.join(directory, 'short.txt'), 'short');
    await mkdir(output);
    await writeFile(path.join(output, 'keep'), '');
    const error = await failure(run({ calibration: { file: path.join(directory, 'short.txt') }, dynamic: { q_proj: { bits: 8 } } }));
    expect(error.code).toBe('INVALID_ARGUMENT');
    expect(error.message).toContain('quantize cannot start, 3 problems:');
    expect(error.message).toContain(`- The output ${output} exists and is not empty`);
    expect(error.message).toContain('- No linear of the model matches dynamic "q_proj"');
    expect(error.message).toContain('- Expected at least 256 tokens for calibration but received ');
    expect(error.details['problems']).toHaveLength(3);
  });

  test('a mistyped model is reported beside bad options', async () => {
    const error = await failure(run({ model: path.join(directory, 'none'), bits: 7 as never }));
    expect(error.message).toContain('Expected one of 2, 3, 4, 5, 6, 8 for bits but received 7 of type number');
    expect(error.message).toContain(path.join(directory, 'none'));
  });

  test('more context than the model has', async () => {
    const error = await failure(run({ calibrationLength: 2048 }));
    expect(error.message).toBe(
      'Expected at most 1024 (the context length of the model) for calibrationLength but received 2048 of type number',
    );
  });

  test('ids outside the vocabulary', async () => {
    const error = await failure(run({ calibration: [Array<number>(300).fill(512)] }));
    expect(error.message).toBe('Expected token id between 0 and 511 for calibration[0][0] but received 512 of type number');
  });

  test('a quantised source', async () => {
    const error = await failure(run({ model: path.join(source, '..', 'interop', 'gptq-v1-4bit-g128-sym') }));
    expect(error.code).toBe('UNSUPPORTED');
    expect(error.message).toContain('is quantised already');
  });

  test('an output that is the model, holds it, or is a file', async () => {
    const model = path.join(directory, 'deep', 'model');
    await cp(source, model, { recursive: true });
    for (const place of [model, path.dirname(model)]) {
      const error = await failure(run({ model, output: place, overwrite: true }));
      expect(error.message).toContain(`The output ${place} holds the model itself`);
    }
    const error = await failure(run({ output: path.join(model, 'config.json') }));
    expect(error.message).toContain('is a file or lies below one: choose a directory');
  });
});
