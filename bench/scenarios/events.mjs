/** How long the event loop waits while every core generates. */
import { lowbit } from '../engines/lowbit.mjs';

export const events = {
  name: 'events',
  about: 'delay of the event loop while generating with all cores',
  async run(session) {
    const type = session.options.files.includes('Q4_0') ? 'Q4_0' : session.options.files[0];
    const where = { scenario: 'events', case: type };
    const model = await session.file(where, () => session.files.smollm2(type));
    if (model === undefined || !(await session.checkAgreement(where, model))) return;
    const threads = session.allThreads;
    const generate = session.either(512, 128);
    await session.alternate(where, [{ engine: 'lowbit', threads, run: () => lowbit.call('eventLoop', { model, threads, generate }) }]);
  },
};
