/**
 * checkpoint: bounded reads of files, with errors of the operating system turned into LowbitErrors that say what to do.
 * Nothing here knows a format.
 */
import fs from 'node:fs';
import type { FileHandle } from 'node:fs/promises';
import { LowbitError } from '../errors';

const ADVICE: Readonly<Record<string, string>> = {
  ENOENT: 'it does not exist: check the path',
  EACCES: 'permission denied: check its owner and mode',
  EPERM: 'not permitted: check its owner and mode',
  EISDIR: 'it is a directory',
  ENOTDIR: 'a part of the path is no directory',
  EMFILE: 'too many open files: close some or raise the limit (ulimit -n)',
  ENOSPC: 'the disk is full: free space or choose an output on another disk',
  EDQUOT: 'the disk quota is used up: free space or choose an output on another disk',
  EFBIG: 'the file system does not take files of this size: choose a smaller shard size',
  EROFS: 'the file system is read-only: choose another output',
  EIO: 'the device reports an error: check the disk',
};

/** IO: "Cannot <action> <file>: <what to do>". Other LowbitErrors pass unchanged. */
export function ioError(action: string, file: string, cause: unknown): LowbitError {
  if (cause instanceof LowbitError) return cause;
  // Not by instanceof: errors of the operating system may come from another realm.
  const { code: errno, message } = (cause ?? {}) as { readonly code?: unknown; readonly message?: unknown };
  const code = typeof errno === 'string' ? errno : '';
  const advice = (Object.hasOwn(ADVICE, code) ? ADVICE[code] : undefined) ?? String(message ?? cause);
  return new LowbitError('IO', `Cannot ${action} ${file}: ${advice}`, { file, errno: code }, { cause });
}

export function corruptFile(file: string, problem: string, details: Record<string, unknown> = {}): LowbitError {
  return new LowbitError('CORRUPT_FILE', `${file}: ${problem}`, { file, ...details });
}

/** Opens for reading, runs `use` with the handle and the size, closes. Refuses what is no regular file (a pipe would block). */
export async function withFile<T>(file: string, use: (handle: FileHandle, size: number) => Promise<T>): Promise<T> {
  let handle: FileHandle;
  try {
    const stat = await fs.promises.stat(file);
    if (!stat.isFile()) throw new LowbitError('IO', `Cannot read ${file}: it is no regular file`, { file });
    handle = await fs.promises.open(file, 'r');
  } catch (cause) {
    throw ioError('open', file, cause);
  }
  try {
    return await use(handle, (await handle.stat()).size);
  } catch (cause) {
    throw ioError('read', file, cause);
  } finally {
    await handle.close();
  }
}

/** Exactly `length` bytes from `offset`; CORRUPT_FILE when the file ends before. The caller bounds `length`. */
export async function readExactly(handle: FileHandle, file: string, offset: number, length: number): Promise<Buffer> {
  const buffer = Buffer.alloc(length);
  let done = 0;
  while (done < length) {
    const { bytesRead } = await handle.read(buffer, done, length - done, offset + done);
    if (bytesRead === 0)
      throw corruptFile(file, `the file ends at byte ${offset + done}, inside a part of ${length} bytes: it is truncated`);
    done += bytesRead;
  }
  return buffer;
}

/** As readExactly, for a few bytes in code that is not asynchronous. */
export function readSmallSync(file: string, offset: number, length: number): Buffer {
  const buffer = Buffer.alloc(length);
  try {
    const descriptor = fs.openSync(file, 'r');
    try {
      let done = 0;
      while (done < length) {
        const count = fs.readSync(descriptor, buffer, done, length - done, offset + done);
        if (count === 0)
          throw corruptFile(file, `the file ends at byte ${offset + done}, inside a part of ${length} bytes: it is truncated`);
        done += count;
      }
    } finally {
      fs.closeSync(descriptor);
    }
  } catch (cause) {
    throw ioError('read', file, cause);
  }
  return buffer;
}

export async function exists(file: string): Promise<boolean> {
  try {
    await fs.promises.access(file);
    return true;
  } catch {
    return false;
  }
}
