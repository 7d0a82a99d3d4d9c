/** bench/run: what is known of the machine and of the versions that are compared. */
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import process from 'node:process';
import parse from '../pure/parse.cjs';

export const root = path.join(import.meta.dirname, '..', '..');

/** Processors this process may use. */
export function allowedCpus() {
  try {
    const status = readFileSync('/proc/self/status', 'utf8');
    return parse.parseCpuList(/^Cpus_allowed_list:\s*(\S+)/m.exec(status)[1]);
  } catch {
    return os.cpus().map((_, index) => index);
  }
}

/** First line of a result file. @param {{chosenIsa: string}} engine engineInfo() of lowbit */
export function machineLine(engine, quick) {
  const git = (...args) => spawnSync('git', ['-C', root, ...args], { encoding: 'utf8' }).stdout?.trim() || undefined;
  return {
    type: 'machine',
    time: new Date().toISOString(),
    cpu: os.cpus()[0]?.model.trim() ?? 'unknown',
    processors: allowedCpus().length,
    memory_gib: Math.round(os.totalmem() / 2 ** 30),
    platform: `${process.platform}-${process.arch}`,
    node: process.version,
    isa: engine.chosenIsa,
    lowbit_commit: git('rev-parse', '--short', 'HEAD'),
    lowbit_changed: (git('status', '--porcelain', '--untracked-files=no') ?? '') !== '',
    quick,
    load_average: os.loadavg()[0],
  };
}
