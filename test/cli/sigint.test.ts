/** Ctrl-C in the middle of each long command: status 130, no stack trace, no output half written, and how to go on where that is possible. Runs the built CLI (dist/). */
import { spawn } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, readdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { FIXTURES, temporaryDirectory } from '../checkpoint/support';

const cli = path.join(__dirname, '..', '..', 'dist', 'cli', 'main.js');
const story = path.join(FIXTURES, 'tiny-stories');
const text = path.join(story, 'text.txt');

interface Ended {
  readonly code: number | null;
  readonly signal: string | null;
  readonly stderr: string;
}

/** Runs the command and interrupts it at its first output on the given stream. */
function interrupted(stream: 'stdout' | 'stderr', ...args: string[]): Promise<Ended> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [cli, ...args], { stdio: ['ignore', 'pipe', 'pipe'] });
    let stderr = '';
    child.stderr.on('data', (chunk: Buffer) => (stderr += chunk.toString()));
    child.stdout.resume();
    child[stream].once('data', () => child.kill('SIGINT'));
    child.on('error', reject);
    child.on('close', (code, signal) => resolve({ code, signal, stderr }));
  });
}

/** The signal may reach a small model's command too late: then it ended well, and is tried again. */
async function expectCleanEnd(stream: 'stdout' | 'stderr', command: (attempt: number) => readonly string[]): Promise<number> {
  for (let attempt = 0; attempt < 8; attempt++) {
    const { code, signal, stderr } = await interrupted(stream, ...command(attempt));
    stderrs.push(stderr);
    expect(stderr).not.toMatch(/\n\s+at /);
    expect(signal).toBeNull();
    if (code === 0) continue;
    expect(code).toBe(130);
    return attempt;
  }
  throw new Error('the command ended before the signal in every attempt');
}

const stderrs: string[] = [];
const temporary = temporaryDirectory();
const scratch = path.join(temporary, 'outputs');
const long = path.join(temporary, 'long.txt');
mkdirSync(scratch);
writeFileSync(long, readFileSync(text, 'utf8').repeat(20)); // seconds of work

test('quantize', async () => {
  const output = (attempt: number): string => path.join(scratch, `out-${attempt}`);
  const attempt = await expectCleanEnd('stderr', (n) => {
    const calibration = ['--calibration', long, '--calibration-samples', '128', '--calibration-length', '1000'];
    return ['quantize', story, '--output', output(n), ...calibration, '--mse', '2.4'];
  });
  expect(existsSync(output(attempt))).toBe(false);
  const kept = `${output(attempt)}.lowbit-work`; // of those of earlier attempts nothing
  expect(readdirSync(scratch).filter((name) => name !== path.basename(kept))).toHaveLength(attempt);
  if (existsSync(kept)) expect(stderrs.at(-1)).toContain(`kept in ${kept}: call again with resume: true (--resume) to go on`);
});

test('perplexity', async () => {
  const flags = ['--context', '512', '--precision', 'exact', '--threads', '1'];
  await expectCleanEnd('stderr', () => ['perplexity', story, '--text', long, ...flags]);
});

test('generate', async () => {
  const flags = ['--max-tokens', '900', '--precision', 'exact', '--threads', '1'];
  await expectCleanEnd('stdout', () => ['generate', story, '--prompt', 'Once upon a time', ...flags]);
});
