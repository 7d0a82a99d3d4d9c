/**
 * checkpoint: the quantisation settings of a GPTQ checkpoint as AutoGPTQ, GPTQModel and transformers write them. Which of the two
 * conventions its zero points follow is said by gptq_zeros.ts; tensor shapes and bytes are the business of lib/models and the engine.
 */
import { LowbitError } from '../errors';
import { isObject } from './json';
import { MAX_RULES, SettingsReader } from './settings_reader';

/** Settings of one linear layer. */
export interface GptqModuleConfig {
  readonly bits: 2 | 3 | 4 | 8;
  /** Columns per scale; -1 = whole row. */
  readonly groupSize: number;
  readonly sym: boolean;
  readonly descAct: boolean;
}

export interface GptqConfig extends GptqModuleConfig {
  readonly method: 'gptq';
  /** What the label says: v1 stores zero points minus one, v2 as they are. */
  readonly format: 'v1' | 'v2';
  /** Whether the output head is quantised too. */
  readonly lmHead: boolean;
  /** Settings of one linear, by its name without ".weight"; undefined when a rule leaves it dense. */
  module(name: string): GptqModuleConfig | undefined;
}

const BITS: readonly number[] = [2, 3, 4, 8];

/**
 * The GPTQ settings of a quantization_config.
 *
 * Dynamic rules: regular expression -> overrides, matched from the start of a name. "-:" in front leaves the linear dense, and such
 * rules are asked first; "+:" or nothing in front overrides settings, and the first match decides.
 *
 * @throws {LowbitError} UNSUPPORTED for other layouts, CORRUPT_FILE for bad values
 */
export function readGptqConfig(reader: SettingsReader): GptqConfig {
  if (reader.boolean(['is_marlin_format'], false)) throw reader.unsupported('weights in the Marlin layout');
  const packed = reader.string(['pack_dtype']) ?? 'int32';
  if (packed !== 'int32') throw reader.unsupported(`weights packed in ${packed.slice(0, 60)} words`);
  const base = readModule(reader, undefined);
  const rules = readRules(reader, base);
  return {
    ...base,
    method: 'gptq',
    format: readFormat(reader),
    lmHead: reader.boolean(['lm_head'], false),
    module(name) {
      const rule = rules.find(({ pattern }) => pattern.test(name));
      return rule === undefined ? base : rule.settings;
    },
  };
}

/** The two labels mean the same; where both stand, checkpoint_format is the older and more widely read one. */
function readFormat(reader: SettingsReader): 'v1' | 'v2' {
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
function readModule(reader: SettingsReader, base: GptqModuleConfig | undefined): GptqModuleConfig {
  const bits = reader.raw(['bits', 'w_bit', 'wbits']) ?? base?.bits;
  if (typeof bits !== 'number' || !BITS.includes(bits)) throw reader.bad('bits', '2, 3, 4 or 8', bits);
  return {
    bits: bits as GptqModuleConfig['bits'],
    groupSize: reader.groupSize(['group_size', 'q_group_size', 'groupsize'], base?.groupSize ?? -1),
    sym: reader.boolean(['sym'], base?.sym ?? true),
    descAct: reader.boolean(['desc_act'], base?.descAct ?? false),
  };
}

interface Rule {
  readonly pattern: RegExp;
  readonly settings: GptqModuleConfig | undefined;
}

function readRules(reader: SettingsReader, base: GptqModuleConfig): readonly Rule[] {
  const dynamic = reader.raw(['dynamic']);
  if (dynamic === undefined) return [];
  if (!isObject(dynamic)) throw reader.bad('dynamic', 'an object', dynamic);
  const entries = Object.entries(dynamic);
  if (entries.length > MAX_RULES) throw reader.bad('dynamic', `at most ${MAX_RULES} rules`, entries.length);
  const rules = entries.map(([key, value]): Rule => {
    const skip = key.startsWith('-:') || value === false;
    const pattern = reader.startPattern(key.replace(/^[-+]:/, ''), 'dynamic', 'dynamic rule');
    if (skip) return { pattern, settings: undefined };
    if (!isObject(value)) throw reader.bad(`dynamic["${key.slice(0, 60)}"]`, 'an object of overrides', value);
    return { pattern, settings: readModule(new SettingsReader(value, reader.file), base) };
  });
  return [...rules.filter(({ settings }) => settings === undefined), ...rules.filter(({ settings }) => settings !== undefined)];
}
