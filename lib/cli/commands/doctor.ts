/** lowbit doctor: can this machine run lowbit, how, and does it compute correctly? */
import os from 'node:os';
import Table from 'cli-table3';
import type { Command } from 'commander';
import { type EngineInfo, LowbitError, engineInfo } from '../../index';
import type { Io } from '../io';
import { toSnakeCase } from '../parse';
import { examples } from '../runtime';
import { type SelfTest, selfTest } from '../self_test';
import { packageVersion } from '../version';
import { formatBytes } from '../../units';

export function doctorCommand(command: Command, io: () => Io): void {
  command
    .description('Check platform, engine, instruction sets, cores and memory, and run a short self-test')
    .addHelpText('after', examples('lowbit doctor', 'lowbit doctor --json'))
    .action(() => run(io()));
}

async function run(io: Io): Promise<void> {
  const machine = {
    version: packageVersion,
    node: process.versions.node,
    platform: process.platform,
    arch: process.arch,
    release: os.release(),
    totalMemory: memoryLimit(),
    freeMemory: os.freemem(),
  };
  const engine = engineOrError();
  const test: SelfTest =
    engine instanceof LowbitError ? { ok: false, message: 'not run: there is no engine', seconds: 0 } : await selfTest(io.signal);
  const ok = !(engine instanceof LowbitError) && test.ok;
  io.out(`${tables(machine, engine, test)}\n${ok ? 'Everything works.' : 'Something is wrong, see above.'}\n`);
  const described = engine instanceof LowbitError ? { error: { code: engine.code, message: engine.message } } : engine;
  io.result(toSnakeCase({ ok, ...machine, engine: described, selfTest: test }) as Record<string, unknown>);
  if (!ok) io.fail();
}

function engineOrError(): EngineInfo | LowbitError {
  try {
    return engineInfo();
  } catch (error) {
    if (error instanceof LowbitError) return error;
    throw error;
  }
}

/** What a container allows, if that is less than the machine has. */
function memoryLimit(): number {
  const limit = process.constrainedMemory();
  return limit > 0 ? Math.min(limit, os.totalmem()) : os.totalmem();
}

function tables(
  machine: { version: string; node: string; platform: string; arch: string; release: string; totalMemory: number; freeMemory: number },
  engine: EngineInfo | LowbitError,
  test: SelfTest,
): string {
  const plain = { style: { head: [], border: [] } };
  const facts = new Table({ ...plain, colWidths: [18, 100], wordWrap: true });
  facts.push(
    ['lowbit, node', `${machine.version}, ${machine.node}`],
    ['platform', `${machine.platform}-${machine.arch}, ${machine.release}`],
    ['memory', `${formatBytes(machine.totalMemory)}, ${formatBytes(machine.freeMemory)} free`],
  );
  if (engine instanceof LowbitError) {
    facts.push(['engine', engine.message]);
    return facts.toString();
  }
  facts.push(
    ['engine', `${engine.version}, runs ${engine.chosenIsa}`],
    ['processor', `${engine.cpu}, ${engine.usableCores} usable core${engine.usableCores === 1 ? '' : 's'}`],
    ['self-test', `${test.message} (${test.seconds.toFixed(2)} s)`],
  );
  const sets = new Table({ ...plain, head: ['instruction set', 'usable', 'why'], colWidths: [18, 10, 89], wordWrap: true });
  for (const { name, usable, reason } of engine.isa)
    sets.push([name, usable ? 'yes' : 'no', reason || (name === engine.chosenIsa ? 'runs' : 'not chosen')]);
  return `${facts.toString()}\n${sets.toString()}`;
}
