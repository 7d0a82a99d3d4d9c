/** bench/engines: a peer written in Python. Every call is a process of its own: a worker that takes a JSON request and prints one. */
import path from 'node:path';
import parse from '../pure/parse.cjs';
import { EngineFailure, runProgram } from '../run/child.mjs';

export class PythonEngine {
  /** @param needs the packages that the worker imports, for the message that one is missing */
  constructor(name, worker, needs, python) {
    this.name = name;
    this.worker = path.join(import.meta.dirname, worker);
    this.needs = needs;
    this.python = python;
  }

  async call(request, options) {
    return parse.parseLastJson(await runProgram(this.python, [this.worker, JSON.stringify(request)], options));
  }

  /** Why it cannot run here; undefined when it can. */
  async missing() {
    if (this.python === undefined) return `no Python with ${this.needs}: give one with --python or LOWBIT_PYTHON`;
    try {
      await this.call({ task: 'probe' });
      return undefined;
    } catch (error) {
      if (error instanceof EngineFailure) return error.message.slice(0, 200);
      throw error;
    }
  }
}

/** torch and transformers in f32, against lowbit's exact path. */
export const torchEngine = (python) => new PythonEngine('torch f32', 'torch_worker.py', 'torch and transformers', python);

/** The tool that lowbit's GPTQ run is compared with. */
export const gptqModelEngine = (python) => new PythonEngine('GPTQModel', 'gptqmodel_worker.py', 'gptqmodel', python);
