/** Streams text as the model writes it. Ctrl-C stops it. node examples/stream.mjs <model> [prompt] */
import process from 'node:process';
import { loadModel } from 'lowbit';

const [path, prompt = 'Once upon a time'] = process.argv.slice(2);
const abort = new AbortController();
process.once('SIGINT', () => abort.abort());

const model = await loadModel(path);
try {
  const context = await model.createContext();
  const stream = context.generate(prompt, { maxTokens: 100, temperature: 0.7, topP: 0.95, signal: abort.signal });
  process.stdout.write(prompt);
  for await (const piece of stream) process.stdout.write(piece);
  const { finishReason, tokens, seed, timing } = stream.result;
  console.log(`\n\n${tokens.length} tokens, ${timing.decodeTokensPerSecond.toFixed(0)} per second, ended by ${finishReason}, seed ${seed}`);
} catch (error) {
  if (error.code !== 'CANCELLED') throw error;
} finally {
  await model.dispose();
}
