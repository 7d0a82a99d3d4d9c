/**
 * lib/quantize: the methods, what they need, and which outputs hold what they make (cpp/quantize/methods.def, linear_parts.h). Names and rules
 * only; the engine does the work.
 */
import { LowbitError } from '../errors';
import type { Target } from './layout';
import type { SolveSettings } from './settings';

/**
 * - 'gptq': columns one after another, each error passed on to those behind it (Frantar et al. 2022). Presets choose among its variants.
 * - 'rtn': plain rounding to nearest. No data.
 * - 'awq': weights scaled by the size of their inputs before rounding (Lin et al. 2023).
 * - 'hqq': a zero point that is no integer, for the least sum of |error|^p (Badri and Shaji 2023). No data.
 * - 'spqr': groups of 16 columns with coded scales, and the worst weights by themselves (Dettmers et al. 2023).
 * - 'mixllm': the rows that lose most in 8 bits, the rest in `bits`, both by GPTQ (Zheng et al. 2024).
 * - 'finequant': rounding with a group size chosen from the weight (Kim et al. 2023). No data.
 */
export type QuantizeMethod = 'gptq' | 'rtn' | 'awq' | 'hqq' | 'spqr' | 'mixllm' | 'finequant';

interface MethodTraits {
  readonly calibrated: boolean;
  /** Solves by GPTQ, so its presets apply. */
  readonly preset: boolean;
  /** Settings that it reads besides those of all methods. */
  readonly settings: readonly (keyof SolveSettings)[];
  /** Why its result is more than codes on one integer grid, which is all that other tools' checkpoints hold. */
  readonly needsContainer?: string;
}

const gptqSettings = [
  'descAct',
  'staticGroups',
  'actGroupAware',
  'hessianMse',
  'refitScales',
  'sweeps',
  'rowGuard',
  'classic',
  'dampPercent',
  'dampAutoIncrement',
] as const;

export const methods: Readonly<Record<QuantizeMethod, MethodTraits>> = {
  gptq: { calibrated: true, preset: true, settings: gptqSettings },
  rtn: { calibrated: false, preset: false, settings: [] },
  awq: { calibrated: true, preset: false, settings: ['hessianMse', 'awqGrid', 'awqClip'], needsContainer: 'a scale of its inputs' },
  hqq: {
    calibrated: false,
    preset: false,
    settings: ['hqqLpNorm', 'hqqBeta', 'hqqIterations'],
    needsContainer: 'zero points that are no integers',
  },
  spqr: {
    calibrated: true,
    preset: false,
    settings: ['dampPercent', 'dampAutoIncrement', 'spqrOutlierThreshold', 'spqrMaxOutliers', 'spqrOrder'],
    needsContainer: 'coded scales and single weights beside its codes',
  },
  mixllm: { calibrated: true, preset: true, settings: [...gptqSettings, 'mixllmFraction'], needsContainer: 'rows of two widths' },
  finequant: {
    calibrated: false,
    preset: false,
    settings: ['finequantAlpha'],
    needsContainer: 'a group size that is known only behind the solve',
  },
};

export const methodNames = Object.keys(methods) as readonly QuantizeMethod[];

/** Settings without those that only other methods read. */
export function settingsOf(method: QuantizeMethod, settings: SolveSettings): Partial<SolveSettings> {
  const own = new Set(methods[method].settings);
  const others = new Set(methodNames.flatMap((name) => methods[name].settings).filter((setting) => !own.has(setting)));
  return Object.fromEntries(Object.entries(settings).filter(([name]) => !others.has(name as keyof SolveSettings)));
}

/** Whether a run with this method calibrates: those that must, and any whose corrections can use data that is there. */
export function calibrates(method: QuantizeMethod, settings: Pick<SolveSettings, 'eoraRank' | 'smoothAlpha'>, given: boolean): boolean {
  return methods[method].calibrated || (given && (settings.eoraRank > 0 || settings.smoothAlpha > 0));
}

/** What of a linear only lowbit's own container holds; undefined when any format does. */
export function needsContainer(method: QuantizeMethod, settings: Pick<SolveSettings, 'eoraRank' | 'smoothAlpha'>): string | undefined {
  if (settings.eoraRank > 0) return 'a low-rank part';
  if (settings.smoothAlpha > 0) return 'a scale of its inputs';
  return methods[method].needsContainer;
}

/** Appends a problem when linears need more than codes on one grid and the format holds nothing else. */
export function checkMethodFits(method: QuantizeMethod, format: string, targets: Iterable<Target>, problems: LowbitError[]): void {
  if (format === 'lowbit') return;
  for (const { name, settings } of targets) {
    const { bits, ggufType } = settings;
    const wide = ggufType === undefined && (bits === 5 || bits === 6) ? `codes of ${bits} bits` : undefined;
    const reason = needsContainer(method, settings) ?? wide;
    if (reason === undefined) continue;
    problems.push(
      new LowbitError(
        'UNSUPPORTED',
        `Format '${format}' has no place for ${reason} (${name}, method '${method}'): set format to 'lowbit'`,
        {
          option: 'format',
        },
      ),
    );
    return; // one is enough: the others have the same cause
  }
}
