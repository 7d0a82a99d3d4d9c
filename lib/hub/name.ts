/**
 * hub: names of models on a Hugging Face hub, `hf:owner/name[/file.gguf][@revision]`. Knows no network and no file system.
 */
import { LowbitError } from '../errors';

/** A model, or one GGUF file of a repository, at a revision. */
export interface HubName {
  /** "owner/name", or "name" for the few old repositories without an owner. */
  readonly repo: string;
  /** Branch, tag or commit hash. */
  readonly revision: string;
  /** Path of a .gguf file inside the repository. Absent: the whole model. */
  readonly file?: string;
}

export const commitHash = /^[0-9a-f]{40}$/;

/** Whether a model path names a model on a hub. A file of such a name is reached as "./hf:...". */
export function isHubName(path: string): boolean {
  return path.startsWith('hf:');
}

/** The hub's own rules for the two parts of a repository's name; "--" would be ambiguous in the cache. */
const namePart = /^(?!.*(?:--|\.\.))[A-Za-z0-9_][\w.-]{0,95}$/;
/** Characters of git references that are harmless in URLs and in file names on every system. */
const revisionPart = /^[\w+][\w.+-]{0,127}$/;

/**
 * Takes a name apart. The revision follows the last part because it may hold slashes ("refs/pr/1"); default "main".
 *
 * @throws {LowbitError} INVALID_ARGUMENT
 */
export function parseHubName(text: string): HubName {
  const fail = (problem: string): LowbitError =>
    new LowbitError(
      'INVALID_ARGUMENT',
      `"${text.slice(0, 200)}" ${problem}: expected hf:owner/name, hf:owner/name@revision or hf:owner/name/file.gguf`,
      {
        option: 'path',
      },
    );
  if (!isHubName(text)) throw fail('is no name of a model on a hub');
  const body = text.slice('hf:'.length);
  const at = body.indexOf('@');
  const revision = at < 0 ? 'main' : body.slice(at + 1);
  const parts = (at < 0 ? body : body.slice(0, at)).split('/');
  const repo = parts.slice(0, 2);
  const file = parts.slice(2);
  if (!repo.every((part) => namePart.test(part))) throw fail('has a part that is no name');
  if (!revision.split('/').every((part) => revisionPart.test(part) && !part.includes('..'))) throw fail('has a revision that is none');
  if (file.length === 0) return { repo: repo.join('/'), revision };
  if (!isSafePath(file.join('/'))) throw fail('names a file outside the repository');
  if (!/\.gguf$/i.test(text.slice(0, at < 0 ? undefined : at + 'hf:'.length))) throw fail('names a file that is no .gguf file');
  return { repo: repo.join('/'), revision, file: file.join('/') };
}

/** Whether a path from a repository stays below the folder it is joined to, on every system. */
export function isSafePath(path: string): boolean {
  return path.length <= 1024 && path.split('/').every((part) => /^[^\\:*?"<>|\x00-\x1f]{1,255}$/.test(part) && !/^\.\.?$/.test(part));
}

/** Back to text, for messages. */
export function printHubName({ repo, revision, file }: HubName): string {
  return `hf:${repo}${file === undefined ? '' : `/${file}`}${revision === 'main' ? '' : `@${revision}`}`;
}
