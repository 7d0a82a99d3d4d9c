/** A complete checkpoint of a few kilobytes, for tests that damage or change one. */
import { mkdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { f32, randomNumbers, safetensorsFile } from './support';

/** Unsigned 32-bit numbers with a fixed seed. */
export function integers(start: number): () => number {
  const random = randomNumbers(start);
  return () => Math.floor(random() * 2 ** 32);
}

const config = {
  architectures: ['LlamaForCausalLM'],
  model_type: 'llama',
  hidden_size: 32,
  intermediate_size: 64,
  num_hidden_layers: 1,
  num_attention_heads: 2,
  num_key_value_heads: 2,
  head_dim: 16,
  vocab_size: 48,
  rms_norm_eps: 1e-5,
  rope_theta: 10000,
  max_position_embeddings: 64,
  hidden_act: 'silu',
  tie_word_embeddings: true,
};

const shapes: readonly (readonly [name: string, ...shape: number[]])[] = [
  ['model.embed_tokens.weight', 48, 32],
  ['model.layers.0.input_layernorm.weight', 32],
  ['model.layers.0.mlp.down_proj.weight', 32, 64],
  ['model.layers.0.mlp.gate_proj.weight', 64, 32],
  ['model.layers.0.mlp.up_proj.weight', 64, 32],
  ['model.layers.0.post_attention_layernorm.weight', 32],
  ['model.layers.0.self_attn.k_proj.weight', 32, 32],
  ['model.layers.0.self_attn.o_proj.weight', 32, 32],
  ['model.layers.0.self_attn.q_proj.weight', 32, 32],
  ['model.layers.0.self_attn.v_proj.weight', 32, 32],
  ['model.norm.weight', 32],
];

/** Values of one tensor, to change before it is written. */
export type Change = (name: string, values: number[]) => void;

/** model.safetensors (f32, random weights of a fixed seed) and config.json of a one-block Llama. */
export function tinyCheckpoint(change?: Change): Map<string, Buffer> {
  const random = integers(1);
  const header: Record<string, unknown> = {};
  const data: Uint8Array[] = [];
  let offset = 0;
  for (const [name, ...shape] of shapes) {
    const values = Array.from({ length: shape.reduce((a, b) => a * b, 1) }, () => (random() % 2001) / 1000 - 1);
    change?.(name, values);
    const bytes = f32(values);
    header[name] = { dtype: 'F32', shape, data_offsets: [offset, offset + bytes.length] };
    offset += bytes.length;
    data.push(bytes);
  }
  return new Map([
    ['model.safetensors', safetensorsFile(header, Buffer.concat(data))],
    ['config.json', Buffer.from(JSON.stringify(config))],
  ]);
}

/** Writes it into a directory, which is made, and returns its path. */
export function writeTinyCheckpoint(directory: string, change?: Change): string {
  mkdirSync(directory, { recursive: true });
  for (const [name, bytes] of tinyCheckpoint(change)) writeFileSync(path.join(directory, name), bytes);
  return directory;
}
