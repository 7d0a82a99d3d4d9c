/**
 * lib/quantize/conversions: which quantised weights a packed format takes over bit for bit, found by looking at all of them before a file is made, and
 * which version of a GPTQ checkpoint their zero points need.
 */
import { LowbitError } from '../../errors';
import type { Weight } from '../../graph/plan';
import { native, runJob } from '../../native';
import { isQuantized, type ConversionRun } from './conversion';
import type { DirectoryOptions } from './directory';

/** What is known of a weight that is carried over. */
export interface Carried {
  readonly bits: number;
  readonly groupSize: number; // k for the whole row
  readonly symmetric: boolean;
  readonly ordered: boolean;
  readonly leastZero: number;
  readonly largestZero: number;
}

export interface CarriedWeights {
  readonly format: 'gptq' | 'gptq_v2' | 'lowbit';
  readonly weights: ReadonlyMap<number, Carried>; // by number in the plan
  /** The source is in the format already: its tensors are copied as they are. */
  readonly kept: boolean;
}

/** How many linears a message names; details.layers has all. */
const shown = 12;

/** @throws {LowbitError} UNSUPPORTED for linears that do not fit, unless they may become dense, and when none does */
export async function carriedWeights(run: ConversionRun, options: DirectoryOptions): Promise<CarriedWeights> {
  const { checkpoint, plan, model, signal, onProgress } = run;
  const format = options.target === 'lowbit' ? 'lowbit' : 'gptq';
  if (format === 'lowbit' && plan.weights.some(({ source }) => source.kind === 'parts')) return { format, weights: new Map(), kept: true };
  const candidates = [...plan.weights.entries()].filter(([, weight]) => isQuantized(checkpoint, weight) && hasPlace(weight, format));
  const weights = new Map<number, Carried>();
  const misfits = new Map<number, string>();
  for (const [i, [index, { role }]] of candidates.entries()) {
    const as = { format, zeroOffset: 0, tensors: false } as const;
    const found = await runJob({ signal }, (control) => native().carryWeight(model, index, as, control));
    if (found.misfit === undefined) weights.set(index, found);
    else if (role === 'linear') misfits.set(index, found.misfit); // embedding and head are dense in most files anyway
    onProgress((i + 1) / candidates.length);
  }
  const version = format === 'lowbit' ? format : gptqVersion(options.target, weights, misfits);
  if (misfits.size > 0 && !options.allowDense) throw refusal(run, version, misfits);
  if (![...weights.keys()].some((index) => plan.weights[index]?.role === 'linear')) {
    throw new LowbitError(
      'UNSUPPORTED',
      `No linear of ${checkpoint.path} fits ${titles[version]}: ${described(run, misfits)}. Write the model dense ('hf'), or compress it anew with quantize`,
      { file: checkpoint.path, option: 'to' },
    );
  }
  return { format: version, weights, kept: false };
}

const titles = { gptq: 'a GPTQ checkpoint', gptq_v2: 'a GPTQ checkpoint of version 2', lowbit: 'a lowbit container' } as const;

/** GPTQ checkpoints hold no embedding, and of heads those that were packed in files of their kind. */
function hasPlace({ role, source }: Weight, format: 'gptq' | 'lowbit'): boolean {
  if (format === 'lowbit') return role !== 'router';
  return role === 'linear' || (role === 'head' && source.kind !== 'tensor');
}

/**
 * Version 1 stores zero - 1 and so begins at 1; readers disagree on what a zero of 0 wraps to there. Version 2 ends at 2^bits - 1. What the version
 * does not hold moves to the misfits.
 */
function gptqVersion(target: DirectoryOptions['target'], weights: Map<number, Carried>, misfits: Map<number, string>): 'gptq' | 'gptq_v2' {
  const tooSmall = [...weights].filter(([, { leastZero }]) => leastZero < 1);
  const tooLarge = [...weights].filter(([, { bits, largestZero }]) => largestZero >= 2 ** bits);
  const version = target === 'gptq_v2' || tooSmall.length > tooLarge.length ? 'gptq_v2' : 'gptq';
  for (const [index, { bits, leastZero, largestZero }] of version === 'gptq' ? tooSmall : tooLarge) {
    weights.delete(index);
    misfits.set(
      index,
      version === 'gptq'
        ? `a zero point of ${leastZero}, which version 1 does not hold`
        : `a zero point of ${largestZero}, which ${bits} bits do not hold in version 2`,
    );
  }
  return version;
}

function described({ plan }: ConversionRun, misfits: ReadonlyMap<number, string>): string {
  const all = [...misfits].map(([index, why]) => `${plan.weights[index]?.name ?? index} has ${why}`);
  return `${all.slice(0, shown).join('; ')}${all.length > shown ? `; and ${all.length - shown} more` : ''}`;
}

function refusal(run: ConversionRun, version: CarriedWeights['format'], misfits: ReadonlyMap<number, string>): LowbitError {
  const { checkpoint, plan } = run;
  const linears = plan.weights.filter(({ role }) => role === 'linear').length;
  const instead = version === 'lowbit' ? "write the model dense ('hf')" : "write 'lowbit' or a dense model ('hf')";
  return new LowbitError(
    'UNSUPPORTED',
    `${misfits.size} of ${linears} linears do not fit ${titles[version]} without another rounding: ${described(run, misfits)}. ` +
      `Set allowDense (--allow-dense) to store them dense, or ${instead}`,
    {
      file: checkpoint.path,
      option: 'allowDense',
      layers: [...misfits].map(([index, reason]) => ({ name: plan.weights[index]?.name, reason })),
    },
  );
}
