/**
 * lib/quantize: named choices of the settings of GPTQ. A setting that is given beside a preset wins.
 */
import type { SolveSettings } from './settings';

export type TokenWeights = 'magnitude' | 'equal';

interface Preset {
  readonly settings: Partial<SolveSettings>;
  readonly tokenWeights: TokenWeights;
}

/**
 * - 'quality': tokens count alike; columns by falling importance with static groups (files stay plain), a searched range that weighs columns by
 *   importance, the guard of rows, and behind the solve better codes and scales in turn. The best codes that a GPTQ checkpoint can hold.
 * - 'fast': group-aware order and nothing else, as GPTQModel by default.
 * - 'compat': the algorithm as published (Frantar et al. 2022), its damping and its rounding included, for comparisons.
 */
export type QuantizePreset = 'quality' | 'fast' | 'compat';

export const presets: Readonly<Record<QuantizePreset, Preset>> = {
  quality: {
    settings: { descAct: true, staticGroups: true, mse: 2, hessianMse: true, rowGuard: true, sweeps: 4, refitScales: true },
    tokenWeights: 'equal',
  },
  fast: { settings: {}, tokenWeights: 'magnitude' },
  compat: { settings: { actGroupAware: false, dampPercent: 0.01, classic: true }, tokenWeights: 'magnitude' },
};
