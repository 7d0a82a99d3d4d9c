/** For tests: a random Llama of 256 columns and 2 blocks, which K-quants of GGUF need, with the tokenizer of the story model. 1.6 M parameters. */
import { cpSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { FIXTURES, randomNumbers, safetensorsFile } from '../checkpoint/support';

const hidden = 256;
const inner = 512;
const kvRows = 128;
const vocabulary = 512;

/** Writes it to a new directory. Weights lie evenly around zero, with a few channels ten times as large, as real models have. */
export function wideModel(directory: string): void {
  const story = path.join(FIXTURES, 'tiny-stories');
  mkdirSync(directory, { recursive: true });
  for (const name of ['tokenizer.json', 'tokenizer_config.json']) cpSync(path.join(story, name), path.join(directory, name));
  const config = JSON.parse(readFileSync(path.join(story, 'config.json'), 'utf8')) as Record<string, unknown>;
  const sizes = {
    hidden_size: hidden,
    intermediate_size: inner,
    num_hidden_layers: 2,
    num_attention_heads: 4,
    num_key_value_heads: 2,
    head_dim: 64,
  };
  writeFileSync(path.join(directory, 'config.json'), JSON.stringify({ ...config, ...sizes }));
  const random = randomNumbers(7);
  const tensors: [name: string, shape: readonly number[], bytes: Buffer][] = [];
  const add = (name: string, shape: readonly number[], value: (column: number) => number): void => {
    const columns = shape[shape.length - 1] as number;
    const bytes = Buffer.alloc(2 * shape.reduce((a, b) => a * b, 1));
    const one = Buffer.alloc(4);
    for (let i = 0; i < bytes.length / 2; i++) {
      one.writeFloatBE(value(i % columns));
      bytes.writeUInt16LE(one.readUInt16BE(0), 2 * i); // BF16: the upper half
    }
    tensors.push([name, shape, bytes]);
  };
  const matrix = (name: string, n: number, k: number): void =>
    add(name, [n, k], (column) => (((random() + random() + random()) * 2 - 3) * (column % 97 === 5 ? 10 : 1)) / Math.sqrt(k));
  const norm = (name: string): void => add(name, [hidden], () => 0.75 + random() / 2);
  matrix('model.embed_tokens.weight', vocabulary, hidden);
  for (const layer of [0, 1]) {
    const block = `model.layers.${layer}`;
    for (const [name, n, k] of [
      ['self_attn.q_proj', hidden, hidden],
      ['self_attn.k_proj', kvRows, hidden],
      ['self_attn.v_proj', kvRows, hidden],
      ['self_attn.o_proj', hidden, hidden],
      ['mlp.gate_proj', inner, hidden],
      ['mlp.up_proj', inner, hidden],
      ['mlp.down_proj', hidden, inner],
    ] as const)
      matrix(`${block}.${name}.weight`, n, k);
    norm(`${block}.input_layernorm.weight`);
    norm(`${block}.post_attention_layernorm.weight`);
  }
  norm('model.norm.weight');
  let offset = 0;
  const header = Object.fromEntries(
    tensors.map(([name, shape, bytes]) => [name, { dtype: 'BF16', shape, data_offsets: [offset, (offset += bytes.length)] }]),
  );
  writeFileSync(path.join(directory, 'model.safetensors'), safetensorsFile(header, Buffer.concat(tensors.map(([, , bytes]) => bytes))));
}
