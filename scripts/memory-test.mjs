/**
 * Peak memory of compressing a model of 2 billion parameters' shape (hidden 2,048, feed-forward 5,632, vocabulary 256,000), with random weights that
 * are written row by row and deleted at the end: npm run memory-test [-- layers method folder]. 19 layers are 2.0 billion; fewer (default 2) change how
 * long it takes, hardly the peak (1.68 to 1.78 GB); with one, the end of a block and its kept state are not part of it.
 * 128 x 512 calibration tokens. What `--dry-run` says beforehand, in a process of its own, is printed beside it. Needs dist/ and 2 GB of disk and 0.1 GB per layer, twice.
 */
import { execFileSync } from 'node:child_process';
import { closeSync, mkdirSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync, writeSync } from 'node:fs';
import { createRequire } from 'node:module';
import os from 'node:os';
import path from 'node:path';
import process from 'node:process';
import { fileURLToPath } from 'node:url';

const [layers = 2, method = 'gptq', folder = os.tmpdir()] = process.argv.slice(2);
const limit = 2.5e9;
const [hidden, feed, heads, vocabulary] = [2048, 5632, 16, 256_000];
const { quantize } = createRequire(import.meta.url)('../dist/index.js');

const directory = mkdtempSync(path.join(folder, 'lowbit-memory-'));
try {
  const model = path.join(directory, 'model');
  mkdirSync(model);
  writeModel(model);
  const tokens = Array.from({ length: 128 }, (_, s) => Array.from({ length: 512 }, (_, i) => (s * 7919 + i * 104_729) % vocabulary));
  const output = path.join(directory, 'out');
  const file = path.join(directory, 'tokens.jsonl');
  writeFileSync(file, tokens.map((sample) => `${JSON.stringify({ tokens: sample })}\n`).join(''));
  const data = method === 'gptq' ? ['--calibration', file] : [];
  const cli = fileURLToPath(new URL('../dist/cli/main.js', import.meta.url));
  const flags = [cli, 'quantize', model, '-o', output, '--method', method, ...data, '--dry-run', '--json'];
  const { memory, seconds } = JSON.parse(execFileSync(process.execPath, flags, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }));
  console.log(`estimated: peak ${(memory.peak_bytes / 1e9).toFixed(2)} GB, ${seconds.total.toFixed(0)} s`);
  const begin = performance.now();
  const report = await quantize({
    model,
    output,
    method,
    ...(method === 'gptq' ? { calibration: { file } } : {}),
    onProgress: ({ phase, block, fraction }) => process.stderr.write(`\r${phase} ${block} ${(100 * fraction).toFixed(0)} % `),
  });
  // VmHWM counts everything that was resident at once, mapped file pages too.
  const peak = Number(/VmHWM:\s+(\d+)/.exec(readFileSync('/proc/self/status', 'utf8'))[1]) * 1024;
  console.log(
    `\n${method}, ${layers} layers, ${report.totals.parameters} parameters: peak ${(peak / 1e9).toFixed(2)} GB, ${((performance.now() - begin) / 1000).toFixed(0)} s`,
  );
  if (!(peak < limit)) {
    console.error(`more than ${limit / 1e9} GB`);
    process.exitCode = 1;
  }
} finally {
  rmSync(directory, { recursive: true, force: true });
}

function writeModel(to) {
  const shapes = [
    ['model.embed_tokens.weight', vocabulary, hidden],
    ['lm_head.weight', vocabulary, hidden],
    ['model.norm.weight', hidden],
    ...Array.from({ length: Number(layers) }, (_, i) => `model.layers.${i}.`).flatMap((name) => [
      [`${name}input_layernorm.weight`, hidden],
      [`${name}post_attention_layernorm.weight`, hidden],
      ...['q', 'k', 'v', 'o'].map((projection) => [`${name}self_attn.${projection}_proj.weight`, hidden, hidden]),
      [`${name}mlp.gate_proj.weight`, feed, hidden],
      [`${name}mlp.up_proj.weight`, feed, hidden],
      [`${name}mlp.down_proj.weight`, hidden, feed],
    ]),
  ];
  let end = 0;
  const header = Object.fromEntries(
    shapes.map(([name, ...shape]) => {
      const begin = end;
      end += 2 * shape.reduce((a, b) => a * b, 1);
      return [name, { dtype: 'BF16', shape, data_offsets: [begin, end] }];
    }),
  );
  const json = Buffer.from(JSON.stringify(header));
  const start = Buffer.alloc(8);
  start.writeBigUInt64LE(BigInt(json.length));
  const file = openSync(path.join(to, 'model.safetensors'), 'w');
  writeSync(file, Buffer.concat([start, json]));
  // 4 MiB of noise with the spread of a trained weight, turned by a row from one piece to the next; norms are ones.
  let seed = 1;
  const noise = Uint16Array.from({ length: 2 ** 21 }, () => {
    seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
    return ((seed >>> 16) & 0x807f) | (0x3c00 + ((seed >>> 8) & 0x80)); // +-0.0078 to 0.03
  });
  for (const [, ...shape] of shapes) {
    let left = shape.reduce((a, b) => a * b, 1);
    const values = shape.length === 1 ? new Uint16Array(left).fill(0x3f80) : noise;
    for (; left > 0; left -= values.length) writeSync(file, values.subarray(0, Math.min(left, values.length)));
    noise.copyWithin(hidden + 1, 0, noise.length - hidden - 1);
  }
  closeSync(file);
  const config = {
    architectures: ['LlamaForCausalLM'],
    model_type: 'llama',
    hidden_size: hidden,
    intermediate_size: feed,
    num_hidden_layers: Number(layers),
    num_attention_heads: heads,
    num_key_value_heads: heads,
    vocab_size: vocabulary,
    max_position_embeddings: 2048,
    rms_norm_eps: 1e-5,
    rope_theta: 10000,
    hidden_act: 'silu',
    tie_word_embeddings: false,
    torch_dtype: 'bfloat16',
  };
  writeFileSync(path.join(to, 'config.json'), JSON.stringify(config));
}
