/** Prefill and decode of SmolLM2-135M in every weight type, against llama-bench; GPTQ against lowbit's own Q4_0. */
import { lowbit } from '../engines/lowbit.mjs';

export const speed = {
  name: 'speed',
  about: 'prefill and decode of SmolLM2-135M in every weight type against llama-bench',
  async run(session) {
    const size = { prompt: session.either(512, 256), generate: session.either(64, 24) };
    for (const type of session.options.files) {
      const where = { scenario: 'speed', case: type };
      const model = await session.file(where, () => session.files.smollm2(type));
      if (model === undefined || !(await session.checkAgreement(where, model))) continue;
      const other = type === 'GPTQ' ? await session.file(where, () => session.files.smollm2('Q4_0')) : undefined;
      const contenders = session.threads.flatMap((threads) => [
        { engine: 'lowbit', threads, run: () => lowbit.speed(model, { threads, ...size }) },
        ...(type === 'GPTQ'
          ? [
              {
                engine: 'lowbit Q4_0',
                threads,
                missing: other ? undefined : 'no Q4_0 file',
                run: () => lowbit.speed(other, { threads, ...size }),
              },
            ]
          : [
              { engine: 'llama.cpp', threads, missing: session.llama.missing, run: () => session.llama.speed(model, { threads, ...size }) },
            ]),
      ]);
      await session.alternate(where, contenders);
    }
  },
};
