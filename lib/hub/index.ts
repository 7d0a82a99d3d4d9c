/**
 * hub: models by name. Brings `hf:owner/name` into the cache and says where it lies there; everything behind works on paths. Only the files
 * that a model needs are fetched, weights last, so that a snapshot with whole weights has everything else. Reads no model.
 */
import path from 'node:path';
import { LowbitError, invalidArgument } from '../errors';
import { checkOptions } from '../options';
import { RepositoryCache } from './cache';
import { hubSettings } from './environment';
import { type RemoteFile, commitOf, fileAt, rootFiles } from './library';
import { type HubName, isHubName, parseHubName, printHubName } from './name';
import { type HubOptions, type PullOptions, pullRules } from './options';
import { type Requester, defaultRetry, throwIfAborted } from './request';
import { indexFile, missingFile, selectFiles, shardsOf } from './select';
import { fetchBlob } from './transfer';

export { type HubOptions, type HubProgress, type PullOptions, hubOption } from './options';
export { isHubName } from './name';

export interface PullResult {
  /** Folder of the model, or path of the GGUF file, in the cache. */
  readonly path: string;
  readonly repo: string;
  readonly revision: string;
  /** The commit that the revision stands for. */
  readonly commit: string;
  /** Bytes that were fetched now. */
  readonly fetchedBytes: number;
  /** Whether the hub was not asked: offline, or because it could not be reached. */
  readonly offline: boolean;
  /** Why the cache was used although offline was not asked for. */
  readonly note?: string;
}

/** Progress comes no more often than this, or than every hundredth of the whole. */
const progressMs = 50;

/**
 * Brings a model into the cache and says where it is. What is there already is not fetched again; a download that broke off goes on where it
 * stopped; every content is checked against the hash that the hub states. If the hub cannot be reached and the cache has the
 * model at the revision's last known commit, that is used, and `note` says so.
 *
 * @example
 * const { path } = await pull('hf:HuggingFaceTB/SmolLM2-135M-Instruct');
 * @param name `hf:owner/name`, `hf:owner/name@revision` or `hf:owner/name/file.gguf`
 * @throws {LowbitError} INVALID_ARGUMENT for a bad name or option; IO when the model does not exist, may not be read (with what to do), is
 *   not in the cache and offline is set, or network or disk fail; UNSUPPORTED when it has no weights that can be read; CORRUPT_FILE when a
 *   content is not what the hub states; CANCELLED
 */
export async function pull(name: string, options?: PullOptions): Promise<PullResult> {
  if (typeof name !== 'string') throw invalidArgument('name', 'hf:owner/name', name);
  const { signal, ...rest } = checkOptions('pull', options, pullRules);
  return pullModel({ name: parseHubName(name), settings: hubSettings(rest), retry: defaultRetry, signal }, rest.onProgress);
}

/** A model path that may be a name: the path it has on this machine, and how it came there if it is a name. */
export async function localModel(
  model: string,
  options: HubOptions | undefined,
  signal: AbortSignal | undefined,
): Promise<{ readonly path: string; readonly pulled?: PullResult }> {
  if (!isHubName(model)) return { path: model };
  const pulled = await pull(model, { ...options, ...(signal === undefined ? {} : { signal }) });
  return { path: pulled.path, pulled };
}

/** pull() with everything decided. */
export async function pullModel(asker: Requester, onProgress: HubOptions['onProgress']): Promise<PullResult> {
  throwIfAborted(asker.signal);
  const { name, settings } = asker;
  const cache = new RepositoryCache(settings.cacheDir, name.repo);
  const { repo, revision } = name;
  if (settings.offline) return { ...(await fromCache(name, cache, settings.cacheDir)), repo, revision, fetchedBytes: 0, offline: true };
  try {
    const commit = await commitOf(asker);
    const fetchedBytes = await fetchModel(asker, cache, commit, onProgress);
    await cache.rememberCommit(revision, commit);
    return { path: placeOf(name, cache, commit), repo, revision, commit, fetchedBytes, offline: false };
  } catch (reason) {
    if (!(reason instanceof LowbitError) || reason.details['unreachable'] !== true) throw reason;
    const found = await fromCache(name, cache, settings.cacheDir).catch(() => undefined);
    if (found === undefined) throw reason;
    return {
      ...found,
      repo,
      revision,
      fetchedBytes: 0,
      offline: true,
      note: `the cached commit ${found.commit} is used: ${reason.message}`,
    };
  }
}

const placeOf = (name: HubName, cache: RepositoryCache, commit: string): string => cache.snapshotPath(commit, name.file);

async function fromCache(
  name: HubName,
  cache: RepositoryCache,
  cacheDir: string,
): Promise<{ readonly path: string; readonly commit: string }> {
  const commit = await cache.commitOf(name.revision);
  const absent = (what: string): LowbitError =>
    new LowbitError(
      'IO',
      `${printHubName(name)} cannot be used offline: ${what} in ${cacheDir}. Fetch it once with "lowbit pull ${printHubName(name)}"`,
      {
        repo: name.repo,
        offline: true,
      },
    );
  if (commit === undefined || !(await cache.exists(commit))) throw absent('it is not');
  const place = placeOf(name, cache, commit);
  const missing = name.file === undefined ? await missingFile(place) : (await cache.exists(commit, name.file)) ? undefined : name.file;
  if (missing !== undefined) throw absent(`its ${missing} is not`);
  return { path: place, commit };
}

async function fetchModel(asker: Requester, cache: RepositoryCache, commit: string, onProgress: HubOptions['onProgress']): Promise<number> {
  const { name } = asker;
  const fetching = new Fetching(asker, cache, commit, onProgress);
  if (name.file !== undefined) {
    const file = (await fileAt(asker, commit, name.file)) ?? (await noSuchFile(asker, commit, name.file));
    return fetching.fetch([file]);
  }
  const files = await rootFiles(asker, commit);
  const selection = selectFiles(
    printHubName(name),
    files.map((file) => file.path),
  );
  const named = (names: readonly string[]): RemoteFile[] =>
    names.map((wanted) => {
      const file = files.find(({ path: found }) => found === wanted);
      if (file !== undefined) return file;
      throw new LowbitError('CORRUPT_FILE', `${printHubName(name)}: ${indexFile} names ${wanted}, which the repository does not have`, {
        file: wanted,
      });
    });
  if (selection.weights !== 'index') return fetching.fetch(named([...selection.side, ...selection.weights]));
  // The index says which shards belong to the model; that there is room for them is better known before it came.
  const shards = files.filter((file) => /-of-\d+\.safetensors$/.test(file.path));
  const fetched = await fetching.fetch(named(selection.side), shards);
  return fetched + (await fetching.fetch(named(await shardsOf(path.join(cache.snapshotPath(commit), indexFile)))));
}

async function noSuchFile(asker: Requester, commit: string, file: string): Promise<never> {
  const others = (await rootFiles(asker, commit)).filter(({ path: found }) => /\.gguf$/i.test(found)).map(({ path: found }) => found);
  const hint = others.length === 0 ? 'it has no GGUF file in its root folder' : `its GGUF files are ${others.slice(0, 20).join(', ')}`;
  throw new LowbitError('IO', `hf:${asker.name.repo} has no file ${file} at ${asker.name.revision}: ${hint}`, {
    repo: asker.name.repo,
    file,
  });
}

/** Fetches files one after the other and counts. */
class Fetching {
  private done = 0;
  private total = 0;
  private last = -Infinity;
  private lastDone = 0;

  constructor(
    private readonly asker: Requester,
    private readonly cache: RepositoryCache,
    private readonly commit: string,
    private readonly onProgress: HubOptions['onProgress'],
  ) {}

  /**
   * @param later files that another call will fetch, or not: they count for the room on the disk
   * @returns bytes that came over the network
   */
  async fetch(files: readonly RemoteFile[], later: readonly RemoteFile[] = []): Promise<number> {
    const missing: RemoteFile[] = [];
    for (const file of files) if (!(await this.cache.hasFile(this.commit, file.path, file.bytes))) missing.push(file);
    if (missing.length === 0) return 0;
    await this.checkRoom([...missing, ...later]);
    this.total = this.done + [...missing, ...later].reduce((sum, { bytes }) => sum + bytes, 0);
    let fetched = 0;
    for (const file of missing) {
      const before = this.done;
      let first: number | undefined;
      let now = 0;
      await fetchBlob(this.asker, this.cache, this.commit, file, (bytes) => {
        first ??= bytes;
        now = bytes;
        this.done = before + bytes;
        this.report(file.path, false);
      });
      fetched += Math.max(0, now - (first ?? 0));
      await this.cache.link(this.commit, file.path, file.etag);
      this.report(file.path, true);
    }
    return fetched;
  }

  /** Before anything is fetched. */
  private async checkRoom(files: readonly RemoteFile[]): Promise<void> {
    const free = await this.cache.prepare();
    let needed = 0;
    for (const { etag, bytes } of files) if (!(await this.cache.hasBlob(etag, bytes))) needed += bytes - (await this.cache.leftBytes(etag));
    if (needed <= free) return;
    const { cacheDir } = this.asker.settings;
    throw new LowbitError(
      'IO',
      `${printHubName(this.asker.name)} needs ${needed} bytes in ${cacheDir}, where ${free} are free: make room, or set HF_HUB_CACHE or cacheDir to a folder on another disk`,
      { file: cacheDir, needed, free },
    );
  }

  private report(file: string, always: boolean): void {
    if (this.onProgress === undefined) return;
    const now = performance.now();
    if (!always && now - this.last < progressMs && Math.abs(this.done - this.lastDone) * 100 < this.total) return;
    this.last = now;
    this.lastDone = this.done;
    this.onProgress({ file, done: this.done, total: this.total });
  }
}
