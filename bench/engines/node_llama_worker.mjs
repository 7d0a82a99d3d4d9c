/**
 * bench/engines: one measurement of node-llama-cpp on the CPU, the counterpart of `continuation` in lowbit_worker.mjs: a prompt of given
 * ids (or of a text), then its greedy continuation. Prints one line of JSON.
 */
import process from 'node:process';
import { getLlama } from 'node-llama-cpp';

const { model: modelPath, text, ids, prompt, generate, threads } = JSON.parse(process.argv[2]);
const llama = await getLlama({ gpu: false, build: 'never', logLevel: 'error', maxThreads: threads });
const begin = performance.now();
const model = await llama.loadModel({ modelPath });
const loadSeconds = (performance.now() - begin) / 1000;
const tokens = ids ?? model.tokenize(text).slice(0, prompt);
if (generate === 0) {
  console.log(JSON.stringify({ ids: [...tokens] }));
  process.exit(0);
}
const context = await model.createContext({ contextSize: tokens.length + generate + 8, batchSize: 512, threads });
const sequence = context.getSequence();
let answer;
for (let run = 0; run < 2; run++) {
  await sequence.clearHistory();
  const start = performance.now();
  await sequence.evaluateWithoutGeneratingNewTokens(tokens.slice(0, -1));
  const filled = performance.now();
  const generated = [];
  let first = 0;
  for await (const token of sequence.evaluate(tokens.slice(-1), { temperature: 0, yieldEogToken: true })) {
    generated.push(token);
    if (generated.length === 1) first = performance.now();
    if (generated.length > generate) break;
  }
  answer = {
    prefill_tokens_per_second: ((tokens.length - 1) / (filled - start)) * 1000,
    decode_tokens_per_second: ((generated.length - 1) / (performance.now() - first)) * 1000,
    load_seconds: loadSeconds,
    peak_rss_bytes: process.resourceUsage().maxRSS * 1024,
    tokens: generated,
  };
}
console.log(JSON.stringify(answer));
process.exit(0); // its threads would keep the process alive
