/**
 * bench/engines: one measurement of lowbit through its public API, in a process of its own. Takes a request as its argument, prints one
 * line of JSON: a value of `tasks` below. Rates are tokens per second, times seconds, sizes bytes.
 */
import { createHash } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { monitorEventLoopDelay } from 'node:perf_hooks';
import process from 'node:process';
import { setTimeout as sleep } from 'node:timers/promises';
import agree from '../pure/agreement.cjs';

const { engineInfo, evaluate, inspect, loadModel, quantize } = createRequire(import.meta.url)('../../dist/index.js');

/** Any ids will do for speed; a prime step spreads them over the vocabulary. */
const anyTokens = (count, vocabulary) => Int32Array.from({ length: count }, (_, i) => (i * 7919 + 13) % vocabulary);

/** Disposed of when the answer is there. */
const models = [];

async function open(path, options) {
  models.push(await loadModel(path, options));
  return models.at(-1);
}

const load = ({ model, threads, precision = 'fast' }) => open(model, { precision, ...(threads === undefined ? {} : { threads }) });

/** Runs a generation to its end and returns its result. */
async function finish(stream) {
  while (!(await stream.next()).done);
  return stream.result;
}

/** Prompt and generation apart, each from an empty context (or `depth` tokens), as llama-bench measures; one warm-up of both. */
async function speed(request) {
  const { prompt = 0, generate = 0, depth = 0 } = request;
  const model = await load(request);
  const start = Math.max(depth, 1);
  const context = await model.createContext({ contextSize: Math.max(prompt + 1, start + generate + 1) });
  const rate = async (length, count) => {
    await context.reset();
    const options = { maxTokens: count, ignoreEos: true };
    return (await finish(context.generateTokens(anyTokens(length, model.vocabSize), options))).timing;
  };
  const answer = { weight_bytes: model.info.weightBytes };
  if (prompt > 0) {
    await rate(prompt, 1);
    answer.prefill_tokens_per_second = (await rate(prompt, 1)).prefillTokensPerSecond;
  }
  if (generate > 0) {
    await rate(1, Math.min(generate, 8));
    answer.decode_tokens_per_second = (await rate(start, generate + 1)).decodeTokensPerSecond;
  }
  return answer;
}

/** One conversation's way: a prompt of given ids, then its greedy continuation. */
async function continuation(request) {
  const { ids, generate, options = {} } = request;
  const begin = performance.now();
  const model = await load(request);
  const loadSeconds = (performance.now() - begin) / 1000;
  const context = await model.createContext({ contextSize: ids.length + generate + 8 });
  let result;
  for (let i = 0; i < 2; i++) {
    await context.reset();
    result = await finish(context.generateTokens(ids, { ...options, maxTokens: generate + 1, ignoreEos: true }));
  }
  return {
    prefill_tokens_per_second: result.timing.prefillTokensPerSecond,
    decode_tokens_per_second: result.timing.decodeTokensPerSecond,
    load_seconds: loadSeconds,
    peak_rss_bytes: peakRss(),
    tokens: [...result.tokens],
  };
}

/** `sequences` generations at once on one context, each of another part of `ids`, and the first and the last of them alone. */
async function batch(request) {
  const { ids, prompt, sequences, generate } = request;
  const model = await load(request);
  const context = await model.createContext({ contextSize: prompt + generate + 8, sequences });
  const run = async (count, tokens, from = 0) => {
    // The prompts are read before: what is left of them is one token, so that all sequences begin to decode together.
    const text = (sequence) => ids.slice(sequence, sequence + prompt);
    for (let sequence = from; sequence < from + count; sequence++) {
      await finish(context.generateTokens(text(sequence), { maxTokens: 1, ignoreEos: true, sequence }));
    }
    // Counted from the moment every sequence has its first token until the first one ends: prefill and stragglers are no part of it.
    const seen = { begin: 0, end: 0, tokens: 0, waiting: count };
    const one = async (sequence) => {
      const own = [];
      for await (const token of context.generateTokens(text(sequence), { maxTokens: tokens, ignoreEos: true, sequence })) {
        own.push(token);
        if (own.length === 1 && --seen.waiting === 0) seen.begin = performance.now();
        else if (seen.waiting === 0 && seen.end === 0) seen.tokens++;
      }
      if (seen.end === 0) seen.end = performance.now();
      return own;
    };
    const texts = await Promise.all(Array.from({ length: count }, (_, i) => one(from + i)));
    if (seen.tokens < (count * tokens) / 2)
      throw new Error(`Only ${seen.tokens} of ${count} x ${tokens} tokens were decoded together: generate more`);
    return { rate: (seen.tokens / (seen.end - seen.begin)) * 1000, texts };
  };
  await run(sequences, 16);
  const first = await run(1, generate);
  const last = await run(1, generate, sequences - 1);
  const together = await run(sequences, generate);
  return {
    decode_tokens_per_second: together.rate,
    alone_tokens_per_second: first.rate,
    alone: [first.texts[0], last.texts[0]],
    together: [together.texts[0], together.texts[sequences - 1]],
  };
}

/** Load to first token with nothing loaded before, and what it costs in memory. */
async function firstToken(request) {
  const { model: path, threads, packedCache, contextSize } = request;
  const { layers, nKvHeads, headDim, storedBytes } = await inspect(path);
  const before = process.memoryUsage().rss;
  const begin = performance.now();
  const model = await open(path, { threads, ...(packedCache === undefined ? {} : { packedCache }) });
  const loaded = performance.now();
  const context = await model.createContext({ contextSize });
  const stream = context.generateTokens(anyTokens(16, model.vocabSize), { maxTokens: 1, ignoreEos: true });
  await finish(stream);
  const first = performance.now();
  const kvBytes = 2 * 2 * layers * nKvHeads * headDim * contextSize;
  return {
    load_seconds: (loaded - begin) / 1000,
    first_token_seconds: (first - begin) / 1000,
    stored_bytes: storedBytes,
    load_bytes_per_second: storedBytes / ((loaded - begin) / 1000),
    weight_bytes: model.info.weightBytes,
    packed_cache: model.info.packedCache,
    kv_bytes: kvBytes,
    peak_rss_bytes: peakRss(),
    // What loading and running added to an empty Node process, relative to what must be in memory.
    peak_over_needed: (peakRss() - before) / (model.info.weightBytes + kvBytes),
    tokens: [...stream.result.tokens],
  };
}

/** Delay of the event loop, idle and while every core generates. */
async function eventLoop(request) {
  const model = await load(request);
  const context = await model.createContext({ contextSize: 64 + request.generate + 8 });
  const watch = async (work) => {
    const delay = monitorEventLoopDelay({ resolution: 1 });
    await sleep(5); // the first interval is not a delay of anything
    delay.enable();
    const result = await work();
    delay.disable();
    return { p99: delay.percentile(99) / 1e6, max: delay.max / 1e6, result };
  };
  await finish(context.generateTokens(anyTokens(64, model.vocabSize), { maxTokens: 8, ignoreEos: true }));
  await context.reset();
  const idle = await watch(() => sleep(1000));
  const busy = await watch(() =>
    finish(context.generateTokens(anyTokens(64, model.vocabSize), { maxTokens: request.generate, ignoreEos: true })),
  );
  return {
    p99_milliseconds: busy.p99,
    max_milliseconds: busy.max,
    idle_p99_milliseconds: idle.p99,
    decode_tokens_per_second: busy.result.timing.decodeTokensPerSecond,
  };
}

/** Mean divergence from log-probabilities that llama-perplexity wrote, or that the exact path computes for the same tokens. */
async function compare(request) {
  const { tokens, first, reference } = request.reference === undefined ? await exactReference(request) : fileReference(request.reference);
  const model = await load(request);
  const pairs = [];
  for (const [chunk, ids] of tokens.entries()) {
    const logits = await evaluate.logits(model, ids);
    for (let row = 0; row < ids.length - 1 - first; row++) {
      const at = (first + row) * model.vocabSize;
      pairs.push(agree.divergence(reference(chunk, row), agree.logProbabilities(logits.subarray(at, at + model.vocabSize))));
    }
  }
  return agree.meanAgreement(pairs);
}

function fileReference(file) {
  const { tokens, first, rows } = agree.readLogProbabilities(readFileSync(file));
  return { tokens, first, reference: rows };
}

async function exactReference(request) {
  const model = await load({ ...request, precision: 'exact' });
  const ids = model.tokenizer.encode(readFileSync(request.text, 'utf8')).slice(0, 256);
  const first = ids.length >> 1;
  const logits = await evaluate.logits(model, ids);
  const reference = (_, row) =>
    agree.logProbabilities(logits.subarray((first + row) * model.vocabSize, (first + row + 1) * model.vocabSize));
  return { tokens: [ids], first, reference };
}

/** Logits of given ids to a file, float32, for a comparison elsewhere. */
async function logits(request) {
  const model = await load(request);
  const values = await evaluate.logits(model, request.ids);
  writeFileSync(request.output, Buffer.from(values.buffer, values.byteOffset, values.byteLength));
  return { sha256: createHash('sha256').update(readFileSync(request.output)).digest('hex'), vocabulary: model.vocabSize };
}

async function tokenize(request) {
  const model = await load(request);
  return { ids: [...model.tokenizer.encode(request.text).slice(0, request.count)] };
}

/** Perplexity as llama.cpp's tool computes it, over chunks of 512 tokens. */
async function perplexity(request) {
  const model = await load(request);
  const text = readFileSync(request.text, 'utf8');
  return { perplexity: (await evaluate.perplexity(model, { text, contextSize: 512, chunks: request.chunks })).perplexity };
}

async function compress(request) {
  const begin = performance.now();
  await quantize(request.options);
  return { seconds: (performance.now() - begin) / 1000, peak_rss_bytes: peakRss() };
}

const peakRss = () => process.resourceUsage().maxRSS * 1024;

const tasks = {
  info: async () => ({ ...engineInfo() }),
  speed,
  continuation,
  batch,
  firstToken,
  eventLoop,
  compare,
  logits,
  tokenize,
  perplexity,
  compress,
};

const request = JSON.parse(process.argv[2]);
try {
  const answer = await tasks[request.task](request);
  for (const model of models) await model.dispose();
  console.log(JSON.stringify(answer));
} catch (error) {
  console.error(error.code === undefined ? error.stack : `${error.code}: ${error.message}`);
  process.exitCode = 1;
}
