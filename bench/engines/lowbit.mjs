/** bench/engines: lowbit, through its public API. Every call is a process of its own (lowbit_worker.mjs). */
import path from 'node:path';
import { runWorker } from '../run/child.mjs';

const worker = path.join(import.meta.dirname, 'lowbit_worker.mjs');

export const lowbit = {
  name: 'lowbit',
  /** @param {string} task see lowbit_worker.mjs */
  call: (task, request = {}, options) => runWorker(worker, { task, ...request }, options),
  speed: (model, request) => runWorker(worker, { task: 'speed', model, ...request }),
};
