/**
 * hub: which files of a repository a model needs: configuration, tokenizer, licence, and one form of the weights. Never pickled weights,
 * never code, never the same weights twice.
 */
import { readdir } from 'node:fs/promises';
import path from 'node:path';
import { carriedFiles } from '../checkpoint/carried_files';
import { corruptFile, exists } from '../checkpoint/files';
import { isObject, own, readJsonObject } from '../checkpoint/json';
import { LowbitError } from '../errors';

export const indexFile = 'model.safetensors.index.json';
const maxIndexBytes = 256e6;

/** What the reader of checkpoints looks for and what compression carries over to its output. */
const sideFiles: ReadonlySet<string> = new Set(['config.json', 'quantize_config.json', 'quant_config.json', ...carriedFiles]);

export interface Selection {
  /** Everything but weights. */
  readonly side: readonly string[];
  /** Files of weights; 'index': those that the index names. */
  readonly weights: readonly string[] | 'index';
}

/**
 * Chooses from the names in the root of a repository, by the rules of the reader (lib/checkpoint/hf.ts): model.safetensors, or the shards of
 * the index, or the only *.safetensors file.
 *
 * @param label of the model, for messages
 * @throws {LowbitError} UNSUPPORTED when there is nothing that can be read, with what there is instead
 */
export function selectFiles(label: string, names: readonly string[]): Selection {
  const gguf = names.filter((name) => /\.gguf$/i.test(name));
  const instead = (): string =>
    gguf.length === 0
      ? ''
      : `. It has GGUF files; name one of them: ${gguf
          .slice(0, 12)
          .map((name) => `${label.replace(/@.*/, '')}/${name}`)
          .join(', ')}`;
  const refuse = (text: string): LowbitError =>
    new LowbitError('UNSUPPORTED', `${label} ${text}${instead()}`, { files: names.slice(0, 100) });
  if (!names.includes('config.json')) throw refuse('has no config.json, so it is no model that lowbit can read');
  const side = names.filter((name) => sideFiles.has(name));
  if (names.includes('model.safetensors')) return { side, weights: ['model.safetensors'] };
  if (names.includes(indexFile)) return { side: [...side, indexFile], weights: 'index' };
  const weights = names.filter((name) => name.endsWith('.safetensors'));
  if (weights.length === 1) return { side, weights };
  if (weights.length > 1)
    throw refuse(`has ${weights.length} safetensors files but no ${indexFile}, so it is unclear which belong to the model`);
  const pickled = names.find((name) => /\.(bin|pt|pth|ckpt|h5|msgpack)$/.test(name));
  throw refuse(
    pickled === undefined ? 'has no weights' : `has its weights only as ${pickled}, which can run code when read and is not supported`,
  );
}

/** The shards that an index file names. @throws {LowbitError} CORRUPT_FILE */
export async function shardsOf(file: string): Promise<string[]> {
  const map = own(await readJsonObject(file, maxIndexBytes, { uniqueKeys: true }), 'weight_map');
  if (!isObject(map)) throw corruptFile(file, 'has no weight_map');
  const names = [...new Set(Object.values(map))];
  for (const name of names) {
    if (typeof name !== 'string' || !/^[^/\\:\0]+\.safetensors$/.test(name)) {
      throw corruptFile(file, `weight_map names ${JSON.stringify(name).slice(0, 100)}; expected a *.safetensors file in the same folder`);
    }
  }
  return (names as string[]).sort();
}

/** The first file that is missing for the model in `directory` to be whole; undefined when none is. Its side files are taken as they are. */
export async function missingFile(directory: string): Promise<string | undefined> {
  const has = (name: string): Promise<boolean> => exists(path.join(directory, name));
  if (!(await has('config.json'))) return 'config.json';
  if (await has('model.safetensors')) return undefined;
  if (!(await has(indexFile))) return (await hasSingleFile(directory)) ? undefined : 'model.safetensors';
  for (const name of await shardsOf(path.join(directory, indexFile))) if (!(await has(name))) return name;
  return undefined;
}

async function hasSingleFile(directory: string): Promise<boolean> {
  const weights = (await readdir(directory)).filter((name) => name.endsWith('.safetensors'));
  return weights.length === 1 && (await exists(path.join(directory, weights[0] as string)));
}
