/** Prompt-lookup decoding on a text that repeats itself, relative to plain decoding: the same greedy text, in fewer steps. */
import { lowbit } from '../engines/lowbit.mjs';
import { unknownOption } from '../run/child.mjs';
import { repeatedText } from './node.mjs';

export const lookup = {
  name: 'lookup',
  about: 'prompt-lookup decoding against plain decoding, with the same text',
  async run(session) {
    const generate = session.either(128, 48);
    const type = session.options.files.includes('Q4_0') ? 'Q4_0' : session.options.files[0];
    const where = { scenario: 'lookup', case: type };
    const model = await session.file(where, () => session.files.smollm2(type));
    if (model === undefined || !(await session.checkAgreement(where, model))) return;
    const { ids } = await lowbit.call('tokenize', { model, text: repeatedText, count: 256 });
    const call = (threads, options) => lowbit.call('continuation', { model, threads, ids, generate, options });
    const missing = await unknownOption('promptLookup', () => call(1, { promptLookup: true }));
    if (missing !== undefined) return session.skip(where, 'lowbit', missing);
    const plain = (await call(1, {})).tokens;
    const contenders = session.threads.flatMap((threads) => [
      { engine: 'lowbit', threads, variant: 'plain', run: () => call(threads, {}) },
      {
        engine: 'lowbit',
        threads,
        variant: 'lookup',
        run: async () => {
          const answer = await call(threads, { promptLookup: true });
          session.sameTokens(where, 'plain decoding', answer.tokens, plain, generate);
          return answer;
        },
      },
    ]);
    return session.alternate(where, contenders);
  },
};
