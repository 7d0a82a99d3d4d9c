/**
 * A process spins on one of the cores while an engine uses two threads; each engine relative to its own single thread without that process.
 * What a Node server sees whenever its event loop, or a neighbour, works.
 */
import { lowbit } from '../engines/lowbit.mjs';
import { cannotPin, withBusyProcess } from '../run/busy.mjs';
import { repeatedText } from './node.mjs';

export const busy = {
  name: 'busy',
  about: 'two threads while a process spins on one core, relative to one thread without it',
  async run(session) {
    const type = session.options.files.includes('Q4_0') ? 'Q4_0' : session.options.files[0];
    const where = { scenario: 'busy', case: type };
    if (session.cpus.length < 2) return session.skip(where, 'lowbit', 'needs two processors');
    const unable = cannotPin();
    if (unable !== undefined) return session.skip(where, 'lowbit', unable);
    const model = await session.file(where, () => session.files.smollm2(type));
    if (model === undefined || !(await session.checkAgreement(where, model))) return undefined;
    // Engines that collapse need seconds per token here, hence few tokens.
    const size = { prompt: session.either(512, 128), generate: session.either(32, 16) };
    const cpu = session.cpus.at(-1);
    const { llama, nodeLlama } = session;
    const ids =
      nodeLlama.missing === undefined
        ? await session.attempt(where, nodeLlama.name, () => nodeLlama.tokenize(model, repeatedText, size.prompt))
        : undefined;
    const engines = [
      { engine: 'lowbit', run: (threads) => lowbit.speed(model, { threads, ...size }) },
      { engine: 'llama.cpp', missing: llama.missing, run: (threads) => llama.speed(model, { threads, ...size }) },
      {
        engine: nodeLlama.name,
        missing: ids === undefined ? (nodeLlama.missing ?? 'it cannot tokenise') : undefined,
        run: (threads) => nodeLlama.continuation(model, { ids, generate: size.generate, threads }),
      },
    ];
    return session.alternate(
      where,
      engines.flatMap(({ engine, missing, run }) => [
        { engine, missing, threads: 1, variant: 'idle', run: () => run(1) },
        { engine, missing, threads: 2, variant: 'busy', run: () => withBusyProcess(cpu, () => run(2)) },
      ]),
    );
  },
};
