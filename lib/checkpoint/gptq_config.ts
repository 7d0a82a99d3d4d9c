/**
 * checkpoint: the quantisation settings of a GPTQ checkpoint as AutoGPTQ, GPTQModel and transformers write them, and which of the two
 * conventions its zero points follow. Tensor shapes and bytes are the business of lib/models and the engine.
 */
import { LowbitError, describe } from '../errors';
import { readSmallSync } from './files';
import { type JsonObject, isObject, own } from './json';
import type { Checkpoint, TensorEntry } from './types';

/** Settings of one linear layer. */
export interface GptqModuleConfig {
  readonly bits: 2 | 3 | 4 | 8;
  /** Columns per scale; -1 = whole row. */
  readonly groupSize: number;
  readonly sym: boolean;
  readonly descAct: boolean;
}

export interface GptqConfig extends GptqModuleConfig {
  /** What the label says: v1 stores zero points minus one, v2 as they are. */
  readonly format: 'v1' | 'v2';
  /** Whether the output head is quantised too. */
  readonly lmHead: boolean;
  /** Settings of one linear, by its name without ".weight"; undefined when a rule leaves it dense. */
  module(name: string): GptqModuleConfig | undefined;
}

const BITS: readonly number[] = [2, 3, 4, 8];
/** No row is longer. */
const MAX_GROUP = 1 << 24;
/** Rules are regular expressions from a file: bounded in number and length. */
const MAX_RULES = 4096;
const MAX_RULE_LENGTH = 1024;

const OTHER_METHODS: Readonly<Record<string, string>> = {
  awq: 'an AWQ checkpoint',
  'compressed-tensors': 'a compressed-tensors checkpoint',
  bitsandbytes: 'a bitsandbytes checkpoint',
  fp8: 'an FP8 checkpoint',
};

/**
 * The GPTQ settings in `config.quantization_config`; undefined when the checkpoint is not quantised.
 *
 * Dynamic rules: regular expression -> overrides, matched from the start of a name. "-:" in front leaves the linear dense, and such
 * rules are asked first; "+:" or nothing in front overrides settings, and the first match decides.
 *
 * @param config Checkpoint.config
 * @param file for messages: the checkpoint's path
 * @throws {LowbitError} UNSUPPORTED for other methods and layouts, CORRUPT_FILE for bad values
 */
export function parseGptqConfig(config: Readonly<Record<string, unknown>>, file = 'config.json'): GptqConfig | undefined {
  const raw = own(config, 'quantization_config') ?? undefined;
  if (raw === undefined) return undefined;
  if (!isObject(raw)) throw bad(file, 'quantization_config', 'an object', raw);
  const reader = new Reader(raw, file);
  refuseOthers(reader);
  const base = readModule(reader, undefined);
  const rules = readRules(reader, base);
  return {
    ...base,
    format: readFormat(reader),
    lmHead: reader.boolean(['lm_head'], false),
    module(name) {
      const rule = rules.find(({ pattern }) => pattern.test(name));
      return rule === undefined ? base : rule.settings;
    },
  };
}

function refuseOthers(reader: Reader): void {
  const method = reader.string(['quant_method', 'method']) ?? 'gptq';
  const unsupported = (what: string): LowbitError =>
    new LowbitError(
      'UNSUPPORTED',
      `${reader.file} holds ${what}, which this version does not read; use a GPTQ (format gptq or gptq_v2), a GGUF or the unquantised version of the model`,
      {
        file: reader.file,
      },
    );
  if (method !== 'gptq') {
    throw unsupported(
      (Object.hasOwn(OTHER_METHODS, method) ? OTHER_METHODS[method] : undefined) ?? `weights quantised by "${method.slice(0, 60)}"`,
    );
  }
  if (reader.boolean(['is_marlin_format'], false)) throw unsupported('weights in the Marlin layout');
  const packed = reader.string(['pack_dtype']) ?? 'int32';
  if (packed !== 'int32') throw unsupported(`weights packed in ${packed.slice(0, 60)} words`);
}

/** The two labels mean the same; where both stand, checkpoint_format is the older and more widely read one. */
function readFormat(reader: Reader): 'v1' | 'v2' {
  const label = reader.string(['checkpoint_format', 'format']) ?? 'gptq';
  if (label === 'gptq') return 'v1';
  if (label === 'gptq_v2') return 'v2';
  const planar = label === 'gptq_p' ? ' (planar words)' : '';
  throw new LowbitError(
    'UNSUPPORTED',
    `${reader.file} holds GPTQ weights in the format "${label.slice(0, 60)}"${planar}, which this version does not read; it reads gptq and gptq_v2`,
    {
      file: reader.file,
      format: label,
    },
  );
}

/** `base` undefined: bits and group_size are required or have the defaults of the format; else they override it. */
function readModule(reader: Reader, base: GptqModuleConfig | undefined): GptqModuleConfig {
  const bits = reader.raw(['bits', 'w_bit', 'wbits']) ?? base?.bits;
  if (typeof bits !== 'number' || !BITS.includes(bits)) throw reader.bad('bits', '2, 3, 4 or 8', bits);
  const groupSize = reader.raw(['group_size', 'q_group_size', 'groupsize']) ?? base?.groupSize ?? -1;
  if (typeof groupSize !== 'number' || !Number.isInteger(groupSize) || groupSize === 0 || groupSize < -1 || groupSize > MAX_GROUP) {
    throw reader.bad('group_size', `-1 or integer between 1 and ${MAX_GROUP}`, groupSize);
  }
  return {
    bits: bits as GptqModuleConfig['bits'],
    groupSize,
    sym: reader.boolean(['sym'], base?.sym ?? true),
    descAct: reader.boolean(['desc_act'], base?.descAct ?? false),
  };
}

interface Rule {
  readonly pattern: RegExp;
  readonly settings: GptqModuleConfig | undefined;
}

function readRules(reader: Reader, base: GptqModuleConfig): readonly Rule[] {
  const dynamic = reader.raw(['dynamic']);
  if (dynamic === undefined) return [];
  if (!isObject(dynamic)) throw reader.bad('dynamic', 'an object', dynamic);
  const entries = Object.entries(dynamic);
  if (entries.length > MAX_RULES) throw reader.bad('dynamic', `at most ${MAX_RULES} rules`, entries.length);
  const rules = entries.map(([key, value]): Rule => {
    const skip = key.startsWith('-:') || value === false;
    const pattern = compile(key.replace(/^[-+]:/, ''), reader);
    if (skip) return { pattern, settings: undefined };
    if (!isObject(value)) throw reader.bad(`dynamic["${key.slice(0, 60)}"]`, 'an object of overrides', value);
    return { pattern, settings: readModule(new Reader(value, reader.file), base) };
  });
  return [...rules.filter(({ settings }) => settings === undefined), ...rules.filter(({ settings }) => settings !== undefined)];
}

function compile(source: string, reader: Reader): RegExp {
  if (source.length > MAX_RULE_LENGTH) throw reader.bad('dynamic', `rules of at most ${MAX_RULE_LENGTH} characters`, source.length);
  try {
    return new RegExp(`^(?:${source})`);
  } catch (cause) {
    throw new LowbitError(
      'UNSUPPORTED',
      `${reader.file} has the dynamic rule ${JSON.stringify(source.slice(0, 100))}, which is no regular expression here`,
      { file: reader.file },
      { cause },
    );
  }
}

class Reader {
  constructor(
    private readonly values: JsonObject,
    readonly file: string,
  ) {}

  /** The first of the synonyms that is given; null counts as not given. */
  raw(keys: readonly string[]): unknown {
    for (const key of keys) {
      const value = own(this.values, key) ?? undefined;
      if (value !== undefined) return value;
    }
    return undefined;
  }

  string(keys: readonly string[]): string | undefined {
    const value = this.raw(keys);
    if (value !== undefined && typeof value !== 'string') throw this.bad(keys[0] as string, 'string', value);
    return value;
  }

  boolean(keys: readonly string[], fallback: boolean): boolean {
    const value = this.raw(keys) ?? fallback;
    if (typeof value !== 'boolean') throw this.bad(keys[0] as string, 'true or false', value);
    return value;
  }

  bad(key: string, expected: string, value: unknown): LowbitError {
    return bad(this.file, `quantization_config.${key}`, expected, value);
  }
}

function bad(file: string, key: string, expected: string, value: unknown): LowbitError {
  return new LowbitError('CORRUPT_FILE', `Expected ${expected} for ${key} in ${file} but received ${describe(value)}`, { file, key });
}

export interface ZeroOffset {
  /** Added to stored zero points: 1 for v1, 0 for v2. Goes into WeightSource.zeroOffset. */
  readonly zeroOffset: 0 | 1;
  /** Set when the file's content contradicts its label. */
  readonly warning?: string;
}

/** Enough to tell; symmetric weights have one zero point for all columns. A multiple of 12 bytes, the period of 3-bit fields. */
const SAMPLE_BYTES = 12 * 1024;

/**
 * Decides whether stored zero points are one too small (v1) or true (v2), by content where that can tell: published checkpoints
 * carry the wrong label. Symmetric weights have the zero point 2^(bits-1), stored as 2^(bits-1) - 1 in v1. For asymmetric ones, and
 * where the content is neither, the label counts.
 *
 * @param qzeros index of a *.qzeros tensor in checkpoint.tensors
 * @throws {LowbitError} CORRUPT_FILE when the tensor is no I32 matrix, IO
 */
export function resolveZeroOffset(checkpoint: Checkpoint, qzeros: number, config: Pick<GptqConfig, 'bits' | 'sym' | 'format'>): ZeroOffset {
  const labelled = config.format === 'v1' ? 1 : 0;
  const tensor = checkpoint.tensors[qzeros];
  const file = tensor && checkpoint.files[tensor.file];
  if (tensor === undefined || file === undefined) throw new LowbitError('INTERNAL', `There is no tensor ${qzeros} in ${checkpoint.path}`);
  if (tensor.dtype !== 'I32' || tensor.shape.length !== 2) {
    throw new LowbitError(
      'CORRUPT_FILE',
      `${file}: expected an I32 matrix for "${tensor.name}" but found ${tensor.dtype} [${tensor.shape.join(', ')}]`,
      { file, tensor: tensor.name },
    );
  }
  if (!config.sym) return { zeroOffset: labelled };
  const actual = offsetByContent(tensor, file, config.bits);
  if (actual === undefined || actual === labelled) return { zeroOffset: labelled };
  const [is, says] = actual === 1 ? ['gptq (v1)', 'gptq_v2'] : ['gptq_v2', 'gptq (v1)'];
  return {
    zeroOffset: actual,
    warning: `${checkpoint.path} is labelled ${says}, but the zero points in "${tensor.name}" are those of ${is}; they are read as ${is}`,
  };
}

function offsetByContent(tensor: TensorEntry, file: string, bits: number): 0 | 1 | undefined {
  const period = bits === 3 ? 12 : 4;
  const rowBytes = (tensor.shape[1] as number) * 4;
  // Whole periods of the first row: a row of 3-bit fields need not end on a word of three.
  const length = Math.min(SAMPLE_BYTES, Math.floor(rowBytes / period) * period, tensor.bytes);
  if (length === 0) return undefined;
  const bytes = readSmallSync(file, tensor.offset, length);
  const all = (value: number): boolean => bytes.equals(filled(value, bits, length));
  const middle = 2 ** (bits - 1);
  if (all(middle - 1)) return 1;
  return all(middle) ? 0 : undefined;
}

/** `length` bytes of equal fields, least significant bit first. */
function filled(value: number, bits: number, length: number): Buffer {
  const bytes = Buffer.alloc(length);
  for (let bit = 0; bit < length * 8; bit++) {
    if ((value >> (bit % bits)) & 1) bytes[bit >> 3] = (bytes[bit >> 3] as number) | (1 << (bit & 7));
  }
  return bytes;
}
