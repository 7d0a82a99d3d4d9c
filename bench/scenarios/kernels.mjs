/** The native kernel bench: every sample beside a read loop or a register loop of the same run. Its lines are kept as they are. */
import { existsSync } from 'node:fs';
import { lowbit } from '../engines/lowbit.mjs';
import parse from '../pure/parse.cjs';
import { runProgram } from '../run/child.mjs';

export const kernels = {
  name: 'kernels',
  about: 'kernels against the read loop and the register loop of the same run',
  async run(session) {
    const where = { scenario: 'kernels' };
    const program = session.options.native;
    if (!existsSync(program))
      return session.skip(where, 'lowbit', `${program} is missing: run "npm run bench:native" or give it with --native`);
    const { chosenIsa } = await lowbit.call('info');
    // A product that reads memory as fast as it comes is that of any table; large products are measured for every table that runs here.
    const programs = [
      [chosenIsa, 'gemv'],
      ['all', 'gemm'],
    ];
    for (let round = 0; round < session.rounds; round++) {
      for (const [isa, what] of programs) {
        const text = await session.attempt(where, 'lowbit', () => runProgram(program, [isa, what]));
        if (text === undefined) return;
        const found = parse.parseKernelLines(text);
        if (found.length === 0) session.skip(where, 'lowbit', `${program} ${isa} ${what} printed no results`);
        for (const kernel of found) session.recorder.add({ type: 'kernel', ...where, case: kernel.problem, engine: 'lowbit', ...kernel });
        console.log(`kernels  ${isa} ${what}: ${found.length} results`);
      }
    }
  },
};
