/**
 * lib/quantize: which linears are quantised with which settings, and the tensors they become in a Hugging Face GPTQ checkpoint.
 *
 * Per linear [n, k] (out, in) with b bits and groups of g columns, G = ceil(k / g):
 *   qweight I32 [k*b/32, n]   codes, packed along k, first code in the lowest bits; 3 bit: 32 codes in 3 words, one bit stream
 *   qzeros  I32 [G, n*b/32]   zero points, packed along n; checkpoint_format "gptq" (v1) stores zero - 1, "gptq_v2" the zero itself
 *   scales  F16 [G, n]
 *   g_idx   I32 [k]           group of each column; k / g unless columns were reordered
 * w[n, k] = scales[g_idx[k], n] * (code - zero). This file knows shapes and sizes; it moves no data.
 */
import { LowbitError } from '../errors';
import type { Plan, Weight } from '../graph/plan';
import type { DynamicTable } from './dynamic';
import { blockShape, fitted, type BlockType, type TypeChoice } from './gguf_types';
import type { SolveSettings } from './settings';

/** One linear to quantise. */
export interface Target {
  readonly weight: number; // index into Plan.weights
  readonly name: string;
  readonly n: number;
  readonly k: number;
  readonly settings: TargetSettings;
  /** Embedding or head, which no calibration reaches: rounded. Otherwise a decoder linear. */
  readonly outer?: boolean;
  /** Settings that a rule gave it: an allocation leaves them. */
  readonly pinned?: readonly string[];
  /** Why it has its settings, when they were chosen for it. */
  readonly reason?: string;
}

/** As the engine takes them; bits and groupSize are those of the block type where there is one. */
export interface TargetSettings extends Omit<SolveSettings, 'bits' | 'groupSize'> {
  readonly bits: number;
  readonly groupSize: number;
  /** Of GGUF outputs. */
  readonly ggufType?: BlockType;
}

export interface Selection {
  readonly targets: ReadonlyMap<number, Target>; // by weight index
  /** Linears left dense by a rule. */
  readonly skipped: readonly string[];
  /** What was done in place of what was asked for, in words. */
  readonly notes: readonly string[];
}

/** The block type of a linear of a GGUF output. */
export type BlockTypeOf = (name: string, k: number) => TypeChoice;

export type CheckpointFormat = 'gptq' | 'gptq_v2';

/** The parts of a quantised linear in the order they are stored. */
export const partNames = ['qweight', 'qzeros', 'scales', 'g_idx'] as const;
export type PartName = (typeof partNames)[number];

export interface PartShape {
  readonly part: PartName;
  readonly dtype: 'I32' | 'F16';
  readonly shape: readonly [number] | readonly [number, number];
  readonly bytes: number;
}

/** Groups of columns; the last may be short. */
export function groupCount(k: number, groupSize: number): number {
  return groupSize === -1 ? 1 : Math.ceil(k / groupSize);
}

export function partShapes({ n, k, settings: { bits, groupSize } }: Pick<Target, 'n' | 'k' | 'settings'>): readonly PartShape[] {
  const groups = groupCount(k, groupSize);
  const matrix = (part: PartName, dtype: 'I32' | 'F16', rows: number, columns: number): PartShape => ({
    part,
    dtype,
    shape: [rows, columns],
    bytes: rows * columns * (dtype === 'I32' ? 4 : 2),
  });
  return [
    matrix('qweight', 'I32', (k * bits) / 32, n),
    matrix('qzeros', 'I32', groups, (n * bits) / 32),
    matrix('scales', 'F16', groups, n),
    { part: 'g_idx', dtype: 'I32', shape: [k], bytes: k * 4 },
  ];
}

export function packedBytes(target: Pick<Target, 'n' | 'k' | 'settings'>): number {
  return partShapes(target).reduce((sum, { bytes }) => sum + bytes, 0);
}

/** Version 1 holds a symmetric zero without loss and is read everywhere; an asymmetric zero of 0 would wrap in it. */
export function checkpointFormat(targets: Iterable<Target>): CheckpointFormat {
  for (const { settings } of targets) if (!settings.sym) return 'gptq_v2';
  return 'gptq';
}

/**
 * Settles the settings of every decoder linear. Appends a problem for linears that the layout cannot hold, for rules that match nothing, and
 * when nothing is left to quantise; `candidates` are the weights that may be quantised.
 */
export function selectTargets(
  plan: Plan,
  candidates: readonly number[],
  settings: SolveSettings,
  dynamic: DynamicTable,
  problems: LowbitError[],
  blockTypeOf?: BlockTypeOf,
): Selection {
  const targets = new Map<number, Target>();
  const skipped: string[] = [];
  const misfits: string[] = [];
  const replaced: string[] = [];
  const wrongRules = new Set<string>();
  for (const index of candidates) {
    const weight = plan.weights[index] as Weight;
    const { name, n, k } = weight;
    const decision = dynamic.decide(name);
    if (decision?.overrides === false) {
      skipped.push(name);
      continue;
    }
    const { ggufType, ...overrides } = decision?.overrides ?? {};
    if (blockTypeOf === undefined && ggufType !== undefined) wrongRules.add(decision?.rule ?? '');
    const choice = blockTypeOf && (ggufType === undefined ? blockTypeOf(name, k) : fitted(ggufType, k));
    const shape = choice && { ...blockShape(choice.type), ggufType: choice.type };
    const pinned = Object.keys(decision?.overrides ?? {});
    const target: Target = {
      weight: index,
      name,
      n,
      k,
      settings: { ...settings, ...overrides, ...shape },
      ...(weight.role === 'linear' ? {} : { outer: true }),
      ...(pinned.length > 0 && { pinned }),
    };
    if (choice?.insteadOf !== undefined) replaced.push(`${name} (${choice.insteadOf} -> ${choice.type})`);
    const misfit = misfitOf(target);
    if (misfit === undefined) targets.set(index, target);
    else misfits.push(`${name} (${misfit})`);
  }
  if (misfits.length > 0) {
    problems.push(
      new LowbitError(
        'UNSUPPORTED',
        `${misfits.length} of ${candidates.length} linears do not fit the layout of the output: ${listed(misfits)}. Leave them dense with a rule such as dynamic: { "-:<name>": {} } or choose other bits`,
        { option: 'dynamic', layers: misfits },
      ),
    );
  }
  const unmatched = dynamic.unmatched(plan.weights.map(({ name }) => name));
  if (unmatched.length > 0) {
    problems.push(
      new LowbitError(
        'INVALID_ARGUMENT',
        `No linear of the model matches dynamic ${unmatched.map((rule) => `"${rule}"`).join(', ')}; names look like ${plan.weights[candidates[0] ?? 0]?.name ?? ''} and are matched from their start`,
        { option: 'dynamic', rules: unmatched },
      ),
    );
  }
  if (targets.size === 0 && misfits.length === 0) {
    problems.push(
      new LowbitError('INVALID_ARGUMENT', 'Nothing to quantise: the rules in dynamic leave every linear dense', { option: 'dynamic' }),
    );
  }
  if (wrongRules.size > 0) {
    problems.push(
      new LowbitError(
        'INVALID_ARGUMENT',
        `dynamic ${[...wrongRules].map((rule) => `"${rule}"`).join(', ')} names a ggufType, which only format 'gguf' has`,
        {
          option: 'dynamic',
        },
      ),
    );
  }
  const notes =
    replaced.length === 0
      ? []
      : [
          `${replaced.length} linears have rows that are no multiple of 256 columns and got the type with blocks of 32 that comes next: ${listed(replaced, 3)}`,
        ];
  return { targets, skipped, notes };
}

/** Codes are packed in 32-bit words along k and zero points along n; readers of this format want k in whole runs of 32. */
function misfitOf({ n, k, settings: { bits, ggufType } }: Target): string | undefined {
  if (k % 32 !== 0) return `${k} input columns are not a multiple of 32`;
  if (ggufType !== undefined) return undefined;
  if ((n * bits) % 32 !== 0) return `${n} output rows of ${bits} bit do not fill 32-bit words`;
  return undefined;
}

/** Linears whose last group is short: this engine and GPTQModel read them, some servers do not. */
export function shortGroups(targets: Iterable<Target>): string[] {
  return [...targets].filter(({ k, settings }) => settings.groupSize !== -1 && k % settings.groupSize !== 0).map(({ name }) => name);
}

/** The first few and how many more. */
export function listed(names: readonly string[], most = 8): string {
  return names.length <= most ? names.join(', ') : `${names.slice(0, most).join(', ')} and ${names.length - most} more`;
}
