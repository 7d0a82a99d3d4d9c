/** Prefill and decode of a few layers of Llama-3.2-1B and Llama-3.1-8B with random weights, against llama-bench. */
import { lowbit } from '../engines/lowbit.mjs';

export const layers = {
  name: 'layers',
  about: 'layers of the shapes of Llama 1B and 8B against llama-bench',
  async run(session) {
    const types = ['Q4_0', 'Q4_K_M', 'Q8_0', 'F16'].filter((type) => session.options.files.includes(type));
    const size = { prompt: session.either(512, 128), generate: session.either(32, 12) };
    const threadCounts = session.either(session.threads, session.threads.slice(0, 1));
    for (const shape of session.either(['1B', '8B'], ['1B'])) {
      for (const type of session.either(types, types.slice(0, 2))) {
        const where = { scenario: 'layers', case: `${shape} ${type}` };
        const model = await session.file(where, () => session.files.synthetic(shape, type));
        if (model === undefined || !(await session.checkAgreement(where, model))) continue;
        const contenders = threadCounts.flatMap((threads) => [
          { engine: 'lowbit', threads, run: () => lowbit.speed(model, { threads, ...size }) },
          { engine: 'llama.cpp', threads, missing: session.llama.missing, run: () => session.llama.speed(model, { threads, ...size }) },
        ]);
        await session.alternate(where, contenders, Math.min(session.rounds, 5));
      }
    }
  },
};
