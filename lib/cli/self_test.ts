/**
 * The self-test of `lowbit doctor`: writes a tiny random Llama to a temporary directory, runs it, compresses it and runs the result.
 * One pass through every room in about a second, with nothing to download.
 */
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { evaluate, loadModel, quantize } from '../index';

export interface SelfTest {
  readonly ok: boolean;
  readonly message: string;
  readonly seconds: number;
}

const size = { hidden: 64, intermediate: 96, layers: 2, heads: 4, kvHeads: 2, headDim: 16, vocab: 96 } as const;

const config = {
  architectures: ['LlamaForCausalLM'],
  model_type: 'llama',
  hidden_size: size.hidden,
  intermediate_size: size.intermediate,
  num_hidden_layers: size.layers,
  num_attention_heads: size.heads,
  num_key_value_heads: size.kvHeads,
  head_dim: size.headDim,
  vocab_size: size.vocab,
  max_position_embeddings: 64,
  rms_norm_eps: 1e-5,
  rope_parameters: { rope_type: 'default', rope_theta: 10000 },
  hidden_act: 'silu',
  tie_word_embeddings: false,
  attention_bias: false,
  mlp_bias: false,
  dtype: 'float32',
};

const tokens = [1, 5, 9, 2, 6, 95, 8, 3];

/** Logits of ids 0, 1, 2, 3, 94, 95 after the last token: a float64 forward pass in numpy over these weights. */
const expected = [
  [0, 0.593396596011289],
  [1, -1.7310702621798537],
  [2, 1.9296592841815032],
  [3, -0.7619944439259118],
  [94, 0.5212882155770422],
  [95, 0.02878799163057516],
] as const;

/** Logits have a standard deviation of 1 here; float32 over 64 to 96 columns and two layers stays below 1e-5. */
const exactTolerance = 1e-4;

/** int8 activations add about 1/254 of a column's largest value to every product; 0.1 is far above that and far below a wrong result. */
const fastTolerance = 0.1;

export async function selfTest(signal: AbortSignal): Promise<SelfTest> {
  const start = performance.now();
  const finish = (ok: boolean, message: string): SelfTest => ({ ok, message, seconds: (performance.now() - start) / 1000 });
  const directory = await mkdtemp(path.join(os.tmpdir(), 'lowbit-doctor-'));
  try {
    const dense = path.join(directory, 'dense');
    const packed = path.join(directory, 'packed');
    await writeModel(dense);
    const logits = await lastLogits(dense, 'exact', signal);
    const error = Math.max(...expected.map(([id, value]) => Math.abs((logits[id] as number) - value)));
    if (!(error <= exactTolerance))
      return finish(false, `wrong logits: off by ${error} from the reference, at most ${exactTolerance} is right`);
    await quantize({ model: dense, output: packed, method: 'rtn', bits: 4, groupSize: 32, signal });
    const reference = await lastLogits(packed, 'exact', signal);
    const fast = await lastLogits(packed, 'fast', signal);
    const difference = rms(fast.map((value, i) => value - (reference[i] as number))) / rms(reference);
    if (!(difference <= fastTolerance))
      return finish(false, `the fast path differs by ${difference} from the exact one, at most ${fastTolerance} is right`);
    return finish(true, `passed: exact path within ${error.toExponential(1)}, fast path within ${(difference * 100).toFixed(2)}%`);
  } catch (error) {
    if (signal.aborted) throw error;
    return finish(false, `failed: ${error instanceof Error ? error.message : String(error)}`);
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}

async function lastLogits(model: string, precision: 'exact' | 'fast', signal: AbortSignal): Promise<Float32Array> {
  const loaded = await loadModel(model, { precision, signal });
  try {
    return (await evaluate.logits(loaded, tokens, { signal })).slice(-size.vocab);
  } finally {
    await loaded.dispose();
  }
}

const rms = (values: Float32Array): number => Math.sqrt(values.reduce((sum, value) => sum + value * value, 0) / values.length);

async function writeModel(directory: string): Promise<void> {
  await mkdir(directory);
  await writeFile(path.join(directory, 'config.json'), JSON.stringify(config));
  await writeFile(path.join(directory, 'model.safetensors'), safetensors(testTensors()));
}

interface TestTensor {
  readonly name: string;
  readonly shape: readonly number[];
  readonly values: Float32Array;
}

/** All tensors in the order of their seeds 1, 2, 3, ... */
function testTensors(): TestTensor[] {
  const { hidden, intermediate, heads, kvHeads, headDim, vocab } = size;
  const shapes: [string, number[]][] = [['model.embed_tokens', [vocab, hidden]]];
  for (let layer = 0; layer < size.layers; layer++) {
    const block: [string, number[]][] = [
      ['input_layernorm', [hidden]],
      ['self_attn.q_proj', [heads * headDim, hidden]],
      ['self_attn.k_proj', [kvHeads * headDim, hidden]],
      ['self_attn.v_proj', [kvHeads * headDim, hidden]],
      ['self_attn.o_proj', [hidden, heads * headDim]],
      ['post_attention_layernorm', [hidden]],
      ['mlp.gate_proj', [intermediate, hidden]],
      ['mlp.up_proj', [intermediate, hidden]],
      ['mlp.down_proj', [hidden, intermediate]],
    ];
    shapes.push(...block.map(([name, shape]): [string, number[]] => [`model.layers.${layer}.${name}`, shape]));
  }
  shapes.push(['model.norm', [hidden]], ['lm_head', [vocab, hidden]]);
  return shapes.map(([name, shape], index) => ({ name: `${name}.weight`, shape, values: testValues(index + 1, shape) }));
}

/** Vectors around 1, matrices of gain 1: uniform noise of standard deviation 1/sqrt(k). */
function testValues(seed: number, shape: readonly number[]): Float32Array {
  const [rows, k] = shape as [number, number | undefined];
  return Float32Array.from({ length: rows * (k ?? 1) }, (_, i) => {
    const uniform = hash32((i + seed * 1000003) >>> 0) / 2 ** 32 - 0.5;
    return k === undefined ? 1 + 0.2 * uniform : uniform * Math.sqrt(12 / k);
  });
}

/** The finaliser of MurmurHash3 over multiples of the golden ratio: the same 32 bits in every language. */
function hash32(index: number): number {
  let h = Math.imul(index, 0x9e3779b1);
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return (h ^ (h >>> 16)) >>> 0;
}

/** A safetensors file: u64 length of the header, header, bytes. */
function safetensors(tensors: readonly TestTensor[]): Buffer {
  const header: Record<string, unknown> = {};
  let offset = 0;
  for (const { name, shape, values } of tensors) {
    header[name] = { dtype: 'F32', shape, data_offsets: [offset, offset + values.byteLength] };
    offset += values.byteLength;
  }
  const text = Buffer.from(JSON.stringify(header));
  const padded = Buffer.concat([text, Buffer.alloc(-text.length & 7, ' ')]); // data begins at a multiple of 8
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(padded.length));
  return Buffer.concat([length, padded, ...tensors.map(({ values }) => Buffer.from(values.buffer))]);
}
