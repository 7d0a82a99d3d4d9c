/** Load to first token, the first time (mapping and packing) and the second (packed weights mapped from the cache), and memory. */
import { rm } from 'node:fs/promises';
import path from 'node:path';
import { lowbit } from '../engines/lowbit.mjs';
import { WrongAnswer, unknownOption } from '../run/child.mjs';

const CONTEXT = 512;

export const load = {
  name: 'load',
  about: 'load to first token, first and second time, and peak memory',
  async run(session) {
    const cases = [
      ['SmolLM2-135M Q4_0', () => session.files.smollm2('Q4_0')],
      ['1B layers Q4_0', () => session.files.synthetic('1B', 'Q4_0')],
      ['8B layers Q4_K_M', () => session.files.synthetic('8B', 'Q4_K_M')],
    ];
    for (const [name, make] of session.either(cases, cases.slice(0, 2))) {
      const where = { scenario: 'load', case: name };
      const model = await session.file(where, make);
      if (model === undefined || !(await session.checkAgreement(where, model))) continue;
      await measure(session, where, model);
    }
  },
};

async function measure(session, where, model) {
  const threads = session.allThreads;
  const packedCache = path.join(session.files.cache, 'packed');
  const request = { model, threads, contextSize: CONTEXT };
  const run = (extra) => lowbit.call('firstToken', { ...request, ...extra });
  const without = await unknownOption('packedCache', () => run({ packedCache }));
  const tokens = new Map();
  const checked = (variant, answer) => {
    tokens.set(variant, answer.tokens.join());
    if (new Set(tokens.values()).size > 1) throw new WrongAnswer(`${where.case}: the second load writes another text than the first`);
    return answer;
  };
  await session.alternate(where, [
    {
      engine: 'lowbit',
      threads,
      variant: 'first',
      run: async () => {
        await rm(packedCache, { recursive: true, force: true });
        return checked('first', await run(without === undefined ? { packedCache } : {}));
      },
    },
    { engine: 'lowbit', threads, variant: 'second', missing: without, run: async () => checked('second', await run({ packedCache })) },
  ]);
  await rm(packedCache, { recursive: true, force: true });
}
