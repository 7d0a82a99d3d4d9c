/**
 * GGUF output with K-quants, whose blocks of 256 columns the other fixtures are too narrow for: solved codes beat rounding, the mixtures give what they
 * promise, files convert, and a run that was cut off is resumed to the same bytes.
 */
import { createHash } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { convert, evaluate, loadModel, quantize, type QuantizeOptions, type QuantizeReport } from '../../lib';
import { openCheckpoint } from '../../lib/checkpoint';
import { errorOf, FIXTURES, temporaryDirectory } from '../checkpoint/support';
import { floats, readTensors, relativeError, type RawTensor } from './reference';
import { wideModel } from './wide_model';

jest.setTimeout(120_000);

const scratch = temporaryDirectory();
const model = path.join(scratch, 'model');
beforeAll(() => wideModel(model));

let outputs = 0;
const text = { file: path.join(FIXTURES, 'tiny-stories', 'text.txt') };
const newPath = (): string => path.join(scratch, `output-${outputs++}`);
const options = (more: Partial<QuantizeOptions> = {}): QuantizeOptions => ({
  model,
  output: newPath(),
  format: 'gguf',
  preset: 'fast',
  calibration: text,
  calibrationSamples: 8,
  calibrationLength: 128,
  report: 'none',
  ...more,
});
const fileOf = (output: string): string => path.join(output, 'model.gguf');
const sha256 = (output: string): string =>
  createHash('sha256')
    .update(readFileSync(fileOf(output)))
    .digest('hex');

async function logits(target: string): Promise<Float64Array> {
  const loaded = await loadModel(target, { precision: 'exact', threads: 2 });
  try {
    return Float64Array.from(
      await evaluate.logits(
        loaded,
        Int32Array.from({ length: 32 }, (_, i) => (i * 53 + 7) % 512),
      ),
    );
  } finally {
    await loaded.dispose();
  }
}

const typesOf = async (output: string): Promise<ReadonlyMap<string, string>> =>
  new Map((await openCheckpoint(fileOf(output))).tensors.map(({ name, dtype }) => [name, dtype]));

test.each([
  ['Q4_K', 4.5],
  ['Q5_K', 5.5],
  ['Q6_K', 6.5625],
] as const)('%s: GPTQ on its grids beats rounding on the same grids', async (ggufType, bits) => {
  const solved = await quantize(options({ ggufType }));
  const { preset: _, ...plain } = options({ ggufType, method: 'rtn' });
  const rounded = await quantize(plain);
  const fallbacks = (report: QuantizeReport): readonly string[] => [
    ...report.fallbacks,
    ...report.warnings.filter((text) => text.includes('256')),
  ];
  expect([fallbacks(solved), fallbacks(rounded)]).toEqual([[], []]);
  expect(solved.linears.every(({ bitsPerWeight }) => Math.abs(bitsPerWeight - bits) < 1e-9)).toBe(true);
  const types = await typesOf(solved.output);
  expect([...types].filter(([name]) => name.startsWith('blk.') && !name.includes('norm')).every(([, type]) => type === ggufType)).toBe(
    true,
  );
  const original = await logits(model);
  const errorOfOutput = async ({ output }: QuantizeReport): Promise<number> => relativeError(await logits(fileOf(output)), original);
  const [ours, plainError] = [await errorOfOutput(solved), await errorOfOutput(rounded)];
  expect(ours > 0 && ours < plainError).toBe(true);
});

test('a mixture gives value and down projections more, and its file converts', async () => {
  const report = await quantize(options({ ggufType: 'Q4_K_M' }));
  const types = await typesOf(report.output);
  expect([types.get('blk.1.ffn_down.weight'), types.get('blk.1.attn_v.weight'), types.get('blk.1.attn_q.weight')]).toEqual([
    'Q6_K',
    'Q6_K',
    'Q4_K',
  ]);
  expect(types.get('token_embd.weight')).toBe('Q6_K');
  const before = await logits(fileOf(report.output));
  const dense = await convert({ model: fileOf(report.output), output: newPath(), to: 'hf', type: 'F32' });
  expect(dense.tensors.every(({ exact }) => exact)).toBe(true);
  expect(relativeError(await logits(dense.output), before) <= 1e-9).toBe(true);
  // Rows of q and k lie in another order in the file; their norms do not.
  const tensors = readTensors(dense.output);
  const norms = (name: string): number => floats(tensors.get(name) as RawTensor).reduce((sum, value) => sum + value * value, 0);
  const source = readTensors(model);
  const own = floats(source.get('model.layers.0.self_attn.q_proj.weight') as RawTensor).reduce((sum, value) => sum + value * value, 0);
  expect(Math.abs(norms('model.layers.0.self_attn.q_proj.weight') / own - 1) <= 0.02).toBe(true);

  // Scales of K-quants are products, which f16 does not hold.
  const error = await errorOf(() => convert({ model: fileOf(report.output), output: newPath(), to: 'lowbit' }));
  expect(error.code).toBe('UNSUPPORTED');
  expect(error.message).toContain('14 of 14 linears do not fit a lowbit container');
  expect(error.message).toContain('model.layers.0.self_attn.q_proj has scales that f16 does not hold exactly');
  expect(error.details['layers']).toHaveLength(14);
});

test.each(['Q4_K_M', 'Q4_0'] as const)('a run to %s that was cut off is resumed to the same bytes', async (ggufType) => {
  const whole = await quantize(options({ ggufType }));
  for (const [phase, block] of [
    ['solve', 1],
    ['write', 0],
  ] as const) {
    const cut = options({ ggufType });
    const controller = new AbortController();
    const error = await errorOf(() =>
      quantize({
        ...cut,
        signal: controller.signal,
        onProgress: (event) => event.phase === phase && (phase === 'write' || event.block >= block) && controller.abort(),
      }),
    );
    expect(error.code).toBe('CANCELLED');
    expect(existsSync(cut.output)).toBe(false);
    // The calibration goes on behind a block whose states are kept: not the last one.
    expect(error.details).toMatchObject({ blocksDone: 1, blocks: 2 });
    await quantize({ ...cut, resume: true });
    expect(sha256(cut.output)).toBe(sha256(whole.output));
    expect(existsSync(`${cut.output}.lowbit-work`)).toBe(false);
  }
});
