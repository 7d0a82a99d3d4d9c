/** Seconds of a GPTQ run: 128 samples of 512 tokens, true-sequential, 4 bit, groups of 128; once also GPTQModel's. Off by default: minutes. */
import { existsSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import path from 'node:path';
import { gptqModelEngine } from '../engines/python.mjs';
import { lowbit } from '../engines/lowbit.mjs';

export const gptq = {
  name: 'gptq',
  about: 'seconds of a GPTQ run (off by default)',
  optional: true,
  async run(session) {
    const samples = session.either(128, 8);
    const where = { scenario: 'gptq', case: `4 bit g128, ${samples} x 512 tokens` };
    const model = session.files.checkpoint;
    const file = path.join(session.options.texts, 'cal_wiki.utf8');
    for (const needed of [model, file]) {
      if (!existsSync(needed)) return session.skip(where, 'file', `${needed} is missing: see docs/benchmarks.md`);
    }
    const threads = session.allThreads;
    const output = path.join(session.files.cache, 'gptq-run');
    const options = {
      model,
      output,
      method: 'gptq',
      preset: 'fast', // what GPTQModel does by default
      bits: 4,
      groupSize: 128,
      threads,
      calibration: { file },
      calibrationSamples: samples,
      calibrationLength: 512,
    };
    const run = async () => {
      await rm(output, { recursive: true, force: true });
      return lowbit.call('compress', { options }, { timeoutSeconds: 3600 });
    };
    await session.alternate(where, [{ engine: 'lowbit', threads, run }], Math.min(session.rounds, session.either(3, 1)));
    await peer(session, where, {
      model: path.resolve(model),
      output: path.resolve(output),
      text: path.resolve(file),
      samples,
      length: 512,
      bits: 4,
      group_size: 128,
      threads,
    });
    return rm(output, { recursive: true, force: true });
  },
};

/** One run of several minutes: the ratio does not hang on a few per cent. */
async function peer(session, where, request) {
  const gptqModel = gptqModelEngine(session.options.python);
  const run = async () => {
    await rm(request.output, { recursive: true, force: true });
    return gptqModel.call({ task: 'quantize', ...request }, { timeoutSeconds: 3600 });
  };
  const missing = await gptqModel.missing();
  await session.alternate(where, [{ engine: gptqModel.name, threads: request.threads, missing, run }], 1);
}
