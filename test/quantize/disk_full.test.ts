/** A disk that fills up while the checkpoint is written: a typed error that names the place and the room needed, solved blocks kept, and nothing else. Needs the right to mount. */
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, rmSync, statSync, statfsSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { convert, quantize } from '../../lib';
import { errorOf, temporaryDirectory } from '../checkpoint/support';
import { writeTinyCheckpoint } from '../checkpoint/tiny';

let disk = '';
afterAll(() => disk !== '' && spawnSync('umount', [disk])); // before the directory around it goes
const scratch = temporaryDirectory();
disk = path.join(scratch, 'disk');
mkdirSync(disk);
const mounted = spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=4m', 'tmpfs', disk]).status === 0;
const name = 'a full disk leaves no output nor pieces of it, and the run goes on when there is room';
const check = mounted ? test : test.skip;

check(mounted ? name : `${name} (skipped: no right to mount a tmpfs)`, async () => {
  const model = writeTinyCheckpoint(path.join(scratch, 'model'));
  const output = path.join(disk, 'out');
  const options = { model, output, method: 'rtn', bits: 4, groupSize: 32 } as const;

  // There is room when the run begins, and none when it writes.
  const filler = path.join(disk, 'filler');
  const error = await errorOf(() => quantize({ ...options, onProgress: () => writeFileSync(filler, Buffer.alloc(4080 * 1024)) }));
  expect(error.code).toBe('IO');
  expect(error.message).toContain(disk);
  expect(error.message).toMatch(/full|space/i);
  expect(error.message).toMatch(/the output and the work beside it need about \d+ MB in all/);
  const kept = existsSync(`${output}.lowbit-work`);
  expect(readdirSync(disk)).toEqual(kept ? ['filler', 'out.lowbit-work'] : ['filler']);
  expect(error.message.includes('resume: true')).toBe(kept);

  // The same call works once there is room.
  rmSync(filler);
  await quantize({ ...options, resume: true });
  expect(readdirSync(disk)).toEqual(['out']);
});

check(
  mounted ? 'too little room is found before the work' : 'too little room is found before the work (skipped: no right to mount a tmpfs)',
  async () => {
    const model = writeTinyCheckpoint(path.join(scratch, 'model'));
    writeFileSync(path.join(disk, 'filler'), Buffer.alloc(3500 * 1024));
    const error = await errorOf(() => quantize({ model, output: path.join(disk, 'second'), method: 'rtn', bits: 4, groupSize: 32 }));
    expect(error.code).toBe('IO');
    const converted = await errorOf(() => convert({ model, output: path.join(disk, 'second'), to: 'gguf', type: 'F32' }));
    expect(converted).toMatchObject({ code: 'IO', message: expect.stringContaining('Not enough room') as string });
    expect(readdirSync(disk).sort()).toEqual(['filler', 'out']);
  },
);

check(
  mounted
    ? 'a resume counts what is kept already as room that it need not find'
    : 'a resume counts what is kept already as room that it need not find (skipped: no right to mount a tmpfs)',
  async () => {
    for (const name of readdirSync(disk)) rmSync(path.join(disk, name), { recursive: true });
    const model = writeTinyCheckpoint(path.join(scratch, 'model'));
    const options = { model, output: path.join(disk, 'third'), method: 'rtn', bits: 4, groupSize: 32 } as const;
    const work = `${options.output}.lowbit-work`;
    const abort = new AbortController();
    await errorOf(() => quantize({ ...options, signal: abort.signal, onProgress: ({ phase }) => phase === 'write' && abort.abort() }));
    const kept = readdirSync(work).reduce((sum, name) => sum + statSync(path.join(work, name)).size, 0);
    expect(kept).toBeGreaterThan(0);
    const free = (): number => statfsSync(disk).bavail * statfsSync(disk).bsize;
    const filler = path.join(disk, 'filler');
    writeFileSync(filler, Buffer.alloc(free()));
    const full = await errorOf(() => quantize({ ...options, output: path.join(disk, 'fourth') }));
    const needed = full.details['needed'] as number;
    rmSync(filler);
    // Room for a run without half of what is kept, not for a whole one.
    writeFileSync(filler, Buffer.alloc(free() - (needed - Math.floor(kept / 2))));
    expect((await errorOf(() => quantize({ ...options, output: path.join(disk, 'fourth') }))).message).toContain('Not enough room');
    await quantize({ ...options, resume: true });
  },
);
