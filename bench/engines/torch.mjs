/** bench/engines: torch and transformers in f32, against lowbit's exact path. Every call is a process of its own (torch_worker.py). */
import path from 'node:path';
import parse from '../pure/parse.cjs';
import { EngineFailure, runProgram } from '../run/child.mjs';

const worker = path.join(import.meta.dirname, 'torch_worker.py');

export class Torch {
  name = 'torch f32';

  constructor(python) {
    this.python = python;
  }

  async call(request) {
    return parse.parseLastJson(await runProgram(this.python, [worker, JSON.stringify(request)]));
  }

  /** Why it cannot run here; undefined when it can. */
  async missing() {
    if (this.python === undefined) return 'no Python with torch and transformers: give one with --python or LOWBIT_PYTHON';
    try {
      await this.call({ task: 'probe' });
      return undefined;
    } catch (error) {
      if (error instanceof EngineFailure) return error.message.slice(0, 200);
      throw error;
    }
  }
}
