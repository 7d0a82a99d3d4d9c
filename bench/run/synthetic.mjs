/**
 * bench/run: GGUF files with the layer shapes of Llama-3.2-1B and Llama-3.1-8B, a few layers each, a vocabulary of 1024 and random
 * weights: what decides speed is the size of a layer, and the real models are too large for small machines. F16; llama-quantize makes the
 * other types. Weights are normal with variance 1 / columns, so that activations keep their size through the layers and logits differ.
 */
import { open, rename } from 'node:fs/promises';
import gguf from '../pure/gguf.cjs';

const VOCABULARY = 1024;

/** From the config.json of the published models. Layers: enough weights that no cache holds them in 4 bit. */
export const SHAPES = {
  '1B': { hidden: 2048, ffn: 8192, heads: 32, kvHeads: 8, headDim: 64, layers: 4 },
  '8B': { hidden: 4096, ffn: 14336, heads: 32, kvHeads: 8, headDim: 128, layers: 2 },
  // as many as make loading, and not the start of a process, what takes time
  'eight 8B': { hidden: 4096, ffn: 14336, heads: 32, kvHeads: 8, headDim: 128, layers: 8 },
};

function model({ hidden, ffn, heads, kvHeads, headDim, layers }) {
  const { tokens, types, merges, end } = gguf.byteVocabulary(VOCABULARY);
  const metadata = {
    'general.architecture': { string: 'llama' },
    'general.name': { string: 'random' },
    'llama.block_count': { u32: layers },
    'llama.context_length': { u32: 8192 },
    'llama.embedding_length': { u32: hidden },
    'llama.feed_forward_length': { u32: ffn },
    'llama.attention.head_count': { u32: heads },
    'llama.attention.head_count_kv': { u32: kvHeads },
    'llama.attention.key_length': { u32: headDim },
    'llama.attention.value_length': { u32: headDim },
    'llama.attention.layer_norm_rms_epsilon': { f32: 1e-5 },
    'llama.rope.dimension_count': { u32: headDim },
    'llama.rope.freq_base': { f32: 500000 },
    'llama.vocab_size': { u32: VOCABULARY },
    'tokenizer.ggml.model': { string: 'gpt2' },
    'tokenizer.ggml.pre': { string: 'smollm' },
    'tokenizer.ggml.tokens': { strings: tokens },
    'tokenizer.ggml.token_type': { i32s: types },
    'tokenizer.ggml.merges': { strings: merges },
    'tokenizer.ggml.bos_token_id': { u32: end },
    'tokenizer.ggml.eos_token_id': { u32: end },
    'tokenizer.ggml.add_bos_token': { bool: false },
  };
  const matrix = (name, n, k) => ({ name: `${name}.weight`, dtype: 'F16', shape: [n, k] });
  const norm = (name) => ({ name: `${name}.weight`, dtype: 'F32', shape: [hidden] });
  const block = (i) => [
    norm(`blk.${i}.attn_norm`),
    matrix(`blk.${i}.attn_q`, heads * headDim, hidden),
    matrix(`blk.${i}.attn_k`, kvHeads * headDim, hidden),
    matrix(`blk.${i}.attn_v`, kvHeads * headDim, hidden),
    matrix(`blk.${i}.attn_output`, hidden, heads * headDim),
    norm(`blk.${i}.ffn_norm`),
    matrix(`blk.${i}.ffn_gate`, ffn, hidden),
    matrix(`blk.${i}.ffn_up`, ffn, hidden),
    matrix(`blk.${i}.ffn_down`, hidden, ffn),
  ];
  const blocks = Array.from({ length: layers }, (_, i) => block(i)).flat();
  const tensors = [matrix('token_embd', VOCABULARY, hidden), ...blocks, norm('output_norm'), matrix('output', VOCABULARY, hidden)];
  return { metadata, tensors };
}

/** @param {string} file appears whole or not at all */
export async function writeSynthetic(file, shape) {
  const { metadata, tensors } = model(shape);
  const { header, offsets, size } = gguf.ggufHeader(metadata, tensors);
  const random = generator(0x9e3779b9);
  const normal = normals(1 << 21, random);
  const unfinished = `${file}.unfinished`;
  const output = await open(unfinished, 'w');
  try {
    await output.truncate(size);
    await output.write(header, 0, header.length, 0);
    for (const [index, tensor] of tensors.entries()) {
      await output.write(tensorBytes(tensor, normal, random), 0, undefined, offsets[index]);
    }
  } finally {
    await output.close();
  }
  await rename(unfinished, file);
}

/** Rows are pieces of one large table of normal values, from places drawn at random: as good as new values, and a copy per row. */
function tensorBytes({ dtype, shape }, normal, random) {
  if (dtype === 'F32') return Buffer.from(new Float32Array(shape[0]).fill(1).buffer);
  const [n, k] = shape;
  const scaled = Uint16Array.from(normal, (value) => toHalf(value / Math.sqrt(k)));
  const values = new Uint16Array(n * k);
  for (let row = 0; row < n; row++) {
    const from = Math.floor(random() * (scaled.length - k));
    values.set(scaled.subarray(from, from + k), row * k);
  }
  return Buffer.from(values.buffer);
}

/** Uniform in [0, 1), the same on every machine (xorshift32). */
function generator(seed) {
  let state = seed | 0;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) / 2 ** 32;
  };
}

/** Box-Muller. */
function normals(count, random) {
  const values = new Float32Array(count);
  for (let i = 0; i < count; i += 2) {
    const radius = Math.sqrt(-2 * Math.log(1 - random()));
    const angle = 2 * Math.PI * random();
    values[i] = radius * Math.cos(angle);
    values[i + 1] = radius * Math.sin(angle);
  }
  return values;
}

const float = new Float32Array(1);
const bits = new Uint32Array(float.buffer);

/** Nearest half-precision value; magnitudes here are below 1, and what is below 2^-14 becomes zero. */
function toHalf(value) {
  float[0] = value;
  const sign = (bits[0] >>> 16) & 0x8000;
  const magnitude = (bits[0] & 0x7fffffff) + 0x1000;
  return magnitude < 0x38800000 ? sign : sign | ((magnitude - 0x38000000) >>> 13);
}
