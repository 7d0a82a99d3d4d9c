/**
 * checkpoint: reads a Hugging Face directory: config.json, the headers of its safetensors files, tokenizer and chat template.
 * Weights are not touched. Quantised checkpoints differ only by config.quantization_config and tensor names.
 */
import fs from 'node:fs';
import path from 'node:path';
import { LowbitError } from '../errors';
import { corruptFile, exists, ioError } from './files';
import { type JsonObject, isObject, own, readJsonObject, readOptionalJsonObject, readWhole } from './json';
import { readSafetensorsHeader } from './safetensors';
import { indexByName, makeCheckpoint } from './table';
import type { Checkpoint, TensorEntry } from './types';

const CONFIG_LIMIT = 16e6;
/** The largest published tokenizer.json has 34 MB. */
const TOKENIZER_LIMIT = 256e6;
const INDEX_LIMIT = 256e6;
const TEMPLATE_LIMIT = 16e6;

const INDEX_FILE = 'model.safetensors.index.json';

export async function openHfDirectory(directory: string, checkAborted: () => void): Promise<Checkpoint> {
  const inside = (name: string): string => path.join(directory, name);
  if (!(await exists(inside('config.json')))) {
    throw new LowbitError('IO', `No config.json in ${directory}: a Hugging Face checkpoint directory holds config.json and *.safetensors`, {
      file: inside('config.json'),
    });
  }
  const config = await readConfig(directory);
  checkAborted();
  const { names, weightMap } = await weightFiles(directory);
  const files = names.map((name) => path.resolve(directory, name));
  const tensors: TensorEntry[] = [];
  for (const [i, file] of files.entries()) {
    checkAborted();
    for (const tensor of (await readSafetensorsHeader(file, i)).tensors) tensors.push(tensor);
  }
  const index = indexByName(tensors, files);
  if (weightMap) checkWeightMap(weightMap, tensors, index, names, inside(INDEX_FILE));
  checkAborted();
  const tokenizerConfig = (await readOptionalJsonObject(inside('tokenizer_config.json'), CONFIG_LIMIT)) ?? {};
  const parts = {
    kind: 'hf' as const,
    path: directory,
    files,
    tensors,
    config,
    tokenizerJson: await readOptionalJsonObject(inside('tokenizer.json'), TOKENIZER_LIMIT),
    tokenizerConfig,
    chatTemplate: await readChatTemplate(inside('chat_template.jinja'), tokenizerConfig),
    generationConfig: (await readOptionalJsonObject(inside('generation_config.json'), CONFIG_LIMIT)) ?? {},
    conventions: { ropePermuted: false, normPlusOneStored: false },
  };
  return makeCheckpoint(parts, (name) => index.get(name));
}

/** config.json; older GPTQ checkpoints keep what is now its quantization_config in a file of its own. */
async function readConfig(directory: string): Promise<JsonObject> {
  const config = await readJsonObject(path.join(directory, 'config.json'), CONFIG_LIMIT);
  if ((own(config, 'quantization_config') ?? undefined) !== undefined) return config;
  for (const name of ['quantize_config.json', 'quant_config.json']) {
    const found = await readOptionalJsonObject(path.join(directory, name), CONFIG_LIMIT);
    if (found !== undefined) return { ...config, quantization_config: found };
  }
  return config;
}

interface WeightFiles {
  readonly names: readonly string[];
  /** Tensor -> file name, when an index says so. */
  readonly weightMap?: ReadonlyMap<string, string>;
}

async function weightFiles(directory: string): Promise<WeightFiles> {
  if (await exists(path.join(directory, 'model.safetensors'))) return { names: ['model.safetensors'] };
  const indexFile = path.join(directory, INDEX_FILE);
  if (await exists(indexFile)) return shardedFiles(directory, indexFile);
  let names: string[];
  try {
    names = await fs.promises.readdir(directory);
  } catch (cause) {
    throw ioError('list', directory, cause);
  }
  const found = names.filter((name) => name.endsWith('.safetensors')).sort();
  if (found.length === 1) return { names: found };
  if (found.length > 1) {
    throw corruptFile(
      directory,
      `has ${found.length} safetensors files but no ${INDEX_FILE}, so it is unclear which belong to the model: ${found.slice(0, 5).join(', ')}`,
    );
  }
  const old = names.find((name) => /\.(bin|pt|pth|ckpt|h5|msgpack)$/.test(name));
  if (old !== undefined) {
    throw new LowbitError(
      'UNSUPPORTED',
      `${directory} holds its weights as ${old}, which can run code when read and is not supported; convert the model to safetensors`,
      {
        file: path.join(directory, old),
      },
    );
  }
  throw new LowbitError('IO', `No weights in ${directory}: expected model.safetensors, ${INDEX_FILE} or one *.safetensors file`, {
    file: directory,
  });
}

async function shardedFiles(directory: string, indexFile: string): Promise<WeightFiles> {
  const map = own(await readJsonObject(indexFile, INDEX_LIMIT, { uniqueKeys: true }), 'weight_map');
  if (!isObject(map)) throw corruptFile(indexFile, 'has no weight_map');
  const weightMap = new Map<string, string>();
  for (const [tensor, file] of Object.entries(map)) {
    // A shard lies beside the index: a name with a separator could point anywhere on the machine.
    if (typeof file !== 'string' || !/^[^/\\:\0]+\.safetensors$/.test(file)) {
      throw corruptFile(
        indexFile,
        `weight_map names ${JSON.stringify(file).slice(0, 100)} for "${tensor.slice(0, 200)}"; expected the name of a *.safetensors file in the same directory`,
        { tensor },
      );
    }
    weightMap.set(tensor, file);
  }
  if (weightMap.size === 0) throw corruptFile(indexFile, 'its weight_map is empty');
  const names = [...new Set(weightMap.values())].sort();
  for (const name of names) {
    if (!(await exists(path.join(directory, name)))) {
      throw new LowbitError('IO', `${indexFile} names the shard ${name}, which is not in ${directory}: download or copy it as well`, {
        file: path.join(directory, name),
      });
    }
  }
  return { names, weightMap };
}

function checkWeightMap(
  weightMap: ReadonlyMap<string, string>,
  tensors: readonly TensorEntry[],
  index: ReadonlyMap<string, number>,
  names: readonly string[],
  indexFile: string,
): void {
  for (const [name, file] of weightMap) {
    const found = index.get(name);
    const actual = found === undefined ? undefined : names[(tensors[found] as TensorEntry).file];
    if (actual !== file) {
      const where = actual === undefined ? 'is in none of the shards' : `is in ${actual}`;
      throw corruptFile(indexFile, `says that "${name.slice(0, 200)}" is in ${file}, but it ${where}`, { tensor: name });
    }
  }
}

/** chat_template.jinja wins over tokenizer_config.json, where a list of named templates may stand instead of one text. */
async function readChatTemplate(file: string, tokenizerConfig: JsonObject): Promise<string | undefined> {
  if (await exists(file)) return (await readWhole(file, TEMPLATE_LIMIT)).toString('utf8');
  const value = own(tokenizerConfig, 'chat_template');
  if (typeof value === 'string') return value;
  if (!Array.isArray(value)) return undefined;
  const named = value.filter(isObject).find((entry) => own(entry, 'name') === 'default');
  const template = named && own(named, 'template');
  return typeof template === 'string' ? template : undefined;
}
