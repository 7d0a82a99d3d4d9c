/**
 * lib/quantize/allocation: the forms that each weight may get, with their bytes. Knows sizes; measures nothing.
 */
import { blockShape, fitted, type BlockType } from '../gguf_types';
import { groupCount, type Target, type TargetSettings } from '../layout';
import type { OutputFormat } from '../outputs';
import type { ResolvedAllocation } from './options';

export interface Candidate {
  /** Undefined: the weight stays as it is. */
  readonly settings: TargetSettings | undefined;
  readonly bytes: number;
  /** "3 bit, groups of 64", "Q4_K", "as it is" */
  readonly label: string;
}

/** A weight and the forms it may get, at least one. */
export interface AllocationItem {
  readonly target: Target;
  readonly candidates: readonly Candidate[];
}

/** The smallest that weights can be together. */
export function leastBytes(items: readonly AllocationItem[]): number {
  return items.reduce((sum, { candidates }) => sum + Math.min(...candidates.map(({ bytes }) => bytes)), 0);
}

/** What the settings of a candidate are called. */
function labelOf({ bits, groupSize, eoraRank, ggufType }: TargetSettings): string {
  if (ggufType !== undefined) return ggufType;
  return `${bits} bit, ${groupSize === -1 ? 'one group per row' : `groups of ${groupSize}`}${eoraRank > 0 ? `, rank ${eoraRank}` : ''}`;
}

/**
 * The candidates of a target; settings that a rule gives it stay as they are.
 *
 * @param denseBytes of a weight that may also stay as it is; undefined for linears
 */
export function itemOf(
  target: Target,
  allocation: ResolvedAllocation,
  format: OutputFormat,
  denseBytes: number | undefined,
): AllocationItem {
  const settings = format.name === 'gguf' ? blockSettings(target, allocation.ggufTypes) : gridSettings(target, allocation);
  const words = format.name === 'gptq' || format.name === 'gptq_v2';
  const candidates = settings
    .filter(({ bits }) => !words || (target.n * bits) % 32 === 0)
    .map((each): Candidate => ({ settings: each, bytes: format.solvedBytes({ ...target, settings: each }), label: labelOf(each) }));
  if (denseBytes === undefined) return { target, candidates };
  return { target, candidates: [...candidates, { settings: undefined, bytes: denseBytes, label: 'as it is' }] };
}

function gridSettings(target: Target, { bits, groupSizes, ranks }: ResolvedAllocation): readonly TargetSettings[] {
  const { settings, pinned = [] } = target;
  const values = <T>(name: string, all: readonly T[], own: T): readonly T[] => (pinned.includes(name) ? [own] : all);
  const given = values<number>('groupSize', groupSizes, settings.groupSize);
  const sizes = given.filter((size, i) => given.findIndex((other) => groupCount(target.k, other) === groupCount(target.k, size)) === i);
  const coarsest = sizes.includes(-1) ? -1 : Math.max(...sizes);
  return values<number>('bits', bits, settings.bits).flatMap((width) =>
    (width === 8 && bits.length > 1 ? [coarsest] : sizes).flatMap((groupSize) =>
      // A correction is for what coarse codes leave, and costs as many bytes beside fine ones.
      (target.outer !== true && width < 8 ? values<number>('eoraRank', ranks, settings.eoraRank) : [0])
        .filter((rank) => rank === 0 || groupSize === coarsest)
        .filter((rank) => rank <= Math.min(target.n, target.k))
        .map((eoraRank) => ({ ...settings, bits: width, groupSize, eoraRank })),
    ),
  );
}

function blockSettings({ k, settings, pinned = [] }: Target, types: readonly BlockType[]): readonly TargetSettings[] {
  const wanted =
    pinned.includes('ggufType') && settings.ggufType !== undefined ? [settings.ggufType] : types.map((type) => fitted(type, k).type);
  return [...new Set(wanted)].map((ggufType) => ({ ...settings, ...blockShape(ggufType), ggufType }));
}
