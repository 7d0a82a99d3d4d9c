/**
 * Test checkpoints: the golden directories read by a few lines of their own (not lib/checkpoint, which has its own tests), and
 * in-memory ones that stand for GGUF files. Tensor values are available as doubles for the reference executor.
 */
import fs from 'node:fs';
import path from 'node:path';
import type { Checkpoint, TensorEntry } from '../../lib/checkpoint/types';

export interface TestCheckpoint extends Checkpoint {
  /** Values of a tensor of type F32, F16, BF16 or I32, as doubles. */
  data(tensor: number): Float64Array;
}

export type MutableConfig = Record<string, unknown>;

/** Those that are read from GGUF files, too. */
export const GGUF_FIXTURES = ['llama', 'llama3-rope', 'mistral-swa', 'qwen2', 'qwen3', 'gemma2', 'gemma3', 'phi3', 'olmo2'] as const;
export const ARCHITECTURES = [...GGUF_FIXTURES, 'gpt2', 'opt', 'mixtral', 'qwen3-moe', 'deepseek-v3'] as const;

export const GPTQ_CHECKPOINTS = [
  'gptq-v1-2bit-g32',
  'gptq-v1-3bit-g64',
  'gptq-v1-4bit-g128-sym',
  'gptq-v1-4bit-g64-descact',
  'gptq-v1-8bit-g128',
  'gptq-v2-4bit-g64-asym',
] as const;

export function fixture(...parts: string[]): string {
  return path.join(__dirname, '..', 'fixtures', ...parts);
}

interface SafetensorsEntry {
  readonly dtype: string;
  readonly shape: number[];
  readonly data_offsets: [number, number];
}

/** Table and bytes of a trusted safetensors file. */
function readSafetensors(file: string): { readonly tensors: TensorEntry[]; readonly bytes: Buffer } {
  const bytes = fs.readFileSync(file);
  const headerLength = Number(bytes.readBigUInt64LE(0));
  const header = JSON.parse(bytes.toString('utf8', 8, 8 + headerLength)) as Record<string, SafetensorsEntry>;
  const tensors = Object.entries(header)
    .filter(([name]) => name !== '__metadata__')
    .map(
      ([
        name,
        {
          dtype,
          shape,
          data_offsets: [begin, end],
        },
      ]) => ({ name, file: 0, dtype, shape, offset: 8 + headerLength + begin, bytes: end - begin }),
    );
  return { tensors, bytes };
}

const WIDTHS: Readonly<Record<string, number>> = { F32: 4, I32: 4, F16: 2, BF16: 2 };

function decode(bytes: Buffer, { dtype, offset, bytes: length, name }: TensorEntry): Float64Array {
  const width = WIDTHS[dtype];
  if (width === undefined) throw new Error(`${name}: the test reader does not know ${dtype}`);
  const word = new DataView(new ArrayBuffer(4));
  return Float64Array.from({ length: length / width }, (_, i) => {
    const at = offset + i * width;
    if (dtype === 'F32') return bytes.readFloatLE(at);
    if (dtype === 'I32') return bytes.readInt32LE(at);
    const bits = bytes.readUInt16LE(at);
    if (dtype === 'F16') return halfToNumber(bits);
    word.setUint32(0, bits * 65536);
    return word.getFloat32(0);
  });
}

/** IEEE 754 binary16. */
export function halfToNumber(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (exponent === 0 ? fraction * 2 ** -24 : (1024 + fraction) * 2 ** (exponent - 25));
}

/** A fixture directory; `edit` may change a copy of its configuration. */
export function readFixture(directory: string, edit: (config: MutableConfig) => void = () => undefined): TestCheckpoint {
  const config = JSON.parse(fs.readFileSync(path.join(directory, 'config.json'), 'utf8')) as MutableConfig;
  edit(config);
  const file = path.join(directory, 'model.safetensors');
  const { tensors, bytes } = readSafetensors(file);
  return checkpointOf({ path: directory, files: [file], tensors, config }, (tensor) => decode(bytes, tensors[tensor] as TensorEntry));
}

export interface Golden {
  readonly tokens: readonly number[];
  readonly logits: Float64Array;
}

export function readGolden(directory: string): Golden {
  const { tensors, bytes } = readSafetensors(path.join(directory, 'expected.safetensors'));
  const named = (name: string): Float64Array => decode(bytes, tensors.find((tensor) => tensor.name === name) as TensorEntry);
  return { tokens: [...named('tokens')], logits: named('logits') };
}

type Parts = Pick<Checkpoint, 'path' | 'files' | 'tensors' | 'config'> & Partial<Pick<Checkpoint, 'kind' | 'conventions'>>;

function checkpointOf(
  parts: Parts,
  data: (tensor: number) => Float64Array,
  nameOf: (hfName: string) => string = (name) => name,
): TestCheckpoint {
  const index = new Map(parts.tensors.map(({ name }, i) => [name, i]));
  return {
    kind: 'hf',
    conventions: { ropePermuted: false, normPlusOneStored: false },
    tokenizerJson: undefined,
    tokenizerConfig: {},
    chatTemplate: undefined,
    generationConfig: {},
    ...parts,
    find: (hfName) => index.get(nameOf(hfName)),
    data,
  };
}

/** The checkpoint without some tensors, with others added (filled with zeros) or given another shape or type. */
export function withTensors(
  base: TestCheckpoint,
  change: {
    readonly drop?: readonly string[];
    readonly add?: readonly Partial<TensorEntry>[];
    readonly alter?: Readonly<Record<string, Partial<TensorEntry>>>;
  },
): TestCheckpoint {
  const kept = base.tensors.map((tensor, i) => ({ tensor: { ...tensor, ...change.alter?.[tensor.name] }, from: i }));
  const remaining = kept.filter(({ tensor }) => !change.drop?.includes(tensor.name));
  const added = (change.add ?? []).map((tensor) => ({ name: 'extra', file: 0, dtype: 'F32', shape: [1], offset: 0, bytes: 4, ...tensor }));
  const tensors = [...remaining.map(({ tensor }) => tensor), ...added];
  return checkpointOf({ ...base, tensors }, (tensor) => {
    const from = remaining[tensor]?.from;
    return from === undefined ? new Float64Array((tensors[tensor] as TensorEntry).shape.reduce((a, b) => a * b, 1)) : base.data(from);
  });
}

/** Names as GGUF writes them (docs of the format; the mapping under test is the checkpoint's, this is the tests' own). */
const GGUF_NAMES: readonly (readonly [RegExp, string])[] = [
  [/^model\.embed_tokens\./, 'token_embd.'],
  [/^model\.norm\./, 'output_norm.'],
  [/^lm_head\./, 'output.'],
  [/^model\.layers\.(\d+)\./, 'blk.$1.'],
  [/self_attn\.([qkv])_proj\./, 'attn_$1.'],
  [/self_attn\.qkv_proj\./, 'attn_qkv.'],
  [/self_attn\.o_proj\./, 'attn_output.'],
  [/self_attn\.([qk])_norm\./, 'attn_$1_norm.'],
  [/input_layernorm\./, 'attn_norm.'],
  [/pre_feedforward_layernorm\./, 'ffn_norm.'],
  [/post_feedforward_layernorm\./, 'post_ffw_norm.'],
  [/mlp\.(gate|up|down)_proj\./, 'ffn_$1.'],
  [/mlp\.gate_up_proj\./, 'ffn_up.'],
];

/** The same model as a GGUF reader would present it: GGUF names, q and k rows interleaved for llama, Gemma norms stored as 1 + w. */
export function asGguf(base: TestCheckpoint): TestCheckpoint {
  const modelType = String(base.config['model_type']);
  const ropePermuted = modelType === 'llama' || modelType === 'mistral'; // GGUF calls both llama
  const normPlusOneStored = modelType.startsWith('gemma');
  const postNorms = normPlusOneStored || modelType === 'olmo2';
  const rename = (name: string): string =>
    [...GGUF_NAMES, [/post_attention_layernorm\./, postNorms ? 'post_attention_norm.' : 'ffn_norm.'] as const].reduce(
      (result, [from, to]) => result.replace(from, to),
      name,
    );
  const headDim = Number(base.config['head_dim'] ?? Number(base.config['hidden_size']) / Number(base.config['num_attention_heads']));
  const tensors = base.tensors.map((tensor) => ({ ...tensor, name: rename(tensor.name) }));
  const config: MutableConfig = { ...base.config };
  delete config['tie_word_embeddings'];
  delete config['attention_bias'];
  const data = (tensor: number): Float64Array => {
    const { name, shape } = base.tensors[tensor] as TensorEntry;
    const values = base.data(tensor);
    if (ropePermuted && /\.[qk]_proj\./.test(name)) return interleaveRows(values, shape[0] as number, headDim);
    return normPlusOneStored && /norm\.weight$/.test(name) ? values.map((value) => value + 1) : values;
  };
  return checkpointOf({ ...base, kind: 'gguf', tensors, config, conventions: { ropePermuted, normPlusOneStored } }, data, rename);
}

/** GGUF row h*D + 2i + p = Hugging Face row h*D + p*D/2 + i. */
function interleaveRows(values: Float64Array, rows: number, headDim: number): Float64Array {
  const width = values.length / rows;
  const result = new Float64Array(values.length);
  for (let row = 0; row < rows; row++) {
    const inHead = row % headDim;
    const from = row - inHead + (inHead % 2) * (headDim / 2) + Math.floor(inHead / 2);
    result.set(values.subarray(from * width, (from + 1) * width), row * width);
  }
  return result;
}
