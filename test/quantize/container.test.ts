// lowbit's own container: what every method makes is written, read back and run, on the exact and the fast path.
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { evaluate, inspect, loadModel, quantize, type QuantizeOptions } from '../../lib';

const source = path.join(__dirname, '..', 'fixtures', 'tiny-stories');
let text: string;
let directory: string;
let dense: number;

beforeAll(async () => {
  text = await readFile(path.join(source, 'text.txt'), 'utf8');
  directory = await mkdtemp(path.join(os.tmpdir(), 'lowbit-container-'));
  dense = (await run(source, 'exact')).perplexity;
});
afterAll(() => rm(directory, { recursive: true, force: true }));

const tokens = Int32Array.from({ length: 48 }, (_, i) => (i * 37) % 500);

async function run(model: string, precision: 'exact' | 'fast'): Promise<{ readonly logits: Float32Array; readonly perplexity: number }> {
  const loaded = await loadModel(model, { precision, threads: 2 });
  try {
    const { perplexity } = await evaluate.perplexity(loaded, { text: text.slice(text.length / 2), contextSize: 128, chunks: 8 });
    return { logits: await evaluate.logits(loaded, tokens), perplexity };
  } finally {
    await loaded.dispose();
  }
}

async function compress(name: string, options: Partial<QuantizeOptions>): Promise<string> {
  const output = path.join(directory, name);
  const shared = {
    model: source,
    output,
    threads: 2,
    calibration: text.slice(0, text.length / 2),
    calibrationLength: 128,
    report: 'none',
  } as const;
  await quantize({ ...shared, groupSize: 32, ...options });
  return output;
}

/** Root mean square of the difference over that of the values. */
function distance(a: Float32Array, b: Float32Array): number {
  expect(a.length).toBe(b.length);
  let difference = 0;
  let square = 0;
  for (let i = 0; i < a.length; i++) {
    difference += ((a[i] as number) - (b[i] as number)) ** 2;
    square += (b[i] as number) ** 2;
  }
  return Math.sqrt(difference / square);
}

test.each([
  ['symmetric', { method: 'rtn', bits: 4 }],
  ['zero points', { method: 'rtn', bits: 3, sym: false }],
  ['a stored order', { bits: 4, preset: 'fast', descAct: true }],
] as const)('holds what a GPTQ checkpoint holds: %s', async (name, options) => {
  const [own, gptq] = [await compress(`own ${name}`, { ...options, format: 'lowbit' }), await compress(`gptq ${name}`, options)];
  for (const precision of ['exact', 'fast'] as const)
    expect((await run(own, precision)).logits).toEqual((await run(gptq, precision)).logits);
});

// 4 bits in groups of 32 cost this model a few percent; 3-bit SpQR with 1 to 2 % outliers likewise.
test.each([
  ['hqq', { method: 'hqq', bits: 4 }, '4 bit, group 32'],
  ['awq', { method: 'awq', bits: 4 }, '4 bit, group 32'],
  ['spqr', { method: 'spqr', bits: 3 }, '3 bit, group 16 with sparse'],
  ['mixllm', { method: 'mixllm', bits: 4, mixllmFraction: 0.2 }, '8 bit, group 32 with 4 bit, group 32'],
  ['finequant', { method: 'finequant', bits: 4 }, undefined],
  ['eora', { method: 'gptq', bits: 4, eoraRank: 8 }, '4 bit, group 32 with rank 8'],
  ['smooth', { method: 'rtn', bits: 8, smoothAlpha: 0.5 }, '8 bit, group 32'],
] as const)(
  '%s',
  async (name, options, storage) => {
    const output = await compress(name, { ...options, format: 'lowbit' });
    const exact = await run(output, 'exact');
    const fast = await run(output, 'fast');
    expect(exact.perplexity).toBeLessThan(1.1 * dense);
    expect(exact.perplexity).toBeGreaterThan(0.95 * dense);
    expect(distance(fast.logits, exact.logits)).toBeLessThan(0.03);
    const { quantization } = await inspect(output);
    if (storage !== undefined) expect(quantization).toContain(storage);
  },
  60_000,
);

describe('refuses', () => {
  const configOf = async (
    name: string,
  ): Promise<{ readonly file: string; readonly config: { quantization_config: Record<string, unknown> } }> => {
    const output = await compress(name, { method: 'hqq', format: 'lowbit' });
    const file = path.join(output, 'config.json');
    return { file, config: JSON.parse(await readFile(file, 'utf8')) as { quantization_config: Record<string, unknown> } };
  };

  test('a newer version', async () => {
    const { file, config } = await configOf('newer');
    config.quantization_config['version'] = 2;
    await writeFile(file, JSON.stringify(config));
    await expect(loadModel(path.dirname(file))).rejects.toMatchObject({ code: 'UNSUPPORTED', message: /version 2.*update lowbit/ });
  });

  test('a version that is none', async () => {
    const { file, config } = await configOf('none');
    config.quantization_config['version'] = 'one';
    await writeFile(file, JSON.stringify(config));
    await expect(loadModel(path.dirname(file))).rejects.toMatchObject({ code: 'CORRUPT_FILE', message: /version/ });
  });
});
