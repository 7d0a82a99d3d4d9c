/**
 * Runs that die and are resumed: killed at random moments the output is the same byte for byte, and what would change it is refused. Child processes
 * run the built package (dist/) with the real engine.
 */
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import { type LowbitError, quantize, type QuantizeOptions } from '../../lib';
import { errorOf, FIXTURES, randomNumbers, temporaryDirectory } from '../checkpoint/support';

jest.setTimeout(300_000);

const cli = path.join(__dirname, '..', '..', 'dist', 'cli', 'main.js');
const source = path.join(FIXTURES, 'tiny-stories');
const text = path.join(source, 'text.txt');
const root = temporaryDirectory();
const work = (output: string): string => `${output}.lowbit-work`;
const options = (output: string): QuantizeOptions => ({
  model: source,
  output,
  preset: 'fast',
  calibration: { file: text },
  calibrationSamples: 16,
  calibrationLength: 128,
});

/** SHA-256 of every file but the report, whose seconds differ from run to run. */
function hashes(directory: string): Record<string, string> {
  const files = fs.readdirSync(directory).filter((name) => !name.startsWith('lowbit_report'));
  return Object.fromEntries(
    files.sort().map((name) => [
      name,
      createHash('sha256')
        .update(fs.readFileSync(path.join(directory, name)))
        .digest('hex'),
    ]),
  );
}

/** The report without times. */
function reportOf(directory: string): unknown {
  const text = fs.readFileSync(path.join(directory, 'lowbit_report.json'), 'utf8');
  return JSON.parse(text, (key, value: unknown) => (key === 'seconds' ? undefined : value));
}

/** Runs until an event that says stop, then aborts. */
async function aborted(given: QuantizeOptions, stop: (phase: string, block: number) => boolean): Promise<LowbitError> {
  const controller = new AbortController();
  return errorOf(() =>
    quantize({
      ...given,
      signal: controller.signal,
      onProgress: ({ phase, block }) => stop(phase, block) && controller.abort(),
    }),
  );
}

let whole: string;
beforeAll(async () => {
  whole = path.join(root, 'whole');
  await quantize(options(whole));
});

test('an aborted run says what is kept, and is resumed to the same files and report', async () => {
  const output = path.join(root, 'aborted');
  const error = await aborted(options(output), (phase, block) => phase === 'solve' && block === 2);
  expect(error.code).toBe('CANCELLED');
  expect(error.message).toContain(`2 of 4 blocks are done and kept in ${work(output)}: call again with resume: true (--resume)`);
  expect(error.details).toMatchObject({ work: work(output), blocksDone: 2, blocks: 4 });
  expect(fs.existsSync(output)).toBe(false);
  const phases: string[] = [];
  const report = await quantize({ ...options(output), resume: true, onProgress: ({ phase, block }) => phases.push(`${phase} ${block}`) });
  expect(phases.filter((name) => name === 'solve 0' || name === 'solve 1')).toEqual([]);
  expect(report.linears).toHaveLength(28);
  expect(hashes(output)).toEqual(hashes(whole));
  expect(reportOf(output)).toEqual(reportOf(whole));
  expect(fs.existsSync(work(output))).toBe(false);
});

test('plain rounding is resumed too, and an abort while the output is put together', async () => {
  const rounded: QuantizeOptions = { model: source, output: path.join(root, 'rounded'), method: 'rtn' };
  await quantize(rounded);
  for (const phase of ['solve', 'write']) {
    const output = path.join(root, `rounded-${phase}`);
    const error = await aborted({ ...rounded, output }, (now, block) => now === phase && (phase === 'write' || block === 3));
    expect(error.details['blocksDone']).toBe(phase === 'write' ? 4 : 3);
    await quantize({ ...rounded, output, resume: true });
    expect(hashes(output)).toEqual(hashes(rounded.output));
  }
});

test('nothing is kept of a run without a solved block', async () => {
  const output = path.join(root, 'early');
  const error = await aborted(options(output), (phase) => phase === 'solve');
  expect(error.message).toBe('The operation was aborted');
  expect(fs.existsSync(work(output))).toBe(false);
});

describe('a work directory', () => {
  const output = path.join(root, 'kept');
  beforeEach(async () => {
    await quantize({ ...options(output), overwrite: true }).then(() => fs.rmSync(output, { recursive: true }));
    await aborted(options(output), (phase, block) => phase === 'solve' && block === 3);
  });
  afterEach(() => fs.rmSync(work(output), { recursive: true, force: true }));

  test('is neither overwritten nor gone on with unasked', async () => {
    const error = await errorOf(() => quantize(options(output)));
    expect(error.code).toBe('INVALID_ARGUMENT');
    expect(error.message).toContain('go on with it by resume: true (--resume), discard it by overwrite: true');
    await quantize({ ...options(output), overwrite: true });
    expect(hashes(output)).toEqual(hashes(whole));
    fs.rmSync(output, { recursive: true });
  });

  test('of other options, data or model is refused, and what differs is named', async () => {
    const refused = async (changed: Partial<QuantizeOptions>): Promise<string> => {
      const error = await errorOf(() => quantize({ ...options(output), ...changed, resume: true }));
      expect(error.code).toBe('INVALID_ARGUMENT');
      return error.message;
    };
    expect(await refused({ bits: 3 })).toContain('options.bits was 4 and is 3');
    expect(await refused({ calibration: fs.readFileSync(text, 'utf8').slice(500) })).toContain('calibration.sha256 was');
    const model = path.join(root, 'copy');
    fs.cpSync(source, model, { recursive: true });
    expect(await refused({ model })).toMatch(/model\.files\.model\.safetensors\.modified was/);
    const header = path.join(work(output), 'journal.json');
    const journal = fs.readFileSync(header, 'utf8');
    fs.writeFileSync(header, journal.replace(/"isa": "[^"]*"/, '"isa": "other"'));
    expect(await refused({})).toContain('lowbit.isa was "other" and is ');
    fs.writeFileSync(header, journal.replace('"version": 1', '"version": 2'));
    expect((await errorOf(() => quantize({ ...options(output), resume: true }))).code).toBe('UNSUPPORTED');
    fs.writeFileSync(header, '{');
    expect((await errorOf(() => quantize({ ...options(output), resume: true }))).code).toBe('CORRUPT_FILE');
    fs.writeFileSync(header, journal);
    await quantize({ ...options(output), resume: true, threads: 1 }); // no byte depends on threads
    expect(hashes(output)).toEqual(hashes(whole));
    fs.rmSync(output, { recursive: true });
  });

  test('with a damaged file is refused', async () => {
    for (const name of ['block-00001.lbj', 'state-00003.lbj']) {
      const file = path.join(work(output), name);
      const bytes = fs.readFileSync(file);
      const random = randomNumbers(7);
      for (let i = 0; i < 8; i++) {
        const damaged = Buffer.from(bytes);
        const at = i === 0 ? bytes.length - 1 : Math.floor(random() * bytes.length);
        damaged[at] = (damaged[at] as number) ^ 0x10;
        fs.writeFileSync(file, i === 1 ? bytes.subarray(0, at) : damaged);
        const error = await errorOf(() => quantize({ ...options(output), resume: true }));
        expect([error.code, error.message]).toEqual(['CORRUPT_FILE', expect.stringContaining(file)]);
        expect(error.message).toContain('start anew with overwrite: true');
      }
      fs.writeFileSync(file, bytes);
    }
    await quantize({ ...options(output), resume: true });
    expect(hashes(output)).toEqual(hashes(whole));
    fs.rmSync(output, { recursive: true });
  });

  test('that holds files of someone else is left alone', async () => {
    fs.writeFileSync(path.join(work(output), 'notes.txt'), 'mine');
    for (const given of [{ resume: true }, { overwrite: true }, {}]) {
      const error = await errorOf(() => quantize({ ...options(output), ...given }));
      expect(error.message).toContain("it holds notes.txt, which is not lowbit's");
    }
  });
});

test('a run that died when its output was in place already is resumed over it', async () => {
  const output = path.join(root, 'installed');
  await aborted(options(output), (phase) => phase === 'write');
  const kept = path.join(root, 'kept-work');
  await fs.promises.cp(work(output), kept, { recursive: true });
  // The directory as it is when output.json is there and the output has moved.
  const renamed = jest.spyOn(fs.promises, 'rename').mockImplementation(async (from, to) => {
    fs.renameSync(from, to);
    if (to === output) fs.copyFileSync(path.join(work(output), 'output.json'), path.join(kept, 'output.json'));
  });
  await quantize({ ...options(output), resume: true });
  renamed.mockRestore();
  await fs.promises.cp(kept, work(output), { recursive: true });
  await quantize({ ...options(output), resume: true });
  expect(hashes(output)).toEqual(hashes(whole));
  expect(fs.existsSync(work(output))).toBe(false);
  // Another output at its place is not this run's to replace.
  await fs.promises.cp(kept, work(output), { recursive: true });
  fs.writeFileSync(path.join(output, 'model.safetensors'), 'other');
  expect((await errorOf(() => quantize({ ...options(output), resume: true }))).message).toContain('exists and is not empty');
});

test('a model file that becomes shorter half way is named; once it is mended the run goes on', async () => {
  const model = path.join(root, 'failing');
  fs.cpSync(source, model, { recursive: true });
  const file = path.join(model, 'model.safetensors');
  const mtime = 1_700_000_000; // whole seconds: a fraction does not survive utimes
  fs.utimesSync(file, mtime, mtime);
  const bytes = fs.readFileSync(file);
  const given = { ...options(path.join(root, 'failed')), model };
  const cut = (at: number): void => {
    fs.truncateSync(file, at);
    fs.utimesSync(file, mtime, mtime);
  };
  const error = await errorOf(() =>
    quantize({ ...given, onProgress: ({ phase, block }) => phase === 'solve' && block === 1 && cut(4096) }),
  );
  expect(error.code).toBe('IO');
  expect(error.message).toMatch(
    /^Cannot read tensor \S+ from .*failing.model\.safetensors: the device reports an error, or the file became shorter/,
  );
  expect(error.message).toContain(`2 of 4 blocks are done and kept in ${work(given.output)}`);
  const again = await errorOf(() => quantize({ ...given, resume: true }));
  expect(again.message).toContain(file); // still short
  fs.writeFileSync(file, bytes);
  fs.utimesSync(file, mtime, mtime);
  await quantize({ ...given, resume: true });
  expect(hashes(given.output)).toEqual(hashes(whole));
});

test('killed at random moments, each time resumed: the same bytes', async () => {
  const output = path.join(root, 'killed');
  const random = randomNumbers(11);
  const flags = ['--preset', 'fast', '--calibration', text, '--calibration-samples', '16', '--calibration-length', '128'];
  const run = (killAfter: number | undefined): Promise<number | null> =>
    new Promise((resolve, reject) => {
      const child = spawn(process.execPath, [cli, 'quantize', source, '-o', output, '--resume', ...flags], { stdio: 'ignore' });
      const timer = killAfter === undefined ? undefined : setTimeout(() => child.kill('SIGKILL'), killAfter);
      child.on('error', reject);
      child.on('close', (code) => {
        clearTimeout(timer);
        resolve(code);
      });
    });
  // How long a run takes here decides where the kills fall.
  const begin = performance.now();
  expect(await run(undefined)).toBe(0);
  const took = performance.now() - begin;
  expect(hashes(output)).toEqual(hashes(whole));
  fs.rmSync(output, { recursive: true });
  for (let kill = 0; kill < 5 && !fs.existsSync(output); kill++) await run(took * (0.2 + 0.8 * random()));
  if (!fs.existsSync(output) || fs.existsSync(work(output))) expect(await run(undefined)).toBe(0);
  expect(hashes(output)).toEqual(hashes(whole));
  expect(fs.existsSync(work(output))).toBe(false);
});
