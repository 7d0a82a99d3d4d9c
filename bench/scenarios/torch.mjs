/** The exact path against torch and transformers in f32 on the bf16 checkpoint. */
import { existsSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import path from 'node:path';
import { lowbit } from '../engines/lowbit.mjs';
import { WrongAnswer } from '../run/child.mjs';

/** Of the largest logit: both sum in f32, in orders of their own, through 30 layers. Measured 2e-6; a wrong epsilon or angle costs 1e-2. */
const TOLERANCE = 1e-4;
const CHECKED_TOKENS = 64;

export const torch = {
  name: 'torch',
  about: 'the exact path against torch in f32',
  async run(session) {
    const where = { scenario: 'torch', case: 'BF16 checkpoint' };
    const missing = await session.torch.missing();
    if (missing !== undefined) return session.skip(where, session.torch.name, missing);
    const model = session.files.checkpoint;
    if (!existsSync(model)) return session.skip(where, 'file', `${model} is missing: run "npm run model:smollm2"`);
    const size = { prompt: session.either(512, 128), generate: session.either(32, 12) };
    const ids = Array.from({ length: CHECKED_TOKENS }, (_, i) => (i * 7919 + 13) % 49152);
    const logits = path.join(session.files.cache, 'exact.logits');
    await lowbit.call('logits', { model, precision: 'exact', ids, output: logits });
    let checked = false;
    const check = (answer) => {
      const relative = answer.largest_difference / answer.largest_logit;
      if (!(relative <= TOLERANCE)) throw new WrongAnswer(`logits differ from torch's by ${relative} of the largest`);
      const what = `${ids.length} rows of logits, largest difference ${relative.toExponential(1)} of the largest logit`;
      if (!checked) session.recorder.add({ type: 'check', ...where, engine: 'lowbit', what });
      checked = true;
      return answer;
    };
    const contenders = session.threads.flatMap((threads) => [
      { engine: 'lowbit', threads, run: () => lowbit.speed(model, { threads, precision: 'exact', ...size }) },
      {
        engine: session.torch.name,
        threads,
        run: async () => check(await session.torch.call({ task: 'speed', model, threads, ids, logits, ...size })),
      },
    ]);
    await session.alternate(where, contenders, Math.min(session.rounds, 5));
    return rm(logits, { force: true });
  },
};
