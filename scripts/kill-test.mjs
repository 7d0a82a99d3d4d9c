/**
 * Kills a run of `lowbit quantize` with SIGKILL at random moments, resumes it each time, and compares the output with that of an uninterrupted run:
 * npm run kill-test [-- kills model calibration samples flags...]. Default: 20 kills on the story model of the tests. Flags go to every run behind its
 * own; `--preset fast --calibration-length 128` shorten one. Needs dist/.
 */
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdtempSync, readFileSync, readdirSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import process from 'node:process';
import { fileURLToPath } from 'node:url';

const root = path.join(path.dirname(fileURLToPath(import.meta.url)), '..');
const story = path.join(root, 'test', 'fixtures', 'tiny-stories');
const [kills = '20', model = story, calibration = path.join(story, 'text.txt'), samples = '32', ...more] = process.argv.slice(2);
const directory = mkdtempSync(path.join(os.tmpdir(), 'lowbit-kill-'));

/** Exit status, or null when killed. */
function run(output, killAfter) {
  const flags = ['--resume', '--calibration', calibration, '--calibration-samples', samples, '--calibration-length', '256', ...more];
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [path.join(root, 'dist', 'cli', 'main.js'), 'quantize', model, '-o', output, ...flags], {
      stdio: 'ignore',
    });
    const timer = killAfter === undefined ? undefined : setTimeout(() => child.kill('SIGKILL'), killAfter);
    child.on('error', reject);
    child.on('close', (code) => {
      clearTimeout(timer);
      resolve(code);
    });
  });
}

/** Of every file but the reports, whose seconds differ. */
function hashes(output) {
  const names = readdirSync(output).filter((name) => !name.startsWith('lowbit_report'));
  const hash = (name) =>
    createHash('sha256')
      .update(readFileSync(path.join(output, name)))
      .digest('hex');
  return JSON.stringify(names.sort().map((name) => [name, hash(name)]));
}

try {
  const whole = path.join(directory, 'whole');
  const begin = performance.now();
  if ((await run(whole)) !== 0) throw new Error('the uninterrupted run failed');
  const took = performance.now() - begin;
  const output = path.join(directory, 'killed');
  let [killed, runs, equal] = [0, 0, 0];
  while (killed < Number(kills)) {
    // Until the run is complete; then the next one begins.
    const status = await run(output, took * Math.random());
    if (status === null) killed++;
    else if (status !== 0) throw new Error(`a resumed run ended with status ${status}`);
    if (!existsSync(output) || existsSync(`${output}.lowbit-work`)) continue;
    runs++;
    equal += hashes(output) === hashes(whole) ? 1 : 0;
    rmSync(output, { recursive: true });
  }
  const last = await run(output);
  runs++;
  equal += last === 0 && hashes(output) === hashes(whole) ? 1 : 0;
  console.log(
    `${path.basename(model)}: ${killed} kills over ${runs} runs of ${(took / 1000).toFixed(1)} s; ${equal} of ${runs} outputs are byte-identical`,
  );
  if (equal !== runs) process.exitCode = 1;
} finally {
  rmSync(directory, { recursive: true, force: true });
}
