/** Ctrl-C in the middle of each long command: status 130, no stack trace, no output half written. Runs the built CLI (dist/). */
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

function expectCleanEnd({ code, signal, stderr }: Ended): void {
  expect({ code, signal }).toEqual({ code: 130, signal: null });
  expect(stderr).not.toMatch(/\n\s+at /);
}

const temporary = temporaryDirectory();
const scratch = path.join(temporary, 'outputs');
mkdirSync(scratch);

test('quantize', async () => {
  const output = path.join(scratch, 'out');
  expectCleanEnd(
    await interrupted(
      'stderr',
      'quantize',
      story,
      '--output',
      output,
      '--calibration',
      text,
      '--calibration-samples',
      '64',
      '--mse',
      '2.4',
    ),
  );
  expect(existsSync(output)).toBe(false);
  expect(readdirSync(scratch)).toEqual([]);
});

test('perplexity', async () => {
  const long = path.join(temporary, 'long.txt');
  writeFileSync(long, readFileSync(text, 'utf8').repeat(20)); // many seconds of work
  expectCleanEnd(
    await interrupted('stderr', 'perplexity', story, '--text', long, '--context', '512', '--precision', 'exact', '--threads', '1'),
  );
});

test('generate', async () => {
  expectCleanEnd(
    await interrupted(
      'stdout',
      'generate',
      story,
      '--prompt',
      'Once upon a time',
      '--max-tokens',
      '900',
      '--threads',
      '1',
      '--precision',
      'exact',
    ),
  );
});
