/**
 * lib/quantize: the settings of one linear's quantisation: names, ranges, defaults. The names are GPTQModel's in camelCase.
 * Ranges are the engine's (cpp/quantize/method.h); this file only checks and never computes.
 */
import { LowbitError, invalidArgument } from '../errors';
import { boolean, checkOptions, integer, oneOf, type Checked, type OptionSpec, type Rule } from '../options';

/** What may differ from linear to linear (through `dynamic`). Defaults without a number here are those of the preset (presets.ts). */
export interface SolveSettings {
  /** Bits per weight: 2, 3, 4 or 8, with format 'lowbit' also 5 or 6. Default 4. */
  readonly bits: 2 | 3 | 4 | 5 | 6 | 8;
  /** Consecutive input columns that share a scale: 32, 64, 128, or -1 for the whole row. Default 128. */
  readonly groupSize: 32 | 64 | 128 | -1;
  /** Symmetric grid around zero (true) or one with its own zero point per group. Default true. */
  readonly sym: boolean;
  /** GPTQ: columns in the order of falling Hessian diagonal. Better error, and a stored column order. */
  readonly descAct: boolean;
  /** GPTQ: group grids from the original column order, so that descAct needs no stored order. */
  readonly staticGroups: boolean;
  /** GPTQ: whole groups by importance, columns inside groups too; costs nothing at run time. Without effect under descAct. */
  readonly actGroupAware: boolean;
  /** Exponent of the search for a smaller range per group: 0 = off, otherwise 1 to 8; 2.4 is the published choice. */
  readonly mse: number;
  /** GPTQ: that search weighs columns by the Hessian's diagonal. */
  readonly hessianMse: boolean;
  /** GPTQ: behind the solve, the scales of a row once more, all at once and in closed form, where that lowers its error. */
  readonly refitScales: boolean;
  /** GPTQ: passes behind the solve that give one code after the other its best value beside the rest, 0 to 100. */
  readonly sweeps: number;
  /** GPTQ: rows that plain rounding leaves with a smaller error take its codes. Not with a stored column order. */
  readonly rowGuard: boolean;
  /**
   * GPTQ: as in the published code where lowbit does better: errors are those of scales that are not yet rounded to f16, dead columns have a
   * diagonal of 1, groups without negative weights use half of a symmetric grid.
   */
  readonly classic: boolean;
  /** GPTQ: fraction of the mean Hessian diagonal that is added to it, in (0, 1). */
  readonly dampPercent: number;
  /** GPTQ: added to dampPercent after each failed factorisation, in (0, 1). Default 0.01. */
  readonly dampAutoIncrement: number;
  /** AWQ: strengths of the scale that are tried, 1 to 100. Default 20. */
  readonly awqGrid: number;
  /** AWQ: behind it, smaller ranges of groups where that lowers the error. Default true. */
  readonly awqClip: boolean;
  /** HQQ: exponent of the errors whose sum is minimised, above 0 and at most 1. Default 0.7. */
  readonly hqqLpNorm: number;
  /** HQQ: weight of the quadratic term, above 0 and at most 1e6. Default 10. */
  readonly hqqBeta: number;
  /** HQQ: iterations, 0 to 1,000. Default 20. */
  readonly hqqIterations: number;
  /** SpQR: a weight whose error costs more than this many times the mean cost of a column is stored by itself; at least 0. Default 0.2. */
  readonly spqrOutlierThreshold: number;
  /** SpQR: largest share of such weights, 0 to 1; above it the threshold is doubled, which the report says. Default 0.05. */
  readonly spqrMaxOutliers: number;
  /** SpQR: order of the columns. 'act_order' needs a stored order; the others do not. Default 'act_order'. */
  readonly spqrOrder: 'act_order' | 'group_aware' | 'identity';
  /** MixLLM: share of the rows that have 8 bits, 0 to 1. Default 0.1. */
  readonly mixllmFraction: number;
  /** FineQuant: groups are halved while their steps shrink by more than this factor, between 0 and 1. Default 0.88. */
  readonly finequantAlpha: number;
  /** SmoothQuant's scaling of inputs, in front of any method: its exponent, 0 to 1, 0 = off. Default 0. */
  readonly smoothAlpha: number;
  /** EoRA, behind any method: rank of the correction, 0 to 256, 0 = off. Default 0. */
  readonly eoraRank: number;
}

/** Before a preset: what 'rtn' and the preset 'fast' use. */
export const defaultSettings: SolveSettings = {
  bits: 4,
  groupSize: 128,
  sym: true,
  descAct: false,
  staticGroups: false,
  actGroupAware: true,
  mse: 0,
  hessianMse: false,
  refitScales: false,
  sweeps: 0,
  rowGuard: false,
  classic: false,
  dampPercent: 0.05,
  dampAutoIncrement: 0.01,
  awqGrid: 20,
  awqClip: true,
  hqqLpNorm: 0.7,
  hqqBeta: 10,
  hqqIterations: 20,
  spqrOutlierThreshold: 0.2,
  spqrMaxOutliers: 0.05,
  spqrOrder: 'act_order',
  mixllmFraction: 0.1,
  finequantAlpha: 0.88,
  smoothAlpha: 0,
  eoraRank: 0,
};

/** One of a few numbers. */
function oneOfNumbers<const T extends number>(...numbers: readonly T[]): Rule<T> {
  return (option, value) => {
    if (numbers.includes(value as T)) return value as T;
    throw invalidArgument(option, `one of ${numbers.join(', ')}`, value);
  };
}

const fraction: Rule<number> = (option, value) => {
  if (typeof value === 'number' && value > 0 && value < 1) return value;
  throw invalidArgument(option, 'number greater than 0 and less than 1', value);
};

const mse: Rule<number> = (option, value) => {
  if (typeof value === 'number' && (value === 0 || (value >= 1 && value <= 8))) return value;
  throw invalidArgument(option, '0 or a number between 1 and 8', value);
};

/** A number from `least` to `most`, `least` itself only if `closed`. */
function between(least: number, most: number, closed: boolean): Rule<number> {
  return (option, value) => {
    if (typeof value === 'number' && (closed ? value >= least : value > least) && value <= most) return value;
    throw invalidArgument(option, `number ${closed ? 'from' : 'above'} ${least} to ${most}`, value);
  };
}

const threshold: Rule<number> = (option, value) => {
  if (typeof value === 'number' && value >= 0) return value;
  throw invalidArgument(option, 'number of at least 0', value);
};

/** The check of each setting. */
export const settingRules = {
  bits: oneOfNumbers(2, 3, 4, 5, 6, 8),
  groupSize: oneOfNumbers(32, 64, 128, -1),
  sym: boolean,
  descAct: boolean,
  staticGroups: boolean,
  actGroupAware: boolean,
  mse,
  hessianMse: boolean,
  refitScales: boolean,
  sweeps: integer(0, 100),
  rowGuard: boolean,
  classic: boolean,
  dampPercent: fraction,
  dampAutoIncrement: fraction,
  awqGrid: integer(1, 100),
  awqClip: boolean,
  hqqLpNorm: between(0, 1, false),
  hqqBeta: between(0, 1e6, false),
  hqqIterations: integer(0, 1000),
  spqrOutlierThreshold: threshold,
  spqrMaxOutliers: between(0, 1, true),
  spqrOrder: oneOf('act_order', 'group_aware', 'identity'),
  mixllmFraction: between(0, 1, true),
  finequantAlpha: fraction,
  smoothAlpha: between(0, 1, true),
  eoraRank: integer(0, 256),
} satisfies { readonly [K in keyof SolveSettings]: Rule<SolveSettings[K]> };

/**
 * Checks one option at a time, so that every problem is found, and returns what passed. Problems are appended; `inside` is named in
 * messages of options within another one.
 */
export function checkEach<S extends OptionSpec>(
  name: string,
  options: object,
  spec: S,
  problems: LowbitError[],
  inside?: string,
): Checked<S> {
  const checked: Record<string, unknown> = {};
  for (const [key, value] of Object.entries(options as Readonly<Record<string, unknown>>)) {
    try {
      Object.assign(checked, checkOptions(name, { [key]: value }, spec));
    } catch (reason) {
      const problem = reason as LowbitError;
      const placed = inside === undefined || problem.message.includes(inside) ? problem.message : `${problem.message} in ${inside}`;
      problems.push(new LowbitError(problem.code, placed, problem.details));
    }
  }
  return checked as Checked<S>;
}
