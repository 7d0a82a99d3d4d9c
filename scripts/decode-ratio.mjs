/**
 * node scripts/decode-ratio.mjs <threads> <rounds> <model> <model> ...: decode speed of models relative to the first, which is what a kernel's cost shows on
 * a machine whose memory is shared: all are loaded into one process and take turns of 16 tokens, each behind 64 of prompt. Per model the
 * median tokens per second and the median over the rounds of its speed over the first one's in the same round, with quartiles.
 * Run it on an idle machine. LOWBIT_DIST names another build of lib/.
 */
import { createRequire } from 'node:module';
import path from 'node:path';
import process from 'node:process';
import { fileURLToPath } from 'node:url';

const here = path.dirname(fileURLToPath(import.meta.url));
const { loadModel } = createRequire(import.meta.url)(process.env.LOWBIT_DIST ?? path.join(here, '../dist/index.js'));
const [threads, rounds, ...paths] = process.argv.slice(2).map((word, i) => (i < 2 ? Number(word) : word));
if (!(threads >= 1 && rounds >= 1 && paths.length >= 2)) {
  console.error('usage: node scripts/decode-ratio.mjs <threads> <rounds> <model> <model> ...');
  process.exit(1);
}

const promptTokens = 64;
const tokens = 16;
const runs = [];
for (const model of paths) {
  const loaded = await loadModel(model, { threads });
  const prompt = Int32Array.from({ length: promptTokens }, (_, i) => (i * 7919 + 13) % loaded.vocabSize);
  runs.push({ model, loaded, prompt, context: await loaded.createContext({ contextSize: promptTokens + tokens + 1 }), speeds: [] });
}
for (let round = -1; round < rounds; round++)
  for (const { context, prompt, speeds } of runs) {
    await context.reset();
    const stream = context.generateTokens(prompt, { maxTokens: tokens + 1, ignoreEos: true });
    while (!(await stream.next()).done);
    if (round >= 0) speeds.push(stream.result.timing.decodeTokensPerSecond); // the first round warms up
  }

const quantile = (values, q) => [...values].sort((a, b) => a - b)[Math.min(values.length - 1, Math.floor(values.length * q))];
const [first] = runs;
for (const { model, speeds } of runs) {
  const ratios = speeds.map((speed, i) => speed / first.speeds[i]);
  const [low, middle, high] = [0.25, 0.5, 0.75].map((q) => quantile(ratios, q).toFixed(3));
  console.log(`${middle} (${low} to ${high})  ${quantile(speeds, 0.5).toFixed(1)} tok/s, best ${Math.max(...speeds).toFixed(1)}  ${model}`);
}
await Promise.all(runs.map(({ loaded }) => loaded.dispose()));
