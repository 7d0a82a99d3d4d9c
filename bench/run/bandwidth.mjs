/** bench/run: the machine's read bandwidth beside every sample, from tools/read_bandwidth.cc, which it builds once. */
import { existsSync, statSync } from 'node:fs';
import { mkdir, rename } from 'node:fs/promises';
import path from 'node:path';
import process from 'node:process';
import { createInterface } from 'node:readline';
import { EngineFailure, runProgram, startChild, stopChild } from './child.mjs';

const source = path.join(import.meta.dirname, '..', 'tools', 'read_bandwidth.cc');

/** Answers `measure(threads)` with bytes per second; without a compiler with undefined, and says why in `missing`. */
export class Bandwidth {
  missing;
  #child;
  #lines;

  static async start(cache) {
    const meter = new Bandwidth();
    try {
      meter.#child = startChild(await build(cache), [], ['pipe', 'pipe', 'ignore']);
      meter.#lines = createInterface({ input: meter.#child.stdout })[Symbol.asyncIterator]();
      await meter.measure(1); // touches the pages
    } catch (error) {
      if (!(error instanceof EngineFailure)) throw error;
      meter.missing = `no read bandwidth: ${error.message.slice(0, 200)}`;
    }
    return meter;
  }

  async measure(threads) {
    if (this.missing !== undefined) return undefined;
    this.#child.stdin.write(`${threads}\n`);
    const { value, done } = await this.#lines.next();
    const rate = Number(value);
    if (done || !(rate > 0)) throw new EngineFailure(`the read loop ended or printed "${value}"`);
    return rate;
  }

  async stop() {
    if (this.#child !== undefined) await stopChild(this.#child);
  }
}

async function build(cache) {
  const suffix = process.platform === 'win32' ? '.exe' : '';
  const program = path.join(cache, `read_bandwidth${suffix}`);
  if (existsSync(program) && statSync(program).mtimeMs > statSync(source).mtimeMs) return program;
  await mkdir(cache, { recursive: true });
  const unfinished = `${program}.${process.pid}`;
  await runProgram(process.env.CXX ?? 'c++', ['-std=c++20', '-O2', '-pthread', source, '-o', unfinished]);
  await rename(unfinished, program);
  return program;
}
