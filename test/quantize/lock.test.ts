/** One run at a time in a work directory: locks of living, dead and foreign processes, and runs that meet. */
import { spawn, spawnSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { quantize, type QuantizeOptions } from '../../lib';
import { JournalLock } from '../../lib/quantize/journal_lock';
import { errorOf, temporaryDirectory } from '../checkpoint/support';
import { writeTinyCheckpoint } from '../checkpoint/tiny';

const root = temporaryDirectory();
const own = { host: os.hostname(), started: '2026-01-02T03:04:05.000Z', token: 'other' };

/** A work directory with a lock that says so. */
function locked(name: string, holder: object | string): string {
  const directory = path.join(root, `${name}.lowbit-work`);
  fs.mkdirSync(directory);
  fs.writeFileSync(path.join(directory, 'lock.json'), typeof holder === 'string' ? holder : JSON.stringify({ ...own, ...holder }));
  return directory;
}

test('a lock is held until it is released, and the directory goes with it when it is empty', async () => {
  const directory = path.join(root, 'held.lowbit-work');
  const lock = await JournalLock.take(directory);
  const error = await errorOf(() => JournalLock.take(directory));
  expect(error.code).toBe('INVALID_ARGUMENT');
  expect(error.message).toMatch(
    /^This process \(\d+\) works on this output since .* and keeps its work in .*held\.lowbit-work: wait for it/,
  );
  expect(error.details).toMatchObject({ option: 'output', holder: { pid: process.pid, host: os.hostname() } });
  await lock.release();
  expect(fs.existsSync(directory)).toBe(false);
  const again = await JournalLock.take(directory);
  fs.writeFileSync(path.join(directory, 'block-00000.lbj'), '');
  await again.release();
  await again.release(); // of no effect
  expect(fs.readdirSync(directory)).toEqual(['block-00000.lbj']);
});

test('the lock of a living process is respected, that of a dead one taken over', async () => {
  const child = spawn(process.execPath, ['-e', 'process.stdin.resume()'], { stdio: ['pipe', 'ignore', 'ignore'] });
  const ended = new Promise((resolve) => child.on('close', resolve));
  const directory = locked('living', { pid: child.pid });
  const error = await errorOf(() => JournalLock.take(directory));
  expect(error.message).toContain(`Process ${child.pid} on ${os.hostname()} works on this output since ${own.started}`);
  child.stdin.end();
  await ended;
  await (await JournalLock.take(directory)).release();
  expect(fs.existsSync(directory)).toBe(false);
});

test('a number that another process has by now, another host, and a file that says nothing', async () => {
  // Where the system tells processes of one number apart.
  if (fs.existsSync('/proc/self/stat')) await (await JournalLock.take(locked('reused', { pid: process.pid, process: 'boot 1' }))).release();
  const dead = spawnSync(process.execPath, ['-e', '']).pid;
  const elsewhere = await errorOf(() => JournalLock.take(locked('elsewhere', { pid: dead, host: 'another-host' })));
  expect(elsewhere.message).toMatch(new RegExp(`Process ${dead} on another-host .* If it is known to be gone, delete .*lock\\.json$`));
  const unwritten = locked('unwritten', '{"pi');
  expect((await errorOf(() => JournalLock.take(unwritten))).message).toMatch(/^Another process works on this output and/);
  const old = new Date(Date.now() - 60_000);
  fs.utimesSync(path.join(unwritten, 'lock.json'), old, old);
  await (await JournalLock.take(unwritten)).release();
});

test('of many that take over at once, one gets it', async () => {
  const dead = spawnSync(process.execPath, ['-e', '']).pid;
  const directory = locked('many', { pid: dead });
  const taken = await Promise.allSettled(Array.from({ length: 16 }, () => JournalLock.take(directory)));
  const locks = taken.flatMap((each) => (each.status === 'fulfilled' ? [each.value] : []));
  expect(locks).toHaveLength(1);
  await locks[0]?.release();
  expect(fs.existsSync(directory)).toBe(false);
});

test('two runs with one output: the second is refused, the first is not harmed', async () => {
  const model = writeTinyCheckpoint(path.join(root, 'model'));
  const output = path.join(root, 'twice');
  const options: QuantizeOptions = { model, output, method: 'rtn', bits: 4, groupSize: 32 };
  const alone = path.join(root, 'alone');
  await quantize({ ...options, output: alone });
  const refused: Promise<{ code: string; message: string }>[] = [];
  await quantize({
    ...options,
    onProgress: ({ phase }) => {
      if (phase !== 'solve' || refused.length > 0) return;
      for (const more of [{}, { resume: true }]) refused.push(errorOf(() => quantize({ ...options, ...more })));
    },
  });
  expect(refused).toHaveLength(2);
  for (const error of await Promise.all(refused)) {
    // Those that looked late found the output complete.
    expect(error.code).toBe('INVALID_ARGUMENT');
    expect(error.message).toMatch(/This process \(\d+\) works on this output|exists and is not empty/);
  }
  const weights = 'model.safetensors';
  expect(fs.readFileSync(path.join(output, weights)).equals(fs.readFileSync(path.join(alone, weights)))).toBe(true);
  expect(fs.readdirSync(root).filter((name) => name.startsWith('twice'))).toEqual(['twice']);
});

test('a run is refused while another process works, whatever it is told, and runs when that is gone', async () => {
  const model = writeTinyCheckpoint(path.join(root, 'model2'));
  const options: QuantizeOptions = { model, output: path.join(root, 'later'), method: 'rtn', bits: 4, groupSize: 32 };
  const lock = await JournalLock.take(`${options.output}.lowbit-work`);
  for (const more of [{}, { resume: true }, { overwrite: true }])
    expect((await errorOf(() => quantize({ ...options, ...more }))).message).toContain(
      `This process (${process.pid}) works on this output`,
    );
  await lock.release();
  await quantize(options);
});
