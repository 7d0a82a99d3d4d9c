/** bench/run: a busy process pinned to one processor, as another service on the machine would be. Linux (taskset). */
import { spawnSync } from 'node:child_process';
import { once } from 'node:events';
import process from 'node:process';
import { startChild, stopChild } from './child.mjs';

/** Spins until its parent is gone. */
const SPIN = `
process.stdout.write('busy\\n', () => {
  const parent = process.ppid;
  for (let i = 0; ; i++) if (i % 1e8 === 0 && process.ppid !== parent) process.exit();
});`;

/** Why no process can be pinned here; undefined when it can. */
export function cannotPin() {
  if (process.platform !== 'linux') return 'pinning a process needs Linux';
  return spawnSync('taskset', ['--version']).status === 0 ? undefined : 'taskset is missing';
}

/** Runs `work` while a process spins on processor `cpu`. */
export async function withBusyProcess(cpu, work) {
  const child = startChild('taskset', ['-c', String(cpu), process.execPath, '-e', SPIN], ['ignore', 'pipe', 'inherit']);
  try {
    await once(child.stdout, 'data');
    return await work();
  } finally {
    await stopChild(child);
  }
}
