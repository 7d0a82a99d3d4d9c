/**
 * node bench/interop/llama_gguf.mjs <llama-perplexity> <text> <model.gguf...> [--chunks 24] [--context 512]: whether llama.cpp and lowbit compute the same
 * from GGUF files that lowbit wrote: perplexity over the same chunks of the same text, the table of docs/interop.md. Needs a build (npm run build), and
 * room for a copy in F32.
 *
 * llama.cpp multiplies blocks with activations rounded to 8 bits (groups of 32 columns, of K-quants 256), and F32 weights with activations as they are. So the
 * fast path here, which rounds activations in groups of 32, is held against llama.cpp on the file (0.5 %), and the exact path against llama.cpp on the same
 * weights in F32, written by convert (0.1 %). Exits with 1 where one is further away.
 */
import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import process from 'node:process';
import { parseArgs } from 'node:util';
import { convert, evaluate, loadModel } from '../../dist/index.js';

const limits = { fast: 0.005, exact: 0.001 };

/** What llama-perplexity says at its end: "Final estimate: PPL = 25.0783 +/- 0.40". */
function theirs(tool, file, text, chunks, contextSize) {
  return new Promise((resolve, reject) => {
    const child = spawn(tool, ['-m', file, '-f', text, '--chunks', String(chunks), '-c', String(contextSize)], {
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    let said = '';
    for (const stream of [child.stdout, child.stderr]) stream.on('data', (piece) => (said += piece));
    child.on('error', reject);
    child.on('close', (code) => {
      const value = /Final estimate: PPL\s*=\s*([\d.]+)/.exec(said)?.[1];
      if (code === 0 && value !== undefined) resolve(Number(value));
      else reject(new Error(`${tool} ended with ${code} and no estimate for ${file}:\n${said.slice(-2000)}`));
    });
  });
}

async function ours(file, text, chunks, contextSize, precision) {
  const model = await loadModel(file, { precision });
  try {
    const { perplexity } = await evaluate.perplexity(model, { text, chunks, contextSize });
    return perplexity;
  } finally {
    await model.dispose();
  }
}

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { chunks: { type: 'string', default: '24' }, context: { type: 'string', default: '512' } },
});
const [tool, textFile, ...files] = positionals;
if (files.length === 0) {
  process.stderr.write('node bench/interop/llama_gguf.mjs <llama-perplexity> <text> <model.gguf...> [--chunks 24] [--context 512]\n');
  process.exit(2);
}
const [chunks, contextSize] = [Number(values.chunks), Number(values.context)];
const text = readFileSync(textFile, 'utf8');
const percent = (own, reference) => `${own >= reference ? '+' : ''}${(100 * (own / reference - 1)).toFixed(2)} %`;
process.stdout.write(`${'file'.padEnd(32)} llama.cpp  fast              llama.cpp, F32  exact\n`);
for (const file of files) {
  const scratch = mkdtempSync(path.join(os.tmpdir(), 'lowbit-interop-'));
  const cells = [];
  try {
    const { output: dense } = await convert({ model: file, output: path.join(scratch, 'f32'), to: 'gguf', type: 'F32' });
    for (const [weights, precision] of [
      [file, 'fast'],
      [dense, 'exact'],
    ]) {
      const reference = await theirs(tool, weights, textFile, chunks, contextSize);
      const own = await ours(file, text, chunks, contextSize, precision);
      if (!(Math.abs(own / reference - 1) <= limits[precision])) process.exitCode = 1;
      cells.push(reference.toFixed(4).padEnd(precision === 'fast' ? 10 : 15), `${own.toFixed(4)} ${percent(own, reference)}`.padEnd(17));
    }
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
  const name = path.join(path.basename(path.dirname(file)), path.basename(file));
  process.stdout.write(`${name.padEnd(32)} ${cells.join(' ')}\n`);
}
