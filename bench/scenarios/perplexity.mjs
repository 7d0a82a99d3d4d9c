/**
 * Perplexity of the fast and the exact path on WikiText-2, in every weight type: 96 chunks, because over 24 the difference itself carries a
 * noise of 0.1 %. Off by default: minutes, and no question of time.
 */
import { existsSync } from 'node:fs';
import path from 'node:path';
import { lowbit } from '../engines/lowbit.mjs';

export const perplexity = {
  name: 'perplexity',
  about: 'perplexity of the fast and the exact path in every weight type (off by default)',
  optional: true,
  async run(session) {
    const text = path.join(session.options.texts, 'wiki.test.raw');
    const threads = session.allThreads;
    for (const type of session.options.files) {
      const where = { scenario: 'perplexity', case: type };
      if (!existsSync(text)) {
        session.skip(where, 'file', `${text} is missing: see docs/benchmarks.md`);
        continue;
      }
      const model = await session.file(where, () => session.files.smollm2(type));
      if (model === undefined) continue;
      const contender = (precision) => ({
        engine: 'lowbit',
        threads,
        variant: precision,
        run: () => lowbit.call('perplexity', { model, threads, precision, text, chunks: session.either(96, 2) }, { timeoutSeconds: 1200 }),
      });
      await session.alternate(where, [contender('exact'), contender('fast')], 1);
    }
  },
};
