/**
 * hub: fetches one file into the cache: continues what an earlier attempt left (HTTP Range), verifies the content's hash, and gives it its
 * name only then.
 */
import { createHash, type Hash } from 'node:crypto';
import { type FileHandle, open } from 'node:fs/promises';
import { ioError } from '../checkpoint/files';
import { LowbitError } from '../errors';
import { type RepositoryCache, inTurn } from './cache';
import type { RemoteFile } from './library';
import { printHubName } from './name';
import { type Requester, connectionError, request, throwIfAborted, wait } from './request';

/** An attempt that brought this much was worth it: the count of failures begins anew. */
const progressBytes = 1 << 20;

/**
 * Brings the content of a file into the cache unless it is there.
 *
 * @param onBytes called with the bytes that are on the disk now, which may fall when a damaged beginning is thrown away
 * @throws {LowbitError} IO for the network, the server or the disk; CORRUPT_FILE when the content does not have the hash that the hub states;
 *   CANCELLED. Except for a wrong content, what was fetched stays for the next attempt
 */
export function fetchBlob(
  asker: Requester,
  cache: RepositoryCache,
  commit: string,
  file: RemoteFile,
  onBytes: (done: number) => void,
): Promise<void> {
  return inTurn(cache.blobPath(file.etag), asker.signal, async () => {
    if (await cache.hasBlob(file.etag, file.bytes)) {
      onBytes(file.bytes);
      return;
    }
    const partial = await cache.claimPartial(file.etag);
    try {
      await fill(asker, partial, urlOf(asker, commit, file), file, onBytes);
    } catch (reason) {
      await cache.releasePartial(partial, file.etag);
      throw reason;
    }
    await cache.completePartial(partial, file.etag);
  });
}

function urlOf({ settings, name }: Requester, commit: string, file: RemoteFile): string {
  return `${settings.endpoint}/${name.repo}/resolve/${commit}/${file.path.split('/').map(encodeURIComponent).join('/')}`;
}

async function fill(asker: Requester, partial: string, url: string, file: RemoteFile, onBytes: (done: number) => void): Promise<void> {
  const target = await Target.open(partial, file);
  try {
    const continued = target.done > 0;
    await receive(asker, target, url, file, onBytes);
    if (target.isRight()) {
      await target.sync();
      return;
    }
    await target.restart();
    onBytes(0);
    // The beginning may come from another server or an older lowbit: once more from the start.
    if (continued) {
      await receive(asker, target, url, file, onBytes);
      if (target.isRight()) {
        await target.sync();
        return;
      }
      await target.restart();
    }
    throw new LowbitError(
      'CORRUPT_FILE',
      `What ${asker.settings.endpoint} sent for ${file.path} of ${printHubName(asker.name)} does not have the hash ${file.etag} that it states: try again; if it stays so, a proxy or the server changes the file`,
      { file: file.path, expected: file.etag },
    );
  } finally {
    await target.close();
  }
}

/** Requests until the file is as long as it should be. */
async function receive(asker: Requester, target: Target, url: string, file: RemoteFile, onBytes: (done: number) => void): Promise<void> {
  onBytes(target.done);
  for (let failures = 0; target.done < file.bytes;) {
    const from = target.done;
    const range = { 'accept-encoding': 'identity', ...(from > 0 ? { range: `bytes=${from}-` } : {}) };
    const response = await request(asker, url, { headers: range }, [416]);
    let failure: LowbitError;
    if (from > 0 && !continuesAt(response, from, file.bytes)) await target.restart(); // the server knows no ranges, or another file
    if (response.status === 416 || (target.done === 0 && response.status === 206)) {
      await response.body?.cancel();
      failure = new LowbitError('IO', `${url} does not answer with the part of the file that was asked for`, { url });
    } else {
      failure = await receiveBody(asker, target, response, file, onBytes);
      if (target.done === file.bytes) return;
    }
    failures = target.done - from >= progressBytes ? 1 : failures + 1;
    if (failures >= asker.retry.attempts) throw failure;
    await wait(asker.retry.delayMs * 2 ** (failures - 1), asker.signal);
  }
}

/** 206 Partial Content for the bytes from `from` on of a file of this size. */
function continuesAt(response: Response, from: number, bytes: number): boolean {
  const match = /^bytes (\d+)-\d+\/(\d+|\*)$/.exec(response.headers.get('content-range') ?? '');
  return response.status === 206 && match !== null && Number(match[1]) === from && (match[2] === '*' || Number(match[2]) === bytes);
}

/** Writes a body to the end. @returns why it ended, if the file is not whole then */
async function receiveBody(
  asker: Requester,
  target: Target,
  response: Response,
  file: RemoteFile,
  onBytes: (done: number) => void,
): Promise<LowbitError> {
  const reader = response.body?.getReader();
  try {
    for (;;) {
      let chunk: Uint8Array | undefined;
      try {
        chunk = (await reader?.read())?.value as Uint8Array | undefined;
      } catch (cause) {
        throwIfAborted(asker.signal);
        return connectionError(response.url, asker.name, cause);
      }
      throwIfAborted(asker.signal);
      if (chunk === undefined) {
        return connectionError(
          response.url,
          asker.name,
          new Error(`the connection ended at byte ${target.done} of ${file.bytes} of ${file.path}`),
        );
      }
      if (target.done + chunk.length > file.bytes) {
        await target.restart();
        const problem = `${asker.settings.endpoint} sends more than the ${file.bytes} bytes that ${file.path} of ${printHubName(asker.name)} has`;
        throw new LowbitError('CORRUPT_FILE', `${problem}: try again; if it stays so, a proxy or the server changes the file`, {
          file: file.path,
        });
      }
      await target.append(chunk);
      onBytes(target.done);
    }
  } finally {
    await reader?.cancel().catch(() => undefined);
  }
}

/** The partial file and the hash of what is in it. */
class Target {
  private hash: Hash;
  done = 0;

  private constructor(
    private readonly path: string,
    private readonly handle: FileHandle,
    private readonly file: RemoteFile,
  ) {
    this.hash = this.newHash();
  }

  static async open(path: string, file: RemoteFile): Promise<Target> {
    const handle = await open(path, 'a+').catch((cause: unknown) => {
      throw ioError('write', path, cause);
    });
    const target = new Target(path, handle, file);
    try {
      await target.readBack();
      return target;
    } catch (cause) {
      await handle.close();
      throw ioError('read', path, cause);
    }
  }

  /** Hashes what an earlier attempt wrote. */
  private async readBack(): Promise<void> {
    const { size } = await this.handle.stat();
    if (size > this.file.bytes) return this.restart();
    const buffer = Buffer.alloc(Math.min(size, 1 << 22));
    while (this.done < size) {
      const { bytesRead } = await this.handle.read(buffer, 0, buffer.length, this.done);
      if (bytesRead === 0) break;
      this.hash.update(buffer.subarray(0, bytesRead));
      this.done += bytesRead;
    }
  }

  async append(chunk: Uint8Array): Promise<void> {
    try {
      await this.handle.appendFile(chunk);
    } catch (cause) {
      throw ioError('write', this.path, cause);
    }
    this.hash.update(chunk);
    this.done += chunk.length;
  }

  async restart(): Promise<void> {
    try {
      await this.handle.truncate(0);
    } catch (cause) {
      throw ioError('write', this.path, cause);
    }
    this.hash = this.newHash();
    this.done = 0;
  }

  /** Whether the content is the one that the hub states. Ends the hash. */
  isRight(): boolean {
    return this.hash.digest('hex') === this.file.etag;
  }

  async sync(): Promise<void> {
    try {
      await this.handle.sync();
    } catch (cause) {
      throw ioError('write', this.path, cause);
    }
  }

  close(): Promise<void> {
    return this.handle.close();
  }

  /** SHA-256, or git's SHA-1 of a blob: of the word "blob", the size, a zero byte and the content. */
  private newHash(): Hash {
    return this.file.etag.length === 64 ? createHash('sha256') : createHash('sha1').update(`blob ${this.file.bytes}\0`);
  }
}
