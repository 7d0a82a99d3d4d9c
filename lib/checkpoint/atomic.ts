/**
 * checkpoint: output that appears whole or not at all. Files are written into a directory beside the output, brought to the disk,
 * and renamed into place at the end. Knows nothing about what is written.
 */
import { randomBytes } from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import { LowbitError, invalidArgument } from '../errors';
import { ioError } from './files';

export interface AtomicDirectoryOptions {
  /** Replace an existing non-empty directory. Default false. */
  readonly overwrite?: boolean | undefined;
  /** Where to write before the output is moved into place: a path that does not exist, on the file system of the output. Default: beside it. */
  readonly temporary?: string | undefined;
  /** Aborting before the output is in place leaves the output as it was. */
  readonly signal?: AbortSignal | undefined;
}

/**
 * Runs `write` with a new empty directory and moves that directory to `output` when it succeeds.
 *
 * On any failure and on abort the new directory is removed and `output` is as before. An existing non-empty output is refused
 * unless `overwrite`; it is then set aside, replaced, and only after that removed, so that a crash at any moment leaves the old
 * or the new directory whole (in the instant between the two renames the old one is beside the new one, named as it with "-old" behind).
 *
 * @param output the directory to make; missing parents are made too
 * @returns what `write` returns
 * @throws {LowbitError} INVALID_ARGUMENT when the output is a file or a non-empty directory, IO, CANCELLED, and what `write` throws
 */
export async function withAtomicDirectory<T>(
  output: string,
  write: (directory: string) => Promise<T>,
  options: AtomicDirectoryOptions = {},
): Promise<T> {
  if (typeof output !== 'string' || output === '') throw invalidArgument('output', 'path of a directory', output);
  const checkAborted = (): void => {
    if (options.signal?.aborted) throw new LowbitError('CANCELLED', 'The operation was aborted', {}, { cause: options.signal.reason });
  };
  checkAborted();
  const target = await resolveTarget(output);
  await checkReplaceable(target, options.overwrite === true);
  const parent = path.dirname(target);
  const temporary = options.temporary ?? path.join(parent, `.${path.basename(target)}.lowbit-${randomBytes(6).toString('hex')}`);
  try {
    await fs.promises.mkdir(parent, { recursive: true });
    await fs.promises.mkdir(temporary);
  } catch (cause) {
    throw ioError('make a directory in', parent, cause);
  }
  try {
    const result = await write(temporary);
    checkAborted();
    await syncTree(temporary);
    // Asked again: writing takes hours, and the output may have come into being meanwhile.
    await checkReplaceable(target, options.overwrite === true);
    checkAborted();
    await moveIntoPlace(temporary, target);
    return result;
  } catch (cause) {
    await fs.promises.rm(temporary, { recursive: true, force: true }).catch(() => undefined);
    throw cause;
  }
}

/** Follows a link at the output, so that the directory it points to is replaced and not the link. */
export async function resolveTarget(output: string): Promise<string> {
  const target = path.resolve(output);
  if (target === path.dirname(target)) throw invalidArgument('output', 'path of a directory to make', output);
  try {
    return await fs.promises.realpath(target);
  } catch {
    return target;
  }
}

async function checkReplaceable(target: string, overwrite: boolean): Promise<void> {
  let names: string[];
  try {
    names = await fs.promises.readdir(target);
  } catch (cause) {
    const code = (cause as NodeJS.ErrnoException).code;
    if (code === 'ENOENT') return;
    if (code === 'ENOTDIR')
      throw new LowbitError('INVALID_ARGUMENT', `The output ${target} is a file, or lies in one: choose a directory`, {
        option: 'output',
        file: target,
      });
    throw ioError('read', target, cause);
  }
  if (names.length > 0 && !overwrite) {
    throw new LowbitError(
      'INVALID_ARGUMENT',
      `The output ${target} exists and is not empty: choose another directory, or set overwrite to true to replace it`,
      {
        option: 'output',
        file: target,
      },
    );
  }
}

async function moveIntoPlace(temporary: string, target: string): Promise<void> {
  const aside = `${temporary}-old`;
  const existed = await renameIfPresent(target, aside);
  try {
    await fs.promises.rename(temporary, target);
  } catch (cause) {
    if (existed) await fs.promises.rename(aside, target);
    throw ioError('write', target, cause);
  }
  await syncDirectory(path.dirname(target));
  // The output is complete; what remains of the old one is only litter.
  await fs.promises.rm(aside, { recursive: true, force: true }).catch(() => undefined);
}

async function renameIfPresent(from: string, to: string): Promise<boolean> {
  try {
    await fs.promises.rename(from, to);
    return true;
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === 'ENOENT') return false;
    throw ioError('replace', from, cause);
  }
}

async function syncTree(directory: string): Promise<void> {
  for (const entry of await fs.promises.readdir(directory, { withFileTypes: true })) {
    const name = path.join(directory, entry.name);
    if (entry.isDirectory()) await syncTree(name);
    else if (entry.isFile()) await syncFile(name);
  }
  await syncDirectory(directory);
}

async function syncFile(file: string): Promise<void> {
  try {
    const handle = await fs.promises.open(file, 'r+');
    try {
      await handle.sync();
    } finally {
      await handle.close();
    }
  } catch (cause) {
    throw ioError('write', file, cause);
  }
}

/** Makes renames in a directory last. Windows cannot open directories; its renames are journalled. */
export async function syncDirectory(directory: string): Promise<void> {
  if (process.platform === 'win32') return;
  try {
    const handle = await fs.promises.open(directory, 'r');
    try {
      await handle.sync();
    } finally {
      await handle.close();
    }
  } catch (cause) {
    const code = (cause as NodeJS.ErrnoException).code;
    // Some network file systems have no such operation; the files themselves are on the disk by now.
    if (code !== 'EINVAL' && code !== 'ENOTSUP' && code !== 'EISDIR') throw ioError('write', directory, cause);
  }
}
