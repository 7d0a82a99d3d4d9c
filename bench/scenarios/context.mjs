/** Decode behind contexts of growing length, relative to an empty one: SmolLM2, whose keys and values soon outweigh its weights, and layers of 8B. */
import { lowbit } from '../engines/lowbit.mjs';

const DEPTHS = [0, 128, 1024, 4096];

export const context = {
  name: 'context',
  about: `decode behind ${DEPTHS.slice(1).join(', ')} tokens against an empty context`,
  async run(session) {
    const type = session.options.files.includes('Q4_0') ? 'Q4_0' : session.options.files[0];
    await compare(session, type, DEPTHS, () => session.files.smollm2(type));
    if (!session.options.quick) await compare(session, `8B layers ${type}`, [0, 4096], () => session.files.synthetic('8B', type));
  },
};

async function compare(session, name, depths, find) {
  const generate = session.either(48, 16);
  const where = { scenario: 'context', case: name };
  const model = await session.file(where, find);
  if (model === undefined || !(await session.checkAgreement(where, model))) return;
  const { llama } = session;
  for (const threads of session.either(session.threads, session.threads.slice(0, 1))) {
    const contenders = depths.flatMap((depth) => [
      { engine: 'lowbit', threads, variant: String(depth), run: () => lowbit.speed(model, { threads, generate, depth }) },
      {
        engine: 'llama.cpp',
        missing: llama.missing,
        threads,
        variant: String(depth),
        run: () => llama.speed(model, { threads, generate, depth }),
      },
    ]);
    await session.alternate(where, contenders, Math.min(session.rounds, 3));
  }
}
