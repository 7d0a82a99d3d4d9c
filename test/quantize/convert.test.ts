/**
 * convert() between directories: codes, scales and zero points bit for bit, dense models of the same values, refusals. Sources are checkpoints of
 * GPTQModel and llm-compressor (test/fixtures/interop); AWQ ones are in test/engine/packed.test.ts. GGUF outputs: gguf_output.test.ts.
 */
import { cpSync, existsSync, mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { convert, evaluate, inspect, loadModel, quantize, type ConvertOptions, type ConvertReport } from '../../lib';
import { openCheckpoint } from '../../lib/checkpoint';
import { buildPlan } from '../../lib/models';
import { native } from '../../lib/native';
import { errorOf, safetensorsFile, temporaryDirectory } from '../checkpoint/support';
import { fixtures, specOf, withModel } from '../engine/fixtures';
import { dequantize, differences, floats, readTensors, relativeError, type RawTensor } from './reference';

jest.setTimeout(120_000);

const temporary = temporaryDirectory();
const stories = path.join(fixtures, 'tiny-stories');
const interop = (name: string): string => path.join(fixtures, 'interop', name);
const tokens = Int32Array.from({ length: 24 }, (_, i) => (i * 37 + 11) % 512);
const linear = 'model.layers.1.mlp.up_proj';
let outputs = 0;

const newPath = (): string => path.join(temporary, `output-${outputs++}`);
const run = (to: ConvertOptions['to'], model: string, more: Partial<ConvertOptions> = {}): Promise<ConvertReport> =>
  convert({ model, output: newPath(), to, threads: 2, ...more });

/** On the exact path. */
async function logits(model: string): Promise<Buffer> {
  const loaded = await loadModel(model, { precision: 'exact', threads: 2 });
  try {
    return Buffer.from((await evaluate.logits(loaded, tokens)).buffer);
  } finally {
    await loaded.dispose();
  }
}

const quantizationOf = (directory: string): Record<string, unknown> =>
  (JSON.parse(readFileSync(path.join(directory, 'config.json'), 'utf8')) as Record<string, Record<string, unknown>>)[
    'quantization_config'
  ] ?? {};
const rounded = ({ tensors }: ConvertReport): readonly string[] => tensors.filter(({ exact }) => !exact).map(({ name }) => name);
const weightsFile = (directory: string): Buffer => readFileSync(path.join(directory, 'model.safetensors'));

/** A copy of a fixture with some tensors changed or added. */
function changed(name: string, change: (tensors: Map<string, RawTensor>) => void): string {
  const tensors = readTensors(interop(name));
  change(tensors);
  const directory = newPath();
  cpSync(interop(name), directory, { recursive: true });
  let offset = 0;
  const header = Object.fromEntries(
    [...tensors].map(([tensor, { dtype, shape, bytes }]) => [tensor, { dtype, shape, data_offsets: [offset, (offset += bytes.length)] }]),
  );
  writeFileSync(
    path.join(directory, 'model.safetensors'),
    safetensorsFile(header, Buffer.concat([...tensors.values()].map(({ bytes }) => bytes))),
  );
  return directory;
}

/** The first zero point of one linear stored as `value`. */
const withZero = (name: string, bits: number, value: number): string =>
  changed(name, (tensors) => {
    const tensor = tensors.get(`${linear}.qzeros`) as RawTensor;
    const bytes = Buffer.from(tensor.bytes);
    bytes[0] = ((bytes[0] as number) & ~(2 ** bits - 1)) | value;
    tensors.set(`${linear}.qzeros`, { ...tensor, bytes });
  });

describe('GPTQ', () => {
  const fixtureNames = readdirSync(path.join(fixtures, 'interop')).filter((name) => name.startsWith('gptq-v1'));

  test.each(fixtureNames)('%s through version 2 is the same, byte for byte', async (name) => {
    const second = await run('gptq_v2', interop(name));
    expect(second.format).toBe('gptq_v2');
    expect(rounded(second)).toEqual([]);
    expect(second.tensors.filter(({ to }) => to.startsWith('GPTQ'))).toHaveLength(28);
    const back = await run('gptq', second.output);
    const again = await run('gptq', interop(name));
    expect(back.format).toBe('gptq');
    expect(differences(back.output, interop(name))).toEqual([]);
    expect(weightsFile(back.output).equals(weightsFile(again.output))).toBe(true);
    expect((await logits(second.output)).equals(await logits(interop(name)))).toBe(true);
    const before = quantizationOf(interop(name));
    expect(quantizationOf(back.output)).toMatchObject({ bits: before['bits'], group_size: before['group_size'], sym: before['sym'] });
    expect(quantizationOf(back.output)['dynamic']).toBeUndefined();
    // Words that are one less than zero points, told apart by an independent reader.
    const { weights } = dequantize(readTensors(second.output), linear, before['bits'] as number, 'gptq_v2');
    expect(weights).toEqual(dequantize(readTensors(interop(name)), linear, before['bits'] as number, 'gptq').weights);
  });

  test('a zero point of 0 makes it version 2', async () => {
    const wrapped = withZero('gptq-v1-4bit-g64-descact', 4, 15); // 15 + 1 wraps
    const report = await run('gptq', wrapped);
    expect(report.format).toBe('gptq_v2');
    expect(quantizationOf(report.output)['checkpoint_format']).toBe('gptq_v2');
    expect((await logits(report.output)).equals(await logits(wrapped))).toBe(true);
  });

  test('what a version does not hold is refused by name, or becomes dense', async () => {
    const source = withZero('gptq-v1-3bit-g64', 3, 7); // a zero point of 8
    expect(rounded(await run('gptq', source))).toEqual([]);
    const error = await errorOf(() => run('gptq_v2', source));
    expect(error.code).toBe('UNSUPPORTED');
    expect(error.message).toContain(
      `1 of 28 linears do not fit a GPTQ checkpoint of version 2 without another rounding: ${linear} has a zero point of 8, which 3 bits do not hold in version 2. Set allowDense (--allow-dense) to store them dense, or write 'lowbit' or a dense model ('hf')`,
    );
    expect(error.details['layers']).toEqual([{ name: linear, reason: 'a zero point of 8, which 3 bits do not hold in version 2' }]);
    expect((await errorOf(() => run('lowbit', source))).message).toContain(`${linear} has a zero point of 8, which 3 bits do not hold`);

    const report = await run('gptq_v2', source, { allowDense: true, type: 'F32' });
    expect(rounded(report)).toEqual([]);
    expect(report.tensors.find(({ name }) => name === `${linear}.weight`)).toMatchObject({ from: 'GPTQ 3 bit, group 64', to: 'F32' });
    expect(quantizationOf(report.output)['dynamic']).toEqual({ [`-:${linear.replaceAll('.', '\\.')}$`]: {} });
    const [before, after] = [await logits(source), await logits(report.output)].map((buffer) => new Float32Array(buffer.buffer)) as [
      Float32Array,
      Float32Array,
    ];
    expect(relativeError(Float64Array.from(after), Float64Array.from(before)) <= 1e-10).toBe(true);
  });

  test('linears of other settings get a rule for all layers', async () => {
    const source = newPath();
    const dynamic = { '.*\\.down_proj': { bits: 8 as const, groupSize: 32 as const }, '-:.*layers\\.2\\.mlp\\.up_proj': {} };
    await quantize({ model: stories, output: source, method: 'rtn', groupSize: 64, dynamic });
    const report = await run('gptq_v2', source);
    expect(rounded(report)).toEqual([]);
    expect(quantizationOf(report.output)).toMatchObject({
      bits: 4,
      group_size: 64,
      dynamic: {
        '-:model\\.layers\\.2\\.mlp\\.up_proj$': {},
        '+:model\\.layers\\.\\d+\\.mlp\\.down_proj$': { bits: 8, group_size: 32 },
      },
    });
    expect((await logits(report.output)).equals(await logits(source))).toBe(true);
  });
});

test.each(['ct-pack-3bit-g64-sym', 'ct-pack-4bit-g64-asym-actorder', 'ct-pack-8bit-channel'])(
  '%s of llm-compressor gives the same logits as GPTQ and as a lowbit container',
  async (name) => {
    const before = await logits(interop(name));
    for (const target of ['gptq', 'lowbit'] as const) {
      const report = await run(target, interop(name));
      expect(rounded(report)).toEqual([]);
      expect((await logits(report.output)).equals(before)).toBe(true);
    }
  },
);

test('a lowbit container of GPTQ codes goes back to the same checkpoint, and is copied to its own kind', async () => {
  const source = interop('gptq-v1-4bit-g64-descact');
  const container = await run('lowbit', source);
  expect(quantizationOf(container.output)).toMatchObject({ quant_method: 'lowbit', version: 1 });
  const back = await run('gptq', container.output);
  expect(differences(back.output, source)).toEqual([]);
  const copy = await run('lowbit', container.output);
  expect(differences(copy.output, container.output)).toEqual([]);
  expect(quantizationOf(copy.output)).toEqual(quantizationOf(container.output));
});

test('parts that only a container holds are refused by GPTQ and become dense', async () => {
  const source = newPath();
  const text = { file: path.join(stories, 'text.txt') };
  await quantize({
    model: stories,
    output: source,
    format: 'lowbit',
    method: 'spqr',
    bits: 3,
    calibration: text,
    calibrationSamples: 4,
    calibrationLength: 128,
  });
  const error = await errorOf(() => run('gptq', source));
  expect(error.message).toMatch(
    /28 of 28 linears do not fit a GPTQ checkpoint .* has (single weights beside its codes|minima in place of integer zero points)/,
  );
  expect((await errorOf(() => run('gptq', source, { allowDense: true }))).message).toContain('No linear of');
  const report = await run('hf', source, { type: 'F32' });
  expect(rounded(report)).toEqual([]);
  const [before, after] = [await logits(source), await logits(report.output)].map((buffer) =>
    Float64Array.from(new Float32Array(buffer.buffer)),
  ) as [Float64Array, Float64Array];
  expect(relativeError(after, before) <= 1e-9).toBe(true);
});

describe('dense', () => {
  test('F32 holds what codes stand for, BF16 is the nearest', async () => {
    const source = interop('gptq-v1-4bit-g64-descact');
    const expected = dequantize(readTensors(source), linear, 4, 'gptq').weights;
    const exact = await run('hf', source, { type: 'F32' });
    expect(rounded(exact)).toEqual([]);
    const tensor = readTensors(exact.output).get(`${linear}.weight`) as RawTensor;
    expect(tensor.dtype).toBe('F32');
    expect(floats(tensor)).toEqual(expected);
    expect(quantizationOf(exact.output)).toEqual({});
    expect(existsSync(path.join(exact.output, 'quantize_config.json'))).toBe(false);
    const near = await run('hf', source, { type: 'BF16' });
    const one = near.tensors.find(({ name }) => name === `${linear}.weight`);
    const error = relativeError(floats(readTensors(near.output).get(`${linear}.weight`) as RawTensor), expected);
    expect(one).toMatchObject({ from: 'GPTQ 4 bit, group 64', to: 'BF16', exact: false });
    expect(Math.abs((one?.error ?? NaN) - error) <= 1e-9).toBe(true);
    expect(error > 0 && error <= 2 ** -16).toBe(true); // half a unit in 8 bits, squared
    const dtype = ({ output }: ConvertReport): unknown =>
      (JSON.parse(readFileSync(path.join(output, 'config.json'), 'utf8')) as { dtype: unknown }).dtype;
    expect([dtype(exact), dtype(near)]).toEqual(['float32', 'bfloat16']);
  });

  test.each(['llama', 'qwen2', 'gemma3', 'phi3'])('%s through GGUF is the same directory again', async (name) => {
    const original = path.join(fixtures, 'arch', name);
    const gguf = await run('gguf', original);
    const back = await run('hf', gguf.output);
    const [before, after] = [readTensors(original), readTensors(back.output)];
    expect([...after.keys()].sort()).toEqual([...before.keys()].sort());
    for (const [tensor, { dtype, shape, bytes }] of before) {
      const own = after.get(tensor) as RawTensor;
      expect(own.shape).toEqual(shape);
      if (shape.length === 2) expect([own.dtype, own.bytes.equals(bytes)]).toEqual([dtype, true]);
      // GGUF holds vectors in F32; 1 + w of Gemma's norms loses the low bits of w.
      else
        floats(own).forEach((value, i) => expect(Math.abs(value - (floats({ dtype, shape, bytes })[i] as number)) <= 2 ** -23).toBe(true));
    }
    expect(rounded(back)).toEqual([]);
  });

  test('blocks of GGUF give the same logits as a dense model, a container and a GPTQ checkpoint', async () => {
    const { output } = await run('gguf', stories, { type: 'Q8_0' });
    const before = await logits(output);
    const container = await run('lowbit', output);
    expect(rounded(container)).toEqual([]);
    expect((await logits(container.output)).equals(before)).toBe(true);
    const gptq = await run('gptq', output, { type: 'F32' });
    expect(rounded(gptq)).toEqual([]);
    const dense = await run('hf', output, { type: 'F32' });
    for (const { output: other } of [gptq, dense]) {
      const error = relativeError(
        Float64Array.from(new Float32Array((await logits(other)).buffer)),
        Float64Array.from(new Float32Array(before.buffer)),
      );
      expect(error <= 1e-10).toBe(true);
    }
    expect(container.dropped).toEqual(['GGUF metadata: general.name']);
    const { tensorTypes } = await inspect(dense.output);
    expect(tensorTypes.map(({ dtype }) => dtype)).toEqual(['F32']);
  });

  test('transposed matrices stay transposed', async () => {
    const original = path.join(fixtures, 'arch', 'gpt2');
    const report = await run('hf', original, { type: 'F32' });
    expect(rounded(report)).toEqual([]);
    const [before, after] = [readTensors(original), readTensors(report.output)];
    for (const [name, tensor] of before) expect([name, floats(after.get(name) as RawTensor)]).toEqual([name, floats(tensor)]);
  });

  test('zero biases of old writers go, others are not lost in silence', async () => {
    const bias = (value: number): string =>
      changed('gptq-v1-4bit-g128-sym', (tensors) => {
        const bytes = Buffer.alloc(4 * 384);
        bytes.writeFloatLE(value, 8);
        tensors.set(`${linear}.bias`, { dtype: 'F32', shape: [384], bytes });
      });
    const report = await run('hf', bias(0));
    expect(report.dropped).toContain('biases of 1 linears that are all zero');
    expect(readTensors(report.output).has(`${linear}.bias`)).toBe(false);
    expect(buildPlan(await openCheckpoint(report.output)).weights).toHaveLength(29);
    const error = await errorOf(() => run('hf', bias(1)));
    expect(error.code).toBe('UNSUPPORTED');
    expect(error.message).toContain(`${linear}.bias is not part of a llama model`);
    expect(readTensors((await run('gptq_v2', bias(0))).output).has(`${linear}.bias`)).toBe(true);
  });
});

test('rows that are encoded a few at a time are the rows of the whole, also of weights that stay in their files', async () => {
  for (const directory of ['tiny-stories', path.join('interop', 'gptq-v1-4bit-g64-descact')]) {
    const spec = await specOf(directory, 'exact');
    const weight = spec.plan.weights.findIndex(({ name }) => name === linear);
    const { n } = spec.plan.weights[weight] as { n: number };
    for (const dtype of ['BF16', 'Q4_0', 'Q5_1']) {
      const whole = await withModel(spec, (model) => native().encodeWeight(model, weight, { dtype, begin: 0, end: n }, {}));
      for (const lazy of [false, true]) {
        const pieces = await withModel({ ...spec, lazy }, async (model) => [
          await native().encodeWeight(model, weight, { dtype, begin: 0, end: 48 }, {}),
          await native().encodeWeight(model, weight, { dtype, begin: 48, end: n - 3 }, {}),
          await native().exportWeight(model, weight, { begin: 7, end: 23 }, {}),
        ]);
        const [first, second, rows] = pieces as [typeof whole, typeof whole, Uint16Array];
        const expected = whole.bytes.subarray(0, (whole.bytes.length / n) * (n - 3));
        expect(Buffer.concat([first.bytes, second.bytes]).equals(expected)).toBe(true);
        if (dtype === 'BF16') expect(Buffer.from(rows.buffer).equals(whole.bytes.subarray(7 * 256, 23 * 256))).toBe(true);
        await expect(
          withModel({ ...spec, lazy }, (model) => native().encodeWeight(model, weight, { dtype, begin: 8, end: n }, {})),
        ).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
      }
    }
  }
});

describe('refused', () => {
  const refusals: readonly (readonly [Partial<ConvertOptions>, string])[] = [
    [{ to: undefined as never }, 'Expected one of "gguf", "hf", "gptq", "gptq_v2", "lowbit" for to'],
    [{ to: 'awq' as never }, 'for to but received "awq"'],
    [{ to: 'hf', type: 'Q4_0' }, 'Expected one of "F32", "F16", "BF16" for type but received "Q4_0"'],
    [{ to: 'hf', allowDense: true }, "allowDense is a choice of 'gptq', 'gptq_v2' and 'lowbit'"],
    [{ to: 'gptq', maxShardBytes: 10 }, 'maxShardBytes'],
    [{ to: 'gptq', model: stories }, 'holds no quantised linears that could be carried over'],
  ];
  test.each(refusals)('%j', async (options, message) => {
    const output = newPath();
    await expect(convert({ model: interop('gptq-v1-4bit-g128-sym'), output, to: 'hf', ...options })).rejects.toThrow(message);
    expect(existsSync(output)).toBe(false);
  });

  test('an existing output, unless it may be replaced', async () => {
    const output = newPath();
    mkdirSync(output);
    writeFileSync(path.join(output, 'mine.txt'), 'x');
    const model = interop('gptq-v1-4bit-g128-sym');
    await expect(convert({ model, output, to: 'hf' })).rejects.toThrow('exists and is not empty');
    await convert({ model, output, to: 'hf', overwrite: true });
    expect(readdirSync(output)).not.toContain('mine.txt');
  });
});

test('an abort leaves nothing behind, wherever it falls', async () => {
  const parent = newPath();
  mkdirSync(parent);
  for (const at of [0.1, 0.4, 0.9]) {
    const controller = new AbortController();
    const seen: number[] = [];
    const error = await errorOf(() =>
      convert({
        model: interop('ct-pack-4bit-g64-sym'),
        output: path.join(parent, 'out'),
        to: 'gptq',
        signal: controller.signal,
        onProgress: (fraction) => {
          seen.push(fraction);
          if (fraction > at) controller.abort();
        },
      }),
    );
    expect(error.code).toBe('CANCELLED');
    expect(seen.every((fraction, i) => fraction <= 1 && fraction >= (seen[i - 1] ?? 0))).toBe(true);
    expect(readdirSync(parent)).toEqual([]);
  }
  rmSync(parent, { recursive: true });
});
