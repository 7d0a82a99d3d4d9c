/** Eight generations at once on one context, relative to one: the weights are read once for all of them. */
import { lowbit } from '../engines/lowbit.mjs';
import { repeatedText } from './node.mjs';

const SEQUENCES = 8;
const CHECKED = 8;

export const batch = {
  name: 'batch',
  about: `${SEQUENCES} sequences decoded together against one`,
  async run(session) {
    const generate = session.either(64, 24);
    for (const type of session.either(['Q4_0', 'Q8_0'], ['Q4_0']).filter((name) => session.options.files.includes(name))) {
      const where = { scenario: 'batch', case: type };
      const model = await session.file(where, () => session.files.smollm2(type));
      if (model === undefined || !(await session.checkAgreement(where, model))) continue;
      const { ids } = await lowbit.call('tokenize', { model, text: repeatedText, count: 128 + SEQUENCES });
      const run = async (threads) => {
        const answer = await lowbit.call('batch', { model, threads, ids, prompt: 128, sequences: SEQUENCES, generate });
        for (const [i, text] of answer.together.entries()) {
          session.sameTokens(where, 'the same sequence alone', text, answer.alone[i], CHECKED);
        }
        return { ...answer, sequences: SEQUENCES };
      };
      await session.alternate(
        where,
        session.threads.map((threads) => ({ engine: 'lowbit', threads, run: () => run(threads) })),
      );
    }
  },
};
