/**
 * lib/quantize: one run at a time in a work directory. A file that names the process at work; that of a process that is gone is taken over.
 * Knows processes and one file; what the directory holds is journal.ts's.
 */
import { randomUUID } from 'node:crypto';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import process from 'node:process';
import { ioError } from '../checkpoint/files';
import { LowbitError } from '../errors';

export const lockName = 'lock.json';

/** Who works in a directory. */
export interface Holder {
  readonly pid: number;
  readonly host: string;
  /** When the run began, ISO 8601. */
  readonly started: string;
  /** Tells a process from a later one with the same number; absent where the system does not say (all but Linux). */
  readonly process?: string;
  readonly token: string;
}

/** A file that does not say who made it is one that is being written, for so long; then its writer died. */
const unwrittenMs = 10_000;
/** Each further try means that another run took or left the directory just now. */
const tries = 20;

/** The lock of a work directory, held until release(). */
export class JournalLock {
  private constructor(
    private readonly directory: string,
    private readonly token: string,
  ) {}

  /** Makes the directory if need be. @throws {LowbitError} INVALID_ARGUMENT naming the process that works there (details.holder), IO */
  static async take(directory: string): Promise<JournalLock> {
    const file = path.join(directory, lockName);
    const own: Holder = { ...(await self()), token: randomUUID() };
    try {
      for (let i = 0; i < tries; i++) {
        await fs.promises.mkdir(directory, { recursive: true });
        await checkLock(directory);
        await discardStale(directory, own.token);
        try {
          await fs.promises.writeFile(file, `${JSON.stringify(own)}\n`, { flag: 'wx' });
        } catch (cause) {
          if (['EEXIST', 'ENOENT'].includes(String((cause as NodeJS.ErrnoException).code))) continue;
          throw cause;
        }
        // Of two that took over at once, the second may have put its own in place of the first one's.
        if ((await read(file))?.token === own.token) return new JournalLock(directory, own.token);
      }
    } catch (cause) {
      throw ioError('write', file, cause);
    }
    throw busy(directory, undefined);
  }

  /** Gives the directory up, and removes it when nothing else is in it. */
  async release(): Promise<void> {
    const file = path.join(this.directory, lockName);
    if ((await read(file).catch(() => undefined))?.token !== this.token) return;
    await fs.promises.rm(file, { force: true }).catch(() => undefined);
    await fs.promises.rmdir(this.directory).catch(() => undefined); // work that is kept, or another run's
  }
}

/** @throws {LowbitError} INVALID_ARGUMENT when another run works in the directory */
export async function checkLock(directory: string): Promise<void> {
  const file = path.join(directory, lockName);
  const holder = await read(file);
  if (holder === undefined) {
    if (await isBeingWritten(file)) throw busy(directory, undefined);
    return;
  }
  if (await isAlive(holder)) throw busy(directory, holder);
}

function busy(directory: string, holder: Holder | undefined): LowbitError {
  const file = path.join(directory, lockName);
  const who =
    holder === undefined
      ? 'Another process'
      : holder.pid === process.pid && holder.host === os.hostname()
        ? `This process (${holder.pid})`
        : `Process ${holder.pid} on ${holder.host}`;
  const since = holder === undefined ? '' : ` since ${holder.started}`;
  return new LowbitError(
    'INVALID_ARGUMENT',
    `${who} works on this output${since} and keeps its work in ${directory}: wait for it, end it, or choose another output. If it is known to be gone, delete ${file}`,
    {
      option: 'output',
      file,
      ...(holder === undefined ? {} : { holder: { pid: holder.pid, host: holder.host, started: holder.started } }),
    },
  );
}

/** Moves the lock of a dead process aside: of several that try, one moves it, and a lock that is not the dead one's goes back. */
async function discardStale(directory: string, token: string): Promise<void> {
  const file = path.join(directory, lockName);
  const before = await read(file);
  const aside = `${file}.${token}.tmp`;
  try {
    await fs.promises.rename(file, aside);
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === 'ENOENT') return;
    throw cause;
  }
  const moved = await read(aside);
  if (moved !== undefined && moved.token !== before?.token && (await isAlive(moved))) await fs.promises.rename(aside, file);
  else await fs.promises.rm(aside, { force: true });
}

/** Undefined without a file, and for one that does not say who made it. */
async function read(file: string): Promise<Holder | undefined> {
  let text: string;
  try {
    text = await fs.promises.readFile(file, 'utf8');
  } catch (cause) {
    if (['ENOENT', 'ENOTDIR'].includes(String((cause as NodeJS.ErrnoException).code))) return undefined;
    throw ioError('read', file, cause);
  }
  try {
    const value = JSON.parse(text) as Partial<Holder> | null;
    const { pid, host, started, token } = value ?? {};
    const named = Number.isSafeInteger(pid) && (pid as number) > 0 && [host, started, token].every((each) => typeof each === 'string');
    return named ? (value as Holder) : undefined;
  } catch {
    return undefined;
  }
}

async function isBeingWritten(file: string): Promise<boolean> {
  try {
    return Date.now() - (await fs.promises.stat(file)).mtimeMs < unwrittenMs;
  } catch {
    return false;
  }
}

/** A process of another host cannot be asked: it counts as alive. */
async function isAlive(holder: Holder): Promise<boolean> {
  if (holder.host !== os.hostname()) return true;
  try {
    process.kill(holder.pid, 0);
  } catch (cause) {
    return (cause as NodeJS.ErrnoException).code !== 'ESRCH'; // EPERM: another user's
  }
  const now = await identityOf(holder.pid);
  return holder.process === undefined || now === undefined || now === holder.process;
}

async function self(): Promise<Omit<Holder, 'token'>> {
  const identity = await identityOf(process.pid);
  const started = new Date().toISOString();
  return { pid: process.pid, host: os.hostname(), started, ...(identity === undefined ? {} : { process: identity }) };
}

/** Boot and start time of a process: numbers of processes are used again. */
async function identityOf(pid: number): Promise<string | undefined> {
  try {
    const [boot, stat] = await Promise.all([
      fs.promises.readFile('/proc/sys/kernel/random/boot_id', 'utf8'),
      fs.promises.readFile(`/proc/${pid}/stat`, 'utf8'),
    ]);
    // The name, in parentheses, may hold anything; the start time is the 20th field behind it.
    const start = stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19];
    return start === undefined ? undefined : `${boot.trim()} ${start}`;
  } catch {
    return undefined;
  }
}
