/** Against node-llama-cpp: the same file, the same prompt, greedy, through both Node APIs. */
import { lowbit } from '../engines/lowbit.mjs';

/** Its greedy continuation goes on with the repetition, with margins that no rounding turns. */
const SENTENCE = 'The history of the city begins in the early middle ages when a small settlement was founded near the river. ';
const CHECKED = 16;

export const repeatedText = SENTENCE.repeat(64);

export const node = {
  name: 'node',
  about: 'the same prompt and its greedy continuation through the Node APIs of lowbit and node-llama-cpp',
  async run(session) {
    const prompt = session.either(512, 256);
    const generate = session.either(64, 24);
    for (const type of session.either(['Q4_0', 'Q8_0'], ['Q4_0']).filter((name) => session.options.files.includes(name))) {
      const where = { scenario: 'node', case: type };
      const { nodeLlama } = session;
      if (nodeLlama.missing !== undefined) {
        session.skip(where, nodeLlama.name, nodeLlama.missing);
        continue;
      }
      const model = await session.file(where, () => session.files.smollm2(type));
      const ids = model && (await session.attempt(where, nodeLlama.name, () => nodeLlama.tokenize(model, repeatedText, prompt)));
      if (ids === undefined) continue;
      const request = { ids, generate };
      const texts = new Map();
      const keep = async (engine, answer) => {
        const found = await answer;
        if (!texts.has(engine)) {
          texts.set(engine, found.tokens);
          if (texts.size === 2) session.sameTokens(where, nodeLlama.name, texts.get('lowbit'), texts.get(nodeLlama.name), CHECKED);
        }
        return found;
      };
      const contenders = session.threads.flatMap((threads) => [
        { engine: 'lowbit', threads, run: () => keep('lowbit', lowbit.call('continuation', { model, threads, ...request })) },
        { engine: nodeLlama.name, threads, run: () => keep(nodeLlama.name, nodeLlama.continuation(model, { threads, ...request })) },
      ]);
      await session.alternate(where, contenders);
    }
  },
};
