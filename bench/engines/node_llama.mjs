/** bench/engines: node-llama-cpp, llama.cpp as Node users know it. Every call is a process of its own. */
import { existsSync } from 'node:fs';
import path from 'node:path';
import { runWorker } from '../run/child.mjs';

const worker = path.join(import.meta.dirname, 'node_llama_worker.mjs');
const folder = path.join(import.meta.dirname, '..', 'node_modules', 'node-llama-cpp');

export const nodeLlama = {
  name: 'node-llama-cpp',
  get missing() {
    return existsSync(folder) ? undefined : 'not installed: run "npm run bench -- setup"';
  },
  /** Ids of a text, as its tokenizer cuts it. */
  tokenize: async (model, text, prompt) => (await runWorker(worker, { model, text, prompt, generate: 0, threads: 1 })).ids,
  continuation: (model, request) => runWorker(worker, { model, ...request }),
};
