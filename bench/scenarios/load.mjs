/** Load to first token: packing, packing and writing the cache of packed weights, and reading that cache; and memory. */
import { rm } from 'node:fs/promises';
import path from 'node:path';
import { lowbit } from '../engines/lowbit.mjs';
import { EngineFailure, WrongAnswer, unknownOption } from '../run/child.mjs';

const CONTEXT = 512;

export const load = {
  name: 'load',
  about: 'load to first token, first and second time, and peak memory',
  async run(session) {
    const cases = [
      ['SmolLM2-135M Q4_0', () => session.files.smollm2('Q4_0')],
      ['1B layers Q4_0', () => session.files.synthetic('1B', 'Q4_0')],
      ['eight 8B layers Q4_K_M', () => session.files.synthetic('eight 8B', 'Q4_K_M')],
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
  const clear = () => rm(packedCache, { recursive: true, force: true });
  const request = { model, threads, contextSize: CONTEXT };
  const run = (extra) => lowbit.call('firstToken', { ...request, ...extra });
  const missing = await unknownOption('packedCache', () => run({ packedCache }));
  const tokens = new Set();
  const load = (variant, expected, extra) => ({
    engine: 'lowbit',
    threads,
    variant,
    missing: extra.packedCache === undefined ? undefined : missing,
    run: async () => {
      if (expected === 'written') await clear();
      const answer = await run(extra);
      if (expected !== undefined && answer.packed_cache !== expected) {
        throw new EngineFailure(`the packed cache is "${answer.packed_cache}" where "${expected}" was expected`);
      }
      tokens.add(answer.tokens.join());
      if (tokens.size > 1) throw new WrongAnswer(`${where.case}: loads of one model write different texts`);
      return answer;
    },
  });
  await session.alternate(where, [
    load('first', undefined, {}),
    load('writing', 'written', { packedCache }),
    load('second', 'hit', { packedCache }),
  ]);
  await clear();
}
