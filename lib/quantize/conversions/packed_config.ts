/**
 * lib/quantize/conversions: the quantization_config of a directory whose codes were carried over. Settings of linears that differ become dynamic rules,
 * one for all layers where that says it.
 */
import { containerVersion } from '../../checkpoint/lowbit_config';
import { MAX_RULES } from '../../checkpoint/settings_reader';
import type { Checkpoint } from '../../checkpoint/types';
import { LowbitError } from '../../errors';
import { packageVersion } from '../version';
import type { Carried, CarriedWeights } from './carry';
import { storedAs, type ConversionSource } from './conversion';

type Json = Readonly<Record<string, unknown>>;

export function containerConfig(checkpoint: Checkpoint): Record<string, unknown> {
  const source = sourceConfig(checkpoint);
  if (source?.['quant_method'] === 'lowbit') return { ...source };
  return {
    quant_method: 'lowbit',
    version: containerVersion,
    quantizer: [`lowbit:${packageVersion()}`],
    converted_from: source === undefined ? 'gguf' : (source['quant_method'] ?? 'gptq'),
  };
}

/** Of a GPTQ source what else it says stays, as who made it and how. */
export function gptqConfig({ checkpoint, plan }: ConversionSource, { format, weights }: CarriedWeights): Record<string, unknown> {
  const linears = [...weights].filter(([index]) => plan.weights[index]?.role === 'linear');
  const columns = (index: number): number => plan.weights[index]?.k ?? 0;
  const settings = new Map(linears.map(([index, one]) => [index, settingsOf(one, columns(index))]));
  const base = commonSettings([...settings].map(([index, own]) => [own, columns(index)]));
  const rules = new Map<string, string>(); // by name of the linear: a setting as JSON, '' for the usual ones, '-' for dense
  for (const [index, { name, role, k }] of plan.weights.entries()) {
    if (role !== 'linear') continue;
    const own = settings.get(index);
    if (own === undefined) rules.set(name, '-');
    else rules.set(name, same(own, base, k) ? '' : JSON.stringify({ bits: own.bits, group_size: own.groupSize }));
  }
  const source = sourceConfig(checkpoint);
  const fromGptq = source !== undefined && (source['quant_method'] ?? 'gptq') === 'gptq';
  const first = plan.weights[linears[0]?.[0] ?? -1];
  const { dynamic: _, ...others } = fromGptq ? source : {};
  const meta = (fromGptq ? source['meta'] : undefined) as Json | undefined;
  return {
    ...others,
    bits: base.bits,
    group_size: base.groupSize,
    desc_act: [...weights.values()].some(({ ordered }) => ordered),
    sym: [...weights.values()].every(({ symmetric }) => symmetric),
    lm_head: [...weights.keys()].some((index) => plan.weights[index]?.role === 'head'),
    quant_method: 'gptq',
    method: 'gptq',
    checkpoint_format: format,
    format,
    pack_dtype: 'int32',
    ...dynamicRules(checkpoint, rules),
    meta: {
      ...meta,
      quantizer: [...new Set([...list(meta?.['quantizer']), `lowbit:${packageVersion()}`])],
      ...(fromGptq || first === undefined ? {} : { converted_from: storedAs(checkpoint, first) }),
    },
  };
}

const list = (value: unknown): readonly unknown[] => (Array.isArray(value) ? value : value === undefined ? [] : [value]);

function sourceConfig(checkpoint: Checkpoint): Json | undefined {
  return (checkpoint.config['quantization_config'] ?? undefined) as Json | undefined;
}

interface Settings {
  readonly bits: number;
  readonly groupSize: number; // -1: the whole row
}

const settingsOf = ({ bits, groupSize }: Carried, k: number): Settings => ({ bits, groupSize: groupSize >= k ? -1 : groupSize });

/** Whether a linear of k columns reads the same under both: groups at least as wide as the row are the row. */
function same(own: Settings, base: Settings, k: number): boolean {
  return own.bits === base.bits && (own.groupSize === base.groupSize || (own.groupSize === -1 && base.groupSize >= k));
}

/** The settings that most linears read the same under; of whole rows and a width that says the same, the width. */
function commonSettings(linears: readonly (readonly [own: Settings, k: number])[]): Settings {
  const candidates = new Map(linears.map(([own]) => [JSON.stringify(own), own]));
  const scored = [...candidates.values()].map((one) => [linears.filter(([own, k]) => same(own, one, k)).length, one] as const);
  scored.sort(([a, one], [b, other]) => b - a || other.groupSize - one.groupSize);
  return scored[0]?.[1] ?? { bits: 4, groupSize: -1 };
}

/** A rule per kind of linear ("model.layers.\d+.mlp.up_proj") where all layers agree, else one per linear. */
function dynamicRules(checkpoint: Checkpoint, rules: ReadonlyMap<string, string>): { readonly dynamic?: Record<string, unknown> } {
  const kinds = new Map<string, Map<string, string>>();
  for (const [name, rule] of rules) {
    const kind = name
      .split('.')
      .map((word) => (/^\d+$/.test(word) ? '\\d+' : word.replace(/\W/g, '\\$&')))
      .join('\\.');
    kinds.set(kind, (kinds.get(kind) ?? new Map<string, string>()).set(name, rule));
  }
  const entries = [...kinds].flatMap(([kind, members]) => {
    const [first, ...more] = new Set(members.values());
    const named: readonly (readonly [string, string])[] =
      more.length === 0 ? [[kind, first as string]] : [...members].map(([name, rule]) => [name.replace(/\W/g, '\\$&'), rule] as const);
    return named.filter(([, rule]) => rule !== '');
  });
  if (entries.length === 0) return {};
  if (entries.length > MAX_RULES) {
    throw new LowbitError(
      'UNSUPPORTED',
      `The linears of ${checkpoint.path} differ so much that a GPTQ checkpoint would need ${entries.length} rules (at most ${MAX_RULES}): write 'lowbit'`,
      { file: checkpoint.path, option: 'to' },
    );
  }
  return {
    dynamic: Object.fromEntries(
      entries.map(([name, rule]) => (rule === '-' ? [`-:${name}$`, {}] : [`+:${name}$`, JSON.parse(rule) as unknown])),
    ),
  };
}
