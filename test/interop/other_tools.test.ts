/**
 * Files that lowbit writes, read by the Python package gguf and by transformers; checkpoints that llm-compressor wrote, computed by transformers with
 * compressed-tensors and by lowbit. Needs a Python with those packages (LOWBIT_PYTHON); counted as skipped without.
 */
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { convert, evaluate, loadModel, quantize, type ConvertType, type GgufType } from '../../lib';
import { openCheckpoint } from '../../lib/checkpoint';
import { FIXTURES, temporaryDirectory } from '../checkpoint/support';
import { worstDifference } from '../engine/fixtures';
import { wideModel } from '../quantize/wide_model';

jest.setTimeout(300_000);

const python = process.env['LOWBIT_PYTHON'];
const story = path.join(FIXTURES, 'tiny-stories');
const scratch = temporaryDirectory();
const tokens = Int32Array.from({ length: 48 }, (_, i) => (i * 37 + 5) % 512);

function run(...args: string[]): unknown {
  const program = path.join(__dirname, 'other_tools.py');
  const { status, stdout, stderr } = spawnSync(python ?? '', [program, ...args], { encoding: 'utf8', maxBuffer: 2 ** 28 });
  if (status !== 0) throw new Error(`${python} ${args.slice(0, 2).join(' ')} failed: ${stderr.slice(-2000)}`);
  return JSON.parse(stdout);
}

const found = python === undefined ? {} : (run('probe') as Record<string, string>);
const needs = (...packages: readonly string[]): { readonly each: typeof test.each; readonly why: string } => {
  const absent = packages.filter((name) => found[name] === undefined);
  return absent.length === 0
    ? { each: test.each, why: '' }
    : { each: test.skip.each, why: ` (skipped: no ${absent.join(', ')} in LOWBIT_PYTHON)` };
};

const withGguf = needs('gguf');
const types: readonly ConvertType[] = ['F16', 'BF16', 'Q4_0', 'Q4_1', 'Q5_0', 'Q5_1', 'Q8_0', 'Q4_K_M', 'Q5_K_M', 'Q6_K'];

withGguf.each(types)(`gguf reads what convert writes as %s, every tensor${withGguf.why}`, async (type) => {
  const model = path.join(scratch, `wide-${type}`);
  wideModel(model);
  await readAlike((await convert({ model, output: path.join(scratch, `convert-${type}`), to: 'gguf', type })).output, type);
});

withGguf.each(['Q4_0', 'Q4_K_M'] as const)(`gguf reads what quantize writes as %s, every tensor${withGguf.why}`, async (type) => {
  const [model, output] = [path.join(scratch, `solved-${type}`), path.join(scratch, `quantize-${type}`)];
  wideModel(model);
  const calibration = { file: path.join(story, 'text.txt') };
  await quantize({ model, output, format: 'gguf', ggufType: type, calibration, calibrationSamples: 4, calibrationLength: 128 });
  await readAlike(path.join(output, 'model.gguf'), type);
});

/** The package and lowbit de-quantise every tensor to the same numbers, and the package sees metadata and tokenizer. */
async function readAlike(file: string, type: ConvertType | GgufType): Promise<void> {
  const out = `${file}.f32`;
  const { metadata, tensors } = run('gguf', file, out) as {
    metadata: Record<string, unknown>;
    tensors: Record<string, { type: string; shape: number[] }>;
  };
  expect(metadata).toMatchObject({
    'general.architecture': 'llama',
    'llama.embedding_length': 256,
    'llama.block_count': 2,
    'llama.attention.head_count': 4,
    'llama.attention.head_count_kv': 2,
    'tokenizer.ggml.tokens': 512,
    'tokenizer.ggml.token_type': 512,
    'GGUF.tensor_count': 20,
  });
  if (type.startsWith('Q')) expect(Object.values(tensors).some((tensor) => tensor.type.startsWith(type.replace(/_[SM]$/, '')))).toBe(true);
  const { output } = await convert({ model: file, output: `${path.dirname(file)}-f32`, to: 'gguf', type: 'F32' });
  const [theirs, own, { tensors: entries }] = [readFileSync(out), readFileSync(output), await openCheckpoint(output)];
  expect(entries).toHaveLength(20);
  let at = 0;
  let unequal = 0;
  for (const { name, shape, offset, bytes } of [...entries].sort((a, b) => (a.name < b.name ? -1 : 1))) {
    expect(tensors[name]?.shape).toEqual(shape);
    let most = 0;
    let largest = 0;
    for (let i = 0; i < bytes; i += 4) {
      const [x, y] = [theirs.readFloatLE(at + i), own.readFloatLE(offset + i)];
      if (!(x === y)) unequal++;
      const difference = Math.abs(x - y);
      if (!(difference <= most)) most = difference;
      largest = Math.max(largest, Math.abs(y));
    }
    // Products of scales in another order: two roundings of f32.
    expect([name, most <= 2 ** -22 * largest]).toEqual([name, true]);
    at += bytes;
  }
  expect(at).toBe(theirs.length);
  console.info(`gguf ${found['gguf']}, ${path.basename(path.dirname(file))}: ${unequal} of ${at / 4} values differ in their last bits`);
}

async function own(model: string): Promise<Float32Array> {
  const loaded = await loadModel(model, { precision: 'exact' });
  try {
    return await evaluate.logits(loaded, tokens);
  } finally {
    await loaded.dispose();
  }
}

function theirs(directory: string): Float32Array {
  return Float32Array.from((run('logits', directory, ...[...tokens].map(String)) as { logits: number[] }).logits);
}

const withCompressed = needs('torch', 'transformers', 'compressed-tensors');
// Not the asymmetric one: transformers 5.24 with compressed-tensors 0.20 expects its packed zero points unpacked and refuses the file.
const checkpoints = ['ct-pack-3bit-g64-sym', 'ct-pack-4bit-g64-sym', 'ct-pack-8bit-channel'];

withCompressed.each(checkpoints)(`%s gives lowbit's logits in transformers with compressed-tensors${withCompressed.why}`, async (name) => {
  const directory = path.join(FIXTURES, 'interop', name);
  const worst = worstDifference(theirs(directory), await own(directory));
  console.info(`compressed-tensors ${found['compressed-tensors']}, ${name}: largest difference of a logit ${worst.toExponential(1)}`);
  expect(worst).toBeLessThanOrEqual(2e-2);
});

const withTorch = needs('torch', 'transformers');

withTorch.each(['Q8_0', 'Q4_1'] as const)(
  `a dense directory made from GGUF %s gives its logits in transformers${withTorch.why}`,
  async (type) => {
    const { output: gguf } = await convert({ model: story, output: path.join(scratch, `story-${type}`), to: 'gguf', type });
    const { output: dense } = await convert({ model: gguf, output: path.join(scratch, `dense-${type}`), to: 'hf', type: 'F32' });
    const worst = worstDifference(theirs(dense), await own(gguf));
    console.info(`transformers ${found['transformers']}, ${type} as F32: largest difference of a logit ${worst.toExponential(1)}`);
    expect(worst).toBeLessThanOrEqual(1e-3);
  },
);
