/**
 * lib/quantize/allocation: what may be asked of an automatic allocation, checked and completed with defaults.
 */
import { LowbitError, invalidArgument } from '../../errors';
import { integer, nested, oneOf, type Rule } from '../../options';
import { blockTypes, type BlockType } from '../gguf_types';
import { settingRules, type SolveSettings } from '../settings';

/** Which forms a weight may get, and how much work goes into the choice. Lists hold 1 to 16 different values. */
export interface AllocationOptions {
  /** Widths. Default 2, 3, 4, 5, 6, 8, for GPTQ formats without 5 and 6. Not with format 'gguf'. */
  readonly bits?: readonly SolveSettings['bits'][];
  /** Columns per scale. Default 32, 128. 8-bit codes take the largest. Not with format 'gguf'. */
  readonly groupSizes?: readonly SolveSettings['groupSize'][];
  /** Ranks of EoRA's correction, 0 for none; each but 0 needs format 'lowbit'. Default 0. */
  readonly ranks?: readonly number[];
  /** With format 'gguf', in place of these: block types. Default: all of them. */
  readonly ggufTypes?: readonly BlockType[];
  /** Calibration samples that errors of layers are measured on, 1 to 1,000,000. Default 16. */
  readonly errorSamples?: number;
  /** Samples whose predictions are compared with those of the uncompressed model, 1 to 10,000. Default 2; a search wants more of them, 16 or so. */
  readonly probeSamples?: number;
  /**
   * Generations of the search behind the integer programme (EvoPress), each about ten passes over the probe samples; 0 to 10,000, 0 = none. Default 0.
   */
  readonly generations?: number;
}

export interface ResolvedAllocation {
  /** Bytes of all weight files, or bits of them per parameter. */
  readonly target: { readonly bytes: number } | { readonly bitsPerWeight: number };
  readonly bits: readonly SolveSettings['bits'][];
  readonly groupSizes: readonly SolveSettings['groupSize'][];
  readonly ranks: readonly number[];
  readonly ggufTypes: readonly BlockType[];
  readonly errorSamples: number;
  readonly probeSamples: number;
  readonly generations: number;
}

const units: Readonly<Record<string, number>> = {
  '': 1,
  B: 1,
  kB: 1e3,
  KB: 1e3,
  MB: 1e6,
  GB: 1e9,
  TB: 1e12,
  KiB: 2 ** 10,
  MiB: 2 ** 20,
  GiB: 2 ** 30,
  TiB: 2 ** 40,
};

/** 60000000, '60MB', '57.2 MiB' -> bytes. */
export const targetSize: Rule<number> = (option, value) => {
  const parts = typeof value === 'string' ? /^\s*(\d+(?:\.\d+)?)\s*([kKMGT]i?B|B?)\s*$/.exec(value) : null;
  const bytes = parts === null ? value : Number(parts[1]) * (units[parts[2] as string] ?? NaN);
  if (typeof bytes === 'number' && bytes >= 1 && bytes <= Number.MAX_SAFE_INTEGER) return Math.floor(bytes);
  throw invalidArgument(option, 'bytes: a number, or a text such as "60MB" or "57.2MiB"', value);
};

function listOf<T>(rule: Rule<T>): Rule<readonly T[]> {
  return (option, value) => {
    if (!Array.isArray(value) || value.length < 1 || value.length > 16) throw invalidArgument(option, 'an array of 1 to 16 values', value);
    const list = value.map((item: unknown, i) => rule(`${option}[${i}]`, item));
    if (new Set(list).size !== list.length) throw invalidArgument(option, 'an array of different values', value);
    return list;
  };
}

export const allocationOption = nested({
  bits: listOf(settingRules.bits),
  groupSizes: listOf(settingRules.groupSize),
  ranks: listOf(settingRules.eoraRank),
  ggufTypes: listOf(oneOf(...blockTypes)),
  errorSamples: integer(1, 1_000_000),
  probeSamples: integer(1, 10_000),
  generations: integer(0, 10_000),
});

/** What an allocation decides must not be given beside it; appends a problem for each. Undefined when none is asked for. */
export function resolveAllocation(
  checked: {
    readonly targetSize?: number | undefined;
    readonly bitsPerWeight?: number | undefined;
    readonly allocation?: AllocationOptions | undefined;
    readonly method?: string | undefined;
    readonly format?: string | undefined;
  },
  given: Readonly<Record<string, unknown>>,
  problems: LowbitError[],
): ResolvedAllocation | undefined {
  const wrong = (option: string, message: string): void => void problems.push(new LowbitError('INVALID_ARGUMENT', message, { option }));
  const { targetSize: bytes, bitsPerWeight, allocation = {}, method = 'gptq', format = 'lowbit' } = checked;
  if (bytes === undefined && bitsPerWeight === undefined) {
    if (checked.allocation !== undefined)
      wrong('allocation', 'allocation says how to meet targetSize or bitsPerWeight: give one of them beside it');
    return undefined;
  }
  const asked = bytes === undefined ? 'bitsPerWeight' : 'targetSize';
  if (bytes !== undefined && bitsPerWeight !== undefined)
    wrong('bitsPerWeight', 'bitsPerWeight and targetSize say the same in two ways: leave one of them out');
  for (const option of ['bits', 'groupSize', 'eoraRank', 'ggufType'])
    if (given[option] !== undefined)
      wrong(option, `${option} is what ${asked} chooses for each linear: leave it out, or narrow the choice by allocation`);
  if (method !== 'gptq' && method !== 'rtn')
    wrong('method', `${asked} chooses among settings of 'gptq' and 'rtn', whose sizes are known beforehand, but method is '${method}'`);
  if (given['lmHead'] !== undefined) wrong('lmHead', `${asked} decides about the output head as well: leave lmHead out`);
  const gguf = format === 'gguf';
  for (const option of ['bits', 'groupSizes', 'ranks'] as const)
    if (gguf && allocation[option] !== undefined)
      wrong(`allocation.${option}`, `allocation.${option} is for other formats than 'gguf', which has allocation.ggufTypes`);
  if (!gguf && allocation.ggufTypes !== undefined) wrong('allocation.ggufTypes', "allocation.ggufTypes is a choice of format 'gguf'");
  const ranks = allocation.ranks ?? [0];
  if (format !== 'lowbit' && ranks.some((rank) => rank > 0))
    wrong('allocation.ranks', `Format '${format}' has no place for low-rank parts: set format to 'lowbit'`);
  return {
    target: bytes === undefined ? { bitsPerWeight: bitsPerWeight as number } : { bytes },
    bits: allocation.bits ?? (format === 'lowbit' ? [2, 3, 4, 5, 6, 8] : [2, 3, 4, 8]),
    groupSizes: allocation.groupSizes ?? [32, 128],
    ranks,
    ggufTypes: allocation.ggufTypes ?? blockTypes,
    errorSamples: allocation.errorSamples ?? 16,
    probeSamples: allocation.probeSamples ?? 2,
    generations: allocation.generations ?? 0,
  };
}
