/**
 * bench/run: starts programs, one at a time, and reads what they print. Every sample is taken in a process of its own: no engine inherits
 * another's memory, threads or warm caches.
 */
import { spawn } from 'node:child_process';
import process from 'node:process';
import parse from '../pure/parse.cjs';

/** A program that is missing, failed or ran out of time. A peer that fails is a skip; lowbit that fails is an error of the bench. */
export class EngineFailure extends Error {}

/** Two engines that do not compute the same thing: no time of theirs is worth comparing. Ends the bench. */
export class WrongAnswer extends Error {}

const children = new Set();
process.on('exit', () => {
  for (const child of children) child.kill('SIGKILL');
});
// An interrupted bench leaves nothing running.
for (const [signal, status] of Object.entries({ SIGINT: 130, SIGTERM: 143 })) process.once(signal, () => process.exit(status));

/**
 * @param {string} program
 * @param {readonly string[]} args
 * @param {{timeoutSeconds?: number, env?: Record<string, string>, cwd?: string, show?: boolean}} [options] `show` passes the output on
 * @returns {Promise<string>} standard output
 * @throws {EngineFailure}
 */
export function runProgram(program, args, { timeoutSeconds = 600, env = {}, cwd, show = false } = {}) {
  return new Promise((resolve, reject) => {
    const stdio = ['ignore', show ? 'inherit' : 'pipe', show ? 'inherit' : 'pipe'];
    const child = spawn(program, args, { stdio, cwd, env: { ...process.env, ...env } });
    children.add(child);
    const output = { stdout: '', stderr: '' };
    for (const name of ['stdout', 'stderr']) {
      child[name]?.setEncoding('utf8').on('data', (text) => {
        output[name] += text;
      });
    }
    let late = false;
    const timer = setTimeout(() => {
      late = true;
      child.kill('SIGKILL');
    }, timeoutSeconds * 1000);
    const end = (failure) => {
      clearTimeout(timer);
      children.delete(child);
      if (failure === undefined) resolve(output.stdout);
      else reject(new EngineFailure(`${program} ${failure}${output.stderr === '' ? '' : `: ${output.stderr.trim().slice(-600)}`}`));
    };
    child.on('error', (error) => end(`does not start (${error.message})`));
    child.on('close', (code, signal) => {
      if (late) end(`ran longer than ${timeoutSeconds} s`);
      else end(code === 0 ? undefined : `ended with ${signal ?? `status ${code}`}`);
    });
  });
}

/** Runs a worker of this bench (an .mjs file) with one request and returns its answer. */
export async function runWorker(file, request, options) {
  return parse.parseLastJson(await runProgram(process.execPath, [file, JSON.stringify(request)], options));
}

/** Why an option of lowbit cannot be measured: this build does not know it. Undefined when it does. */
export async function unknownOption(option, call) {
  try {
    await call();
    return undefined;
  } catch (error) {
    if (error instanceof EngineFailure && new RegExp(`unknown option[^\\n]*${option}`, 'i').test(error.message))
      return `this lowbit has no option ${option}`;
    throw error;
  }
}

/** Starts a program that runs beside the samples. @returns its child; stop it with stopChild */
export function startChild(program, args, stdio) {
  const child = spawn(program, args, { stdio });
  children.add(child);
  child.on('error', () => children.delete(child));
  child.on('close', () => children.delete(child));
  return child;
}

export function stopChild(child) {
  return new Promise((resolve) => {
    if (child.exitCode !== null || child.signalCode !== null || child.pid === undefined) return resolve();
    child.on('close', () => resolve());
    child.kill('SIGKILL');
  });
}
