/** bench/engines: GPTQModel, the Python tool that lowbit's GPTQ run is compared with. A run is a process of its own (gptqmodel_worker.py). */
import path from 'node:path';
import parse from '../pure/parse.cjs';
import { EngineFailure, runProgram } from '../run/child.mjs';

const worker = path.join(import.meta.dirname, 'gptqmodel_worker.py');

export class GptqModel {
  name = 'GPTQModel';

  constructor(python) {
    this.python = python;
  }

  async call(request, options) {
    return parse.parseLastJson(await runProgram(this.python, [worker, JSON.stringify(request)], options));
  }

  /** Why it cannot run here; undefined when it can. */
  async missing() {
    if (this.python === undefined) return 'no Python with gptqmodel: give one with --python or LOWBIT_PYTHON';
    try {
      await this.call({ task: 'probe' });
      return undefined;
    } catch (error) {
      if (error instanceof EngineFailure) return error.message.slice(0, 200);
      throw error;
    }
  }
}
