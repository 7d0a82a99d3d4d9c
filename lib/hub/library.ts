/**
 * hub: what the hub knows of a repository, asked through @huggingface/hub: the commit of a revision and the files of a commit. Its
 * answers are checked here, because paths and hashes become names in the cache. The library's own downloads are not used: they
 * neither resume nor verify (transfer.ts does).
 */
import { LowbitError } from '../errors';
import { commitHash, isSafePath, printHubName } from './name';
import { type Requester, requestAnswer } from './request';

/** A file of a commit. */
export interface RemoteFile {
  readonly path: string;
  readonly bytes: number;
  /** Hash of the content: SHA-256 for large files, for others the SHA-1 that git gives them. Its name in the cache, and the hub's ETag. */
  readonly etag: string;
}

/** The part of @huggingface/hub that is used. Its own types need those of a browser. */
interface HubLibrary {
  modelInfo(params: object): Promise<{ readonly sha?: unknown }>;
  listFiles(params: object): AsyncIterable<unknown>;
  pathsInfo(params: object): Promise<readonly unknown[]>;
}

/** Loaded on first use: most programs open local models, and it takes 100 ms. */
function library(): HubLibrary {
  // eslint-disable-next-line @typescript-eslint/no-require-imports
  return require('@huggingface/hub') as HubLibrary;
}

/** More files in one folder than any model has. */
const maxFiles = 20_000;

/** @throws {LowbitError} IO when there is no such repository or revision or the hub cannot be reached; CANCELLED */
export async function commitOf(asker: Requester): Promise<string> {
  const { repo, revision } = asker.name;
  const { sha } = await ask(asker, (common) => library().modelInfo({ ...common, name: repo, revision, additionalFields: ['sha'] }));
  if (typeof sha !== 'string' || !commitHash.test(sha)) throw nonsense(asker, 'a commit that is no hash');
  return sha;
}

/** Files in the root folder of a commit. */
export async function rootFiles(asker: Requester, commit: string): Promise<RemoteFile[]> {
  return ask(asker, async (common) => {
    const files: RemoteFile[] = [];
    let entries = 0;
    for await (const entry of library().listFiles({ ...common, repo: repoOf(asker), revision: commit })) {
      if (++entries > maxFiles) throw nonsense(asker, `more than ${maxFiles} files in one folder`);
      const file = fileOf(asker, entry);
      if (file !== undefined) files.push(file);
    }
    return files;
  });
}

/** One file of a commit; undefined when there is none. */
export async function fileAt(asker: Requester, commit: string, path: string): Promise<RemoteFile | undefined> {
  const found = await ask(asker, (common) => library().pathsInfo({ ...common, repo: repoOf(asker), revision: commit, paths: [path] }));
  return found.map((entry) => fileOf(asker, entry)).find((file) => file?.path === path);
}

const repoOf = ({ name }: Requester): { readonly type: 'model'; readonly name: string } => ({ type: 'model', name: name.repo });

async function ask<T>(asker: Requester, call: (common: { readonly hubUrl: string; readonly fetch: unknown }) => Promise<T>): Promise<T> {
  try {
    return await call({
      hubUrl: asker.settings.endpoint,
      fetch: (url: string, init: Parameters<typeof requestAnswer>[2]) => requestAnswer(asker, url, init),
    });
  } catch (cause) {
    if (cause instanceof LowbitError) throw cause;
    throw nonsense(asker, cause instanceof Error ? cause.message.slice(0, 200) : 'something that is no answer', cause);
  }
}

function nonsense({ name, settings }: Requester, what: string, cause?: unknown): LowbitError {
  return new LowbitError(
    'IO',
    `${settings.endpoint} does not answer as a Hugging Face hub does about ${printHubName(name)} (${what}): check HF_ENDPOINT`,
    { repo: name.repo },
    { cause },
  );
}

/** Undefined for what is no file. */
function fileOf(asker: Requester, entry: unknown): RemoteFile | undefined {
  const { type, path, size, oid, lfs } = (entry ?? {}) as Record<string, unknown>;
  if (type !== 'file') return undefined;
  const large = (typeof lfs === 'object' && lfs !== null ? lfs : undefined) as
    { readonly oid?: unknown; readonly size?: unknown } | undefined;
  const bytes = large?.size ?? size;
  const etag = large === undefined ? oid : large.oid;
  if (typeof path !== 'string' || !isSafePath(path)) throw nonsense(asker, 'a path that leaves the repository');
  if (typeof bytes !== 'number' || !Number.isSafeInteger(bytes) || bytes < 0) throw nonsense(asker, `no size for ${path}`);
  if (typeof etag !== 'string' || !(large === undefined ? commitHash : /^[0-9a-f]{64}$/).test(etag))
    throw nonsense(asker, `no hash for ${path}`);
  return { path, bytes, etag };
}
