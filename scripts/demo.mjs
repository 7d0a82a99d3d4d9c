/**
 * npm run demo: compresses a model to 4 bit with GPTQ, measures it before and after on text it was not calibrated on, and lets the
 * compressed model write. Uses the built package (dist/) and the story model that the tests use, or --model <directory or .gguf>.
 * Everything is written to a temporary directory and removed. --json prints one JSON object instead.
 */
import { existsSync } from 'node:fs';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import process from 'node:process';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { parseArgs } from 'node:util';

const root = path.join(path.dirname(fileURLToPath(import.meta.url)), '..');
const storyModel = path.join(root, 'test', 'fixtures', 'tiny-stories');

const help = `Usage: npm run demo -- [--model <directory or .gguf>] [--prompt <text>] [--json]
The model may bring a text.txt: its first half calibrates, the rest evaluates. Without one, the story model's text is used.`;

/** Enough for a figure, and a matter of seconds for a model of 100 M parameters. */
const maxChunks = 16;

const { values: flags } = parseArgs({
  options: {
    json: { type: 'boolean', default: false },
    model: { type: 'string', default: storyModel },
    prompt: { type: 'string', default: 'Once upon a time' },
    help: { type: 'boolean', short: 'h', default: false },
  },
});
const say = (line) => flags.json || console.log(line);

async function demo(lowbit, directory, signal) {
  const { evaluate, inspect, loadModel, quantize } = lowbit;
  const name = path.basename(path.resolve(flags.model));
  const output = path.join(directory, `${name}-4bit`);
  const [calibration, unseen] = halves(await modelText(flags.model));

  const withModel = async (file, precision, work) => {
    const model = await loadModel(file, { precision, signal });
    try {
      return await work(model);
    } finally {
      await model.dispose();
    }
  };
  const perplexity = (file) =>
    withModel(file, 'exact', (model) => {
      const tokens = model.tokenizer.encode(unseen);
      return evaluate.perplexity(model, { tokens, contextSize: chunkSize(tokens.length, model.contextLength), chunks: maxChunks, signal });
    });
  const tell = (file) =>
    withModel(file, 'fast', async (model) => {
      const context = await model.createContext({ contextSize: Math.min(model.contextLength, 512) });
      const stream = context.generate(flags.prompt, {
        maxTokens: 200,
        temperature: 0.7,
        topP: 0.95,
        seed: 7,
        stop: '<|endoftext|>',
        signal,
      });
      let text = '';
      if (!flags.json) process.stdout.write(`  ${flags.prompt}`);
      for await (const piece of stream) {
        text += piece;
        if (!flags.json) process.stdout.write(piece.replaceAll('\n', '\n  '));
      }
      return { text, generated: stream.result.tokens.length, rate: stream.result.timing.decodeTokensPerSecond, info: model.info };
    });

  const before = await inspect(flags.model);
  say(`\n${name}: ${before.architecture}, ${(before.parameters / 1e6).toPrecision(3)} M parameters, ${megabytes(before.storedBytes)}\n`);
  const report = await quantize({ model: flags.model, output, method: 'gptq', bits: 4, groupSize: 128, calibration, signal });
  const after = await inspect(output);
  say(
    `  size         ${megabytes(before.storedBytes)} -> ${megabytes(after.storedBytes)}, by GPTQ to 4 bit in ${report.totals.seconds.toFixed(1)} s`,
  );
  say(
    `  bits/weight  ${before.bitsPerWeight.toFixed(2)} -> ${after.bitsPerWeight.toFixed(2)} (compressed linears ${report.totals.bitsPerWeight.toFixed(2)}, the rest as it was)`,
  );
  const original = await perplexity(flags.model);
  const compressed = await perplexity(output);
  const change = (compressed.perplexity / original.perplexity - 1) * 100;
  say(
    `  perplexity   ${original.perplexity.toFixed(3)} -> ${compressed.perplexity.toFixed(3)} (${change < 0 ? '' : '+'}${change.toFixed(1)} %) on ${compressed.tokens} tokens not calibrated on\n`,
  );
  const story = await tell(output);
  say(
    `\n\n  ${story.generated} tokens, ${story.rate.toFixed(0)} per second on ${story.info.threads} thread${story.info.threads === 1 ? '' : 's'} (${story.info.isa})\n`,
  );

  return {
    model: name,
    architecture: before.architecture,
    parameters: before.parameters,
    method: 'gptq',
    bits: 4,
    bits_per_weight: after.bitsPerWeight,
    bits_per_weight_quantized: report.totals.bitsPerWeight,
    bytes_before: before.storedBytes,
    bytes_after: after.storedBytes,
    quantize_seconds: report.totals.seconds,
    perplexity_before: original.perplexity,
    perplexity_after: compressed.perplexity,
    tokens: compressed.tokens,
    context_size: compressed.contextSize,
    decode_tokens_per_second: story.rate,
    isa: story.info.isa,
    threads: story.info.threads,
    text: story.text,
  };
}

/** text.txt beside the model, else the story model's. */
async function modelText(model) {
  const own = path.join(model, 'text.txt');
  return readFile(existsSync(own) ? own : path.join(storyModel, 'text.txt'), 'utf8');
}

/** Cut at a line's end, so that no word is. */
function halves(text) {
  const end = text.indexOf('\n', text.length >> 1) + 1 || text.length >> 1;
  return [text.slice(0, end), text.slice(end)];
}

/** The largest power of two up to 512 of which the text holds two chunks. */
function chunkSize(tokens, contextLength) {
  let size = 512;
  while (size > 4 && (2 * size > tokens || size > contextLength)) size /= 2;
  return size;
}

const megabytes = (bytes) => `${(bytes / 1e6).toPrecision(3)} MB`;

async function main() {
  if (flags.help) return console.log(help);
  const entry = path.join(root, 'dist', 'index.js');
  if (!existsSync(entry)) throw new Error('dist/ is missing: run npm install or npm run compile first');
  const { default: lowbit } = await import(pathToFileURL(entry).href);
  const abort = new AbortController();
  process.once('SIGINT', () => abort.abort());
  const directory = await mkdtemp(path.join(os.tmpdir(), 'lowbit-demo-'));
  try {
    const result = await demo(lowbit, directory, abort.signal);
    if (flags.json) console.log(JSON.stringify(result));
  } catch (error) {
    if (!abort.signal.aborted) throw error;
    process.exitCode = 130;
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}

main().catch((error) => {
  console.error(`demo: ${error.message}`);
  process.exitCode = 1;
});
