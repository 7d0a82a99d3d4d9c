/**
 * checkpoint: the quantisation settings of a compressed-tensors checkpoint, as llm-compressor writes them. Read is the format
 * "pack-quantized" (integer codes in 32-bit words); tensor shapes and bytes are the business of lib/models and the engine. Rules follow
 * compressed-tensors 0.20: utils/match.py for the order of targets, quantization/quant_args.py for the settings.
 */
import type { LowbitError } from '../errors';
import { isObject } from './json';
import { MAX_GROUP, MAX_RULES, SettingsReader } from './settings_reader';

/** Settings of one linear layer. */
export interface CompressedTensorsModule {
  readonly bits: number; // 1 to 8
  /** Columns per scale; -1 = a scale per row; 'tensor' = one scale. */
  readonly groupSize: number | 'tensor';
  readonly symmetric: boolean;
}

export interface CompressedTensorsConfig {
  readonly method: 'compressed-tensors';
  /** Settings of one linear, by its name without ".weight"; undefined when it is ignored or no target. */
  module(name: string): CompressedTensorsModule | undefined;
  /** What of the file's description is not carried out, for the caller to pass on. */
  readonly warnings: readonly string[];
}

const FORMAT = 'pack-quantized';
const INSTEAD =
  'use a version of the model in the format pack-quantized (llm-compressor: schemes W4A16, W8A16 and alike), or the unquantised one';
/** The class of all layers that can be packed. */
const CLASSES: readonly string[] = ['Linear'];

/** @throws {LowbitError} UNSUPPORTED for other formats and for what changes the weights beside quantisation, CORRUPT_FILE for bad values */
export function readCompressedTensorsConfig(reader: SettingsReader): CompressedTensorsConfig {
  refuse(reader);
  const ignored = reader.strings('ignore').map((text) => compileTarget(text, 'ignore', reader));
  const warnings: string[] = [];
  const targets = readGroups(reader, warnings);
  return {
    method: 'compressed-tensors',
    warnings,
    module(name) {
      if (ignored.some(({ matches }) => matches(name))) return undefined;
      return targets.find(({ target }) => target.matches(name))?.settings;
    },
  };
}

function refuse(reader: SettingsReader): void {
  const format = reader.string(['format']) ?? FORMAT;
  if (format !== FORMAT && format !== 'mixed-precision') throw wrongFormat(format, reader);
  const status = reader.string(['quantization_status']) ?? 'compressed';
  if (status !== 'compressed') {
    throw reader.unsupported(
      `compressed-tensors weights in the state "${status.slice(0, 60)}", not yet packed`,
      'save the model with save_compressed=True',
    );
  }
  const sparsity = reader.raw(['sparsity_config', 'compression_config']) ?? {};
  if (!isObject(sparsity)) throw reader.bad('sparsity_config', 'an object', sparsity);
  const sparse = new SettingsReader(sparsity, reader.file, 'quantization_config.sparsity_config').string(['format']) ?? 'dense';
  if (sparse !== 'dense') throw reader.unsupported(`compressed-tensors weights in the sparse format "${sparse.slice(0, 60)}"`, INSTEAD);
  const transform = reader.raw(['transform_config']) ?? {};
  if (!isObject(transform)) throw reader.bad('transform_config', 'an object', transform);
  const schemes = transform['config_groups'] ?? {};
  if (!isObject(schemes) || Object.keys(schemes).length > 0) {
    throw reader.unsupported('compressed-tensors weights behind transforms (rotations) of their inputs', INSTEAD);
  }
  if (reader.raw(['kv_cache_scheme']) !== undefined) {
    throw reader.unsupported('scales for a quantised KV cache (kv_cache_scheme)', 'use a version of the model without them');
  }
}

const wrongFormat = (format: string, reader: SettingsReader): LowbitError =>
  reader.unsupported(`compressed-tensors weights in the format "${format.slice(0, 60)}"`, INSTEAD);

interface Target {
  readonly text: string;
  readonly kind: 'name' | 'pattern' | 'class';
  readonly matches: (name: string) => boolean;
}

function compileTarget(text: string, key: string, reader: SettingsReader): Target {
  if (text.startsWith('re:')) {
    const pattern = reader.startPattern(text.slice(3), key, 'target');
    return { text, kind: 'pattern', matches: (name) => pattern.test(name) };
  }
  if (CLASSES.includes(text)) return { text, kind: 'class', matches: () => true };
  return { text, kind: 'name', matches: (name) => name === text };
}

interface TargetSettings {
  readonly target: Target;
  readonly settings: CompressedTensorsModule;
}

/** All targets, most specific first: names, then patterns in alphabetical order, then classes. */
function readGroups(reader: SettingsReader, warnings: string[]): readonly TargetSettings[] {
  const groups = reader.raw(['config_groups']);
  if (!isObject(groups)) throw reader.bad('config_groups', 'an object', groups);
  const entries = Object.entries(groups);
  if (entries.length > MAX_RULES) throw reader.bad('config_groups', `at most ${MAX_RULES} groups`, entries.length);
  const all = entries.flatMap(([key, value]): readonly TargetSettings[] => {
    const where = `config_groups.${key.slice(0, 60)}`;
    if (!isObject(value)) throw reader.bad(where, 'an object', value);
    const group = new SettingsReader(value, reader.file, `${reader.where}.${where}`);
    const format = group.string(['format']) ?? FORMAT;
    if (format !== FORMAT) throw wrongFormat(format, reader);
    const settings = readWeights(group);
    if (settings === undefined) return [];
    noteActivations(group, warnings);
    return group.strings('targets').map((text) => ({ target: compileTarget(text, `${where}.targets`, reader), settings }));
  });
  const order = ['name', 'pattern', 'class'];
  const rank = ({ target }: TargetSettings): number => order.indexOf(target.kind);
  return all.sort((a, b) => rank(a) - rank(b) || (a.target.text < b.target.text ? -1 : Number(a.target.text > b.target.text)));
}

/** Activations stay as the chosen path computes them, which is no less precise than what the file asks for. */
function noteActivations(group: SettingsReader, warnings: string[]): void {
  for (const key of ['input_activations', 'output_activations']) {
    const value = group.raw([key]);
    if (value === undefined) continue;
    if (!isObject(value)) throw group.bad(key, 'an object', value);
    if (value['dynamic'] !== true) {
      throw group.unsupported(`activations quantised with stored scales (${group.where}.${key})`, INSTEAD);
    }
    warnings.push(`${group.file}: ${group.where}.${key} asks for quantised activations; only the weights are read as quantised`);
  }
}

/** undefined: a group that quantises no weights. */
function readWeights(group: SettingsReader): CompressedTensorsModule | undefined {
  const value = group.raw(['weights']);
  if (value === undefined) return undefined;
  if (!isObject(value)) throw group.bad('weights', 'an object', value);
  const weights = new SettingsReader(value, group.file, `${group.where}.weights`);
  const type = weights.string(['type']) ?? 'int';
  const bits = weights.raw(['num_bits']) ?? 8;
  if (typeof bits !== 'number' || !Number.isInteger(bits) || bits < 1 || bits > 8)
    throw weights.bad('num_bits', 'integer between 1 and 8', bits);
  if (type !== 'int') throw weights.unsupported(`compressed-tensors weights of type ${type.slice(0, 60)} with ${bits} bits`, INSTEAD);
  const size = weights.raw(['group_size']);
  const strategy = weights.string(['strategy']) ?? (size === undefined ? 'tensor' : size === -1 ? 'channel' : 'group');
  const symmetric = weights.boolean(['symmetric'], true);
  if (strategy === 'channel') return { bits, groupSize: -1, symmetric };
  if (strategy === 'group') {
    if (typeof size !== 'number' || !Number.isInteger(size) || size < 1 || size > MAX_GROUP)
      throw weights.bad('group_size', `integer between 1 and ${MAX_GROUP}`, size);
    return { bits, groupSize: size, symmetric };
  }
  if (strategy === 'tensor' && symmetric) return { bits, groupSize: 'tensor', symmetric };
  const what = strategy === 'tensor' ? 'one zero point for a whole tensor' : `scales by the strategy "${strategy.slice(0, 60)}"`;
  throw weights.unsupported(`compressed-tensors weights with ${what}`, INSTEAD);
}
