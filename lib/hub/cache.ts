/**
 * hub: one repository in the cache, in the layout that Hugging Face's Python tools share:
 *
 *   models--owner--name/blobs/<etag>                        contents, named by their hash
 *   models--owner--name/snapshots/<commit>/<path>           links to ../../blobs/<etag>
 *   models--owner--name/refs/<revision>                     the commit that a branch or tag stood for when it was asked last
 *
 * A name in it appears only when what it stands for is whole: contents are written under names that end in ".incomplete" and renamed. Such a
 * name carries machine and process of its writer, so two processes never write to one file; what a dead one left behind is taken over by
 * renaming it, which only one can do. Knows no network.
 */
import { createHash, randomBytes } from 'node:crypto';
import fs from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { ioError } from '../checkpoint/files';
import { commitHash } from './name';
import { cancelled, throwIfAborted } from './request';

/** Of this machine, as file names carry it. */
const machine = createHash('sha256').update(os.hostname()).digest('hex').slice(0, 8);
/** A file of another machine (a shared disk) is not taken over before it was left alone for a day. */
const foreignMs = 24 * 3600 * 1000;

export class RepositoryCache {
  private readonly root: string;

  constructor(cacheDir: string, repo: string) {
    this.root = path.join(cacheDir, `models--${repo.split('/').join('--')}`);
  }

  blobPath(etag: string): string {
    return path.join(this.root, 'blobs', etag);
  }

  snapshotPath(commit: string, file = ''): string {
    return path.join(this.root, 'snapshots', commit, ...file.split('/'));
  }

  /** Whether the contents are there, with the size they should have. */
  async hasBlob(etag: string, bytes: number): Promise<boolean> {
    return (await sizeOf(this.blobPath(etag))) === bytes;
  }

  /** Whether the snapshot has the file, with the size it should have. */
  async hasFile(commit: string, file: string, bytes: number): Promise<boolean> {
    return (await sizeOf(this.snapshotPath(commit, file))) === bytes;
  }

  async exists(commit: string, file = ''): Promise<boolean> {
    return (await sizeOf(this.snapshotPath(commit, file))) !== undefined;
  }

  /** The commit that a revision stood for when it was asked last. */
  async commitOf(revision: string): Promise<string | undefined> {
    if (commitHash.test(revision)) return revision;
    const text = await fs.readFile(this.refPath(revision), 'utf8').catch(() => '');
    return commitHash.test(text.trim()) ? text.trim() : undefined;
  }

  /** @throws {LowbitError} IO */
  async rememberCommit(revision: string, commit: string): Promise<void> {
    if (commitHash.test(revision)) return;
    await this.replace(this.refPath(revision), (temporary) => fs.writeFile(temporary, commit));
  }

  /** Puts a file whose contents are there into the snapshot. @throws {LowbitError} IO */
  async link(commit: string, file: string, etag: string): Promise<void> {
    const blob = this.blobPath(etag);
    const target = this.snapshotPath(commit, file);
    await this.replace(target, async (temporary) => {
      try {
        await fs.symlink(path.relative(path.dirname(target), blob), temporary);
      } catch {
        // Windows grants links to few users, some network disks have none: a second name of the same file, or else a copy.
        await fs.link(blob, temporary).catch(() => fs.copyFile(blob, temporary));
      }
    });
  }

  /** Makes the folder of contents. @returns free bytes on its disk @throws {LowbitError} IO */
  async prepare(): Promise<number> {
    const folder = path.join(this.root, 'blobs');
    try {
      await fs.mkdir(folder, { recursive: true });
      const { bavail, bsize } = await fs.statfs(folder);
      return bavail * bsize;
    } catch (cause) {
      throw ioError('write to the model cache', folder, cause);
    }
  }

  /** A file to write contents to that is this process's own: what an earlier attempt left, renamed, or a name for a new one. */
  async claimPartial(etag: string): Promise<string> {
    const mine = path.join(this.root, 'blobs', `${etag}.${machine}-${process.pid}-${randomBytes(6).toString('hex')}.incomplete`);
    for (const { file } of await this.abandoned(etag)) {
      try {
        await fs.rename(file, mine);
        return mine;
      } catch {
        // somebody else was faster
      }
    }
    return mine;
  }

  /** Bytes that an earlier attempt left of these contents. */
  async leftBytes(etag: string): Promise<number> {
    return (await this.abandoned(etag))[0]?.bytes ?? 0;
  }

  /** Leaves what was written to the next attempt. */
  async releasePartial(partial: string, etag: string): Promise<void> {
    await fs.rename(partial, path.join(this.root, 'blobs', `${etag}.lowbit.incomplete`)).catch(() => undefined);
  }

  /** The partial file is whole: gives it its name, and removes what others left of the same contents. @throws {LowbitError} IO */
  async completePartial(partial: string, etag: string): Promise<void> {
    const blob = this.blobPath(etag);
    await fs.rename(partial, blob).catch((cause: unknown) => {
      throw ioError('write', blob, cause);
    });
    for (const { file } of await this.abandoned(etag)) await fs.rm(file, { force: true }).catch(() => undefined);
  }

  /** Partial files that nobody writes to, the largest first. */
  private async abandoned(etag: string): Promise<{ readonly file: string; readonly bytes: number }[]> {
    const folder = path.join(this.root, 'blobs');
    const found: { readonly file: string; readonly bytes: number }[] = [];
    for (const name of await fs.readdir(folder).catch(() => [])) {
      const match = /^([0-9a-f]+)\.(?:lowbit|([0-9a-f]{8})-(\d{1,10})-[0-9a-f]{12})\.incomplete$/.exec(name);
      if (match?.[1] !== etag) continue;
      const file = path.join(folder, name);
      const stat = await fs.stat(file).catch(() => undefined);
      if (stat?.isFile() !== true) continue;
      const [, , owner, pid] = match;
      const left =
        owner === undefined || (owner === machine ? !isWriting(Number(pid), stat.mtimeMs) : Date.now() - stat.mtimeMs > foreignMs);
      if (left) found.push({ file, bytes: stat.size });
    }
    return found.sort((a, b) => b.bytes - a.bytes);
  }

  private refPath(revision: string): string {
    return path.join(this.root, 'refs', ...revision.split('/'));
  }

  /** Makes `target` under another name first and renames it over what is there. */
  private async replace(target: string, make: (temporary: string) => Promise<unknown>): Promise<void> {
    const temporary = path.join(path.dirname(target), `.${randomBytes(6).toString('hex')}.incomplete`);
    try {
      await fs.mkdir(path.dirname(target), { recursive: true });
      await make(temporary);
      await fs.rename(temporary, target);
    } catch (cause) {
      await fs.rm(temporary, { force: true }).catch(() => undefined);
      throw ioError('write', target, cause);
    }
  }
}

/** Of what a path leads to; undefined when it leads nowhere. */
async function sizeOf(file: string): Promise<number | undefined> {
  return fs.stat(file).then(
    ({ size }) => size,
    () => undefined,
  );
}

/** Whether a process of this machine may still be writing. In containers, this process may have the number of the one that died. */
function isWriting(pid: number, changedMs: number): boolean {
  if (pid === process.pid) return changedMs >= Date.now() - process.uptime() * 1000;
  try {
    process.kill(pid, 0);
    return true;
  } catch (reason) {
    return (reason as NodeJS.ErrnoException).code === 'EPERM';
  }
}

const turns = new Map<string, Promise<unknown>>();

/**
 * Runs `work` after all earlier work of this process under the same key, so that two loads of one model fetch it once. An abort ends the
 * wait; once it runs, work must react to the signal itself.
 */
export function inTurn<T>(key: string, signal: AbortSignal | undefined, work: () => Promise<T>): Promise<T> {
  const before = turns.get(key) ?? Promise.resolve();
  let started = false;
  const mine = before.then(() => {
    throwIfAborted(signal);
    started = true;
    return work();
  });
  const settled = mine.then(
    () => undefined,
    () => undefined,
  );
  turns.set(key, settled);
  void settled.then(() => turns.get(key) === settled && turns.delete(key));
  return new Promise((resolve, reject) => {
    const abort = (): void => {
      if (!started) reject(cancelled(signal));
    };
    signal?.addEventListener('abort', abort, { once: true });
    if (signal?.aborted) abort();
    mine.then(resolve, reject).finally(() => signal?.removeEventListener('abort', abort));
  });
}
