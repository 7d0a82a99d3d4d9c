/**
 * lib/quantize: the journal of a run: what is solved so far, in a directory beside the output, so that a run that dies goes on where it was.
 *
 *   <output>.lowbit-work/
 *     journal.json        version and fingerprint: all that decides which bytes come out
 *     block-00000.lbj     per solved block: the tensors of its linears and what the report says of them
 *     allocation.json     which forms were chosen for the weights, where they were
 *     state-00012.lbj     the calibration's state in front of a block; the newest only
 *     output/             the output while it is put together
 *     output.json         says that output/ is complete and about to be moved to its place
 *     lock.json           who works here (journal_lock.ts)
 *
 * Files appear whole (journal_file.ts): temporary name, sync, rename, sync of the directory. Blocks in front of the newest state are not solved again;
 * without calibration no block depends on another and every one counts. What solves and assembles is elsewhere (solve.ts, index.ts).
 */
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import { resolveTarget, syncDirectory } from '../checkpoint/atomic';
import { corruptFile, ioError } from '../checkpoint/files';
import { LowbitError } from '../errors';
import type { PartTensor } from './outputs';
import type { LinearReport } from './report';
import { openFrames, readValue, writeFrames, writeValue } from './journal_file';
import { JournalLock, checkLock, lockName } from './journal_lock';

/** Raised when a journal of an older version could not be continued to the same bytes. */
const journalVersion = 1;

/** What decides the bytes of an output, in sections of names and values; compared name by name. */
export type Fingerprint = Readonly<Record<string, unknown>>;

export interface SolvedLinear {
  readonly weight: number; // of the plan
  readonly tensors: readonly PartTensor[];
  readonly report: LinearReport;
}

/** What a block became. */
export interface SolvedBlock {
  readonly block: number;
  readonly linears: readonly SolvedLinear[];
  readonly rowsDropped: number;
  readonly seconds: { readonly calibrate: number; readonly solve: number; readonly write: number };
}

const names = {
  header: 'journal.json',
  output: 'output',
  complete: 'output.json',
  allocation: 'allocation.json',
  block: (block: number): string => `block-${String(block).padStart(5, '0')}.lbj`,
  state: (block: number): string => `state-${String(block).padStart(5, '0')}.lbj`,
};
/** Everything that lowbit puts into a work directory, with pieces of files that a crash left. */
const ours =
  /^((journal\.json|output\.json|allocation\.json|output|output-old|(block|state)-\d{5,}\.lbj)(\.tmp)?|lock\.json(\.[0-9a-f-]+\.tmp)?)$/;

/** Where the journal of an output lies: beside what the output path leads to, so on its file system. */
export async function workDirectory(output: string): Promise<string> {
  return `${await resolveTarget(output)}.lowbit-work`;
}

/** What a work directory holds; nothing is changed on the disk. */
export interface Found {
  readonly directory: string;
  readonly fingerprint: Fingerprint;
  /** True: it is a journal of this run and will be gone on with. */
  readonly resumes: boolean;
  /** True: the output that lies at its place already is the one of this run; only the work directory was still to be removed. */
  readonly installed: boolean;
  /** True: it holds another run's work, which `overwrite` gives up. */
  readonly discards: boolean;
  /** Bytes that it takes already: gone on with, or discarded. */
  readonly bytes: number;
}

/**
 * Looks at the work directory of `output`.
 *
 * @throws {LowbitError} INVALID_ARGUMENT when there is one and neither `resume` nor `overwrite` is set, when it belongs to a run that would give
 *   other bytes (details.differences), when a run works there now (details.holder), or when the directory is not lowbit's; CORRUPT_FILE, IO
 */
export async function findJournal(
  output: string,
  fingerprint: Fingerprint,
  { resume, overwrite }: { readonly resume: boolean; readonly overwrite: boolean },
): Promise<Found> {
  const directory = await workDirectory(output);
  const fresh = { directory, fingerprint, resumes: false, installed: false, discards: false, bytes: 0 };
  let entries: string[];
  try {
    entries = await fs.promises.readdir(directory);
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === 'ENOENT') return fresh;
    throw ioError('read', directory, cause);
  }
  const foreign = entries.find((name) => !ours.test(name));
  if (foreign !== undefined) {
    throw new LowbitError(
      'INVALID_ARGUMENT',
      `${directory} is where the work of this run would be kept, but it holds ${foreign}, which is not lowbit's: move it away or choose another output`,
      { option: 'output', file: directory },
    );
  }
  await checkLock(directory);
  const bytes = await bytesIn(directory);
  if (!entries.includes(names.header)) return { ...fresh, bytes }; // a run that died before it began, or while it cleaned up
  if (!resume) {
    if (overwrite) return { ...fresh, discards: true, bytes };
    throw new LowbitError(
      'INVALID_ARGUMENT',
      `${directory} holds the work of a run that did not end: go on with it by resume: true (--resume), discard it by overwrite: true (--overwrite), or delete it`,
      { option: 'resume', file: directory },
    );
  }
  const differences = differencesOf(await readHeader(path.join(directory, names.header)), fingerprint);
  if (differences.length > 0) {
    throw new LowbitError(
      'INVALID_ARGUMENT',
      `The run in ${directory} cannot be resumed, because it would not give the same result: ${differences.join('; ')}. Restore that, or start anew with overwrite: true (--overwrite) and without resume`,
      { option: 'resume', file: directory, differences },
    );
  }
  return { ...fresh, resumes: true, installed: await isInstalled(directory, output), bytes };
}

async function bytesIn(directory: string): Promise<number> {
  const entries = await fs.promises.readdir(directory, { withFileTypes: true }).catch(() => []);
  const sizes = entries.map((entry) => {
    const name = path.join(directory, entry.name);
    if (entry.isDirectory()) return bytesIn(name);
    return fs.promises.stat(name).then(
      ({ size }) => size,
      () => 0,
    );
  });
  return (await Promise.all(sizes)).reduce((sum, size) => sum + size, 0);
}

async function readHeader(file: string): Promise<Fingerprint> {
  let header: { readonly format?: unknown; readonly version?: unknown; readonly fingerprint?: unknown };
  try {
    header = JSON.parse(await fs.promises.readFile(file, 'utf8')) as typeof header;
  } catch (cause) {
    if (cause instanceof SyntaxError) throw corruptFile(file, 'it is no JSON: delete the directory and start anew');
    throw ioError('read', file, cause);
  }
  const { fingerprint } = header;
  if (header.format !== 'lowbit-journal' || typeof fingerprint !== 'object' || fingerprint === null)
    throw corruptFile(file, 'it is no journal of lowbit: delete the directory and start anew');
  if (header.version !== journalVersion) {
    throw new LowbitError(
      'UNSUPPORTED',
      `${file} has version ${String(header.version)} and this lowbit continues version ${journalVersion}: use the lowbit that began the run, or start anew`,
      { file },
    );
  }
  return fingerprint as Fingerprint;
}

/** "settings.bits was 4 and is 3" */
function differencesOf(before: unknown, now: unknown, name = ''): string[] {
  const isObject = (value: unknown): value is Record<string, unknown> =>
    typeof value === 'object' && value !== null && !Array.isArray(value);
  if (isObject(before) && isObject(now)) {
    return [...new Set([...Object.keys(before), ...Object.keys(now)])].flatMap((key) =>
      differencesOf(before[key], now[key], name === '' ? key : `${name}.${key}`),
    );
  }
  const text = (value: unknown): string => (value === undefined ? 'absent' : JSON.stringify(value));
  const [was, is] = [text(before), text(now)];
  const short = (text: string): string => (text.length > 100 ? `${text.slice(0, 100)}…` : text);
  return was === is ? [] : [`${name} was ${short(was)} and is ${short(is)}`];
}

async function isInstalled(directory: string, output: string): Promise<boolean> {
  try {
    const text = await fs.promises.readFile(path.join(directory, names.complete), 'utf8');
    return (JSON.parse(text) as { readonly files?: unknown }).files === (await filesOf(output));
  } catch {
    return false; // not complete, or something else lies there: then the usual rules hold
  }
}

/** What tells a directory of files from any other: a hash of names, sizes and times, which a rename leaves as they are. */
async function filesOf(directory: string): Promise<string> {
  const files = (await fs.promises.readdir(directory)).sort();
  const stats = await Promise.all(files.map((name) => fs.promises.stat(path.join(directory, name))));
  const list = stats.map(({ size, mtimeMs }, i) => [files[i], size, mtimeMs]);
  return createHash('sha256').update(JSON.stringify(list)).digest('hex');
}

export class Journal {
  private constructor(
    readonly directory: string,
    private readonly lock: JournalLock,
    /** Blocks in front of this one are solved. */
    readonly firstBlock: number,
    readonly resumed: boolean,
    private saved: number, // block of the newest state; 0 without
  ) {}

  /**
   * Begins or continues, with the directory locked until remove() or release(). `chained`: blocks need the state in front of them (calibration).
   *
   * @throws {LowbitError} INVALID_ARGUMENT when another run works there, or did since findJournal() looked; IO
   */
  static async open(found: Found, output: string, chained: boolean): Promise<Journal> {
    const lock = await JournalLock.take(found.directory);
    try {
      return await Journal.openLocked(lock, found, output, chained);
    } catch (reason) {
      await lock.release();
      throw reason;
    }
  }

  private static async openLocked(lock: JournalLock, found: Found, output: string, chained: boolean): Promise<Journal> {
    const { directory, fingerprint, resumes, discards } = found;
    try {
      const there = await fs.promises.stat(path.join(directory, names.header)).then(
        () => true,
        () => false,
      );
      if (there !== (resumes || discards))
        throw new LowbitError('INVALID_ARGUMENT', `Another run used ${directory} just now: call again`, {
          option: 'output',
          file: directory,
        });
      await restoreOld(directory, output);
      if (!resumes) {
        await clear(directory);
        const header = { format: 'lowbit-journal', version: journalVersion, fingerprint };
        await writeText(path.join(directory, names.header), `${JSON.stringify(header, null, 2)}\n`);
        await syncDirectory(path.dirname(directory));
        return new Journal(directory, lock, 0, false, 0);
      }
      await fs.promises.rm(path.join(directory, names.output), { recursive: true, force: true });
      const entries = await fs.promises.readdir(directory);
      for (const name of entries) if (name.endsWith('.tmp')) await fs.promises.rm(path.join(directory, name), { force: true });
      const first = firstBlockOf(entries, chained);
      return new Journal(directory, lock, first, true, chained ? first : 0);
    } catch (cause) {
      throw ioError('write', directory, cause);
    }
  }

  /** Where the output is to be put together. */
  get outputDirectory(): string {
    return path.join(this.directory, names.output);
  }

  /** What writeAllocation kept, or undefined. @throws {LowbitError} CORRUPT_FILE, IO */
  async readAllocation(): Promise<unknown> {
    const file = path.join(this.directory, names.allocation);
    return this.explained(file, async () => {
      try {
        return JSON.parse(await fs.promises.readFile(file, 'utf8')) as unknown;
      } catch (cause) {
        if (cause instanceof SyntaxError) throw corruptFile(file, 'it is no JSON');
        if ((cause as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
        throw ioError('read', file, cause);
      }
    });
  }

  hasAllocation(): Promise<boolean> {
    return fs.promises.access(path.join(this.directory, names.allocation)).then(
      () => true,
      () => false,
    );
  }

  writeAllocation(allocated: object): Promise<void> {
    return writeText(path.join(this.directory, names.allocation), `${JSON.stringify(allocated)}\n`);
  }

  writeBlock(solved: SolvedBlock): Promise<void> {
    return writeValue(path.join(this.directory, names.block(solved.block)), solved);
  }

  /** @throws {LowbitError} CORRUPT_FILE for a file that is not what was written, IO */
  async readBlock(block: number): Promise<SolvedBlock> {
    const file = path.join(this.directory, names.block(block));
    return this.explained(file, async () => {
      const solved = (await readValue(file)) as SolvedBlock;
      if (solved.block !== block || !Array.isArray(solved.linears)) throw corruptFile(file, 'it is another block');
      return solved;
    });
  }

  /** Keeps the state in front of `block`, one frame per sample, in place of older ones. */
  async writeState(block: number, samples: number, frames: AsyncIterable<Uint8Array>): Promise<void> {
    await writeFrames(path.join(this.directory, names.state(block)), { block }, samples, frames);
    if (this.saved > 0 && this.saved !== block) await fs.promises.rm(path.join(this.directory, names.state(this.saved)), { force: true });
    this.saved = block;
  }

  /** The states in front of firstBlock, sample by sample. */
  async *readState(samples: number): AsyncGenerator<Float32Array> {
    const file = path.join(this.directory, names.state(this.firstBlock));
    const opened = await this.explained(file, () => openFrames(file));
    if (opened.frames !== samples) throw corruptFile(file, `it has ${opened.frames} samples instead of ${samples}`);
    for (let i = 0; i < samples; i++) yield new Float32Array(new Uint8Array(await opened.frame(i)).buffer);
  }

  /** How many blocks a later run would not have to solve again. */
  async solvedBlocks(chained: boolean): Promise<number> {
    if (chained) return this.saved;
    const entries = new Set(await fs.promises.readdir(this.directory).catch(() => [] as string[]));
    let solved = 0;
    while (entries.has(names.block(solved))) solved++;
    return solved;
  }

  /** The output in `directory` is complete and will now be moved to its place. */
  async complete(directory: string): Promise<void> {
    await writeText(path.join(this.directory, names.complete), `${JSON.stringify({ files: await filesOf(directory) })}\n`);
  }

  async remove(): Promise<void> {
    await clear(this.directory);
    await this.release();
  }

  /** Leaves the work to a later run. */
  release(): Promise<void> {
    return this.lock.release();
  }

  /** A damaged file ends the resume: what was solved behind it depends on it. */
  private async explained<T>(file: string, read: () => Promise<T>): Promise<T> {
    try {
      return await read();
    } catch (cause) {
      if (!(cause instanceof LowbitError) || cause.code !== 'CORRUPT_FILE') throw cause;
      throw new LowbitError('CORRUPT_FILE', `${cause.message}. The run cannot be resumed: start anew with overwrite: true (--overwrite)`, {
        ...cause.details,
        file,
      });
    }
  }
}

/** Blocks in front of it need not be solved again. */
function firstBlockOf(entries: readonly string[], chained: boolean): number {
  const numbers = (kind: string): number[] =>
    entries.flatMap((name) => new RegExp(`^${kind}-(\\d+)\\.lbj$`).exec(name)?.[1] ?? []).map(Number);
  const blocks = new Set(numbers('block'));
  let solved = 0;
  while (blocks.has(solved)) solved++;
  return chained ? Math.max(0, ...numbers('state').filter((block) => block <= solved)) : solved;
}

/** Blocks that a run would not have to solve again: 0 unless it resumes. */
export async function blocksDone({ directory, resumes }: Found, chained: boolean): Promise<number> {
  return resumes ? firstBlockOf(await fs.promises.readdir(directory), chained) : 0;
}

/** Removes all but the lock. The header goes first: without it the rest is litter, whatever a crash leaves of it. */
async function clear(directory: string): Promise<void> {
  await fs.promises.rm(path.join(directory, names.header), { force: true });
  const entries = await fs.promises.readdir(directory);
  for (const name of entries) if (name !== lockName) await fs.promises.rm(path.join(directory, name), { recursive: true, force: true });
}

/** A crash between the two renames of an output that replaces another leaves the old one here, and nothing at its place. */
async function restoreOld(directory: string, output: string): Promise<void> {
  const target = await resolveTarget(output);
  const old = path.join(directory, `${names.output}-old`);
  const there = await fs.promises.stat(target).then(
    () => true,
    () => false,
  );
  if (!there) await fs.promises.rename(old, target).catch(() => undefined);
}

async function writeText(file: string, text: string): Promise<void> {
  const temporary = `${file}.tmp`;
  try {
    const handle = await fs.promises.open(temporary, 'w');
    try {
      await handle.writeFile(text);
      await handle.sync();
    } finally {
      await handle.close();
    }
    await fs.promises.rename(temporary, file);
    await syncDirectory(path.dirname(file));
  } catch (cause) {
    throw ioError('write', file, cause);
  }
}
