/**
 * models: what a plan says about its model, for `lowbit inspect` and for the quantisation pipeline. Reads no weight data.
 */
import type { Checkpoint } from '../checkpoint/types';
import type { Expert, Op, PartSource, Plan, Weight, WeightSource } from '../graph/plan';

export interface ModelSummary {
  readonly architecture: string;
  readonly layers: number;
  readonly hiddenSize: number;
  readonly nHeads: number;
  readonly nKvHeads: number;
  readonly headDim: number;
  readonly vocabSize: number;
  /** Tokens, see Plan.maxSeqLen. */
  readonly contextLength: number;
  /** Weights and vectors; a tied head counts once. */
  readonly parameters: number;
  /** Bytes of the tensors the plan uses, as the files store them. */
  readonly storedBytes: number;
  /** storedBytes * 8 / parameters. */
  readonly bitsPerWeight: number;
  /** How the decoder linears are stored, most frequent first: "BF16", "GPTQ 4 bit, group 128", "Q4_K + Q6_K". */
  readonly quantization: string;
  readonly tiedHead: boolean;
}

export function modelSummary(plan: Plan, checkpoint: Checkpoint): ModelSummary {
  const attention = plan.ops.find((op) => op.op === 'attention');
  const bytes = (tensor: number | undefined): number => (tensor === undefined ? 0 : (checkpoint.tensors[tensor]?.bytes ?? 0));
  const parameters = sum(plan.weights.map(({ n, k }) => n * k)) + sum(plan.vectors.map(({ length }) => length));
  const storedBytes = sum([...plan.weights.flatMap(tensorsOf), ...plan.vectors.map(({ tensor }) => tensor)].map(bytes));
  return {
    architecture: plan.architecture,
    layers: plan.blocks.length,
    hiddenSize: plan.hiddenSize,
    nHeads: attention?.nHeads ?? 0,
    nKvHeads: attention?.nKvHeads ?? 0,
    headDim: attention?.headDim ?? 0,
    vocabSize: plan.vocabSize,
    contextLength: plan.maxSeqLen,
    parameters,
    storedBytes,
    bitsPerWeight: (storedBytes * 8) / parameters,
    quantization: storage(plan, checkpoint),
    tiedHead: !plan.weights.some(({ role }) => role === 'head'),
  };
}

/**
 * Weights that are calibrated together. Those of a linear op share an input, so one Hessian serves all of them. Of experts, each has a
 * Hessian of its own: the gates and ups of some experts are a group, then their downs are.
 */
export interface LinearGroup {
  /** Index into Plan.blocks. */
  readonly block: number;
  /** Index into Plan.ops. */
  readonly op: number;
  /** Indices into Plan.weights, in the order of the op's outputs or experts. */
  readonly weights: readonly number[];
  /** Hessians of the group; 1 but for experts. */
  readonly inputs: number;
  /** Part of the tokens that a Hessian sees on average; 1 but for experts. */
  readonly share: number;
}

/** Bytes that the Hessians of a group of experts may take together; one is always allowed. cpp/engine/calibration_stops.cc says the same. */
const groupHessianBytes = 2 ** 28;

/** The experts of an op in the groups that a calibration stops for: all gates and ups, then all downs. */
function expertGroups(plan: Plan, op: Extract<Op, { op: 'experts' }>, block: number, index: number): readonly LinearGroup[] {
  const { experts } = op;
  const router = plan.ops.find((other) => other.op === 'route' && other.out.buffer === op.route.buffer);
  const share = router?.op === 'route' ? router.topK / experts.length : 1;
  const stage = (k: number, weightsOf: (expert: Expert) => readonly number[]): readonly LinearGroup[] => {
    const size = Math.max(1, Math.floor(groupHessianBytes / (4 * k * k)));
    return Array.from({ length: Math.ceil(experts.length / size) }, (_, i) => {
      const chunk = experts.slice(i * size, (i + 1) * size);
      return { block, op: index, weights: chunk.flatMap(weightsOf), inputs: chunk.length, share };
    });
  };
  return [...stage(op.in.width, ({ gate, up }) => [gate, up]), ...stage(op.gated.width, ({ down }) => [down])];
}

/** The decoder linears of a plan in the order they run. Embedding, routers and head are not among them. */
export function quantizableWeights(plan: Plan): readonly LinearGroup[] {
  return plan.blocks.flatMap(({ begin, end }, block) =>
    plan.ops.slice(begin, end).flatMap((op, index): readonly LinearGroup[] => {
      if (op.op === 'experts') return expertGroups(plan, op, block, begin + index);
      if (op.op !== 'linear') return [];
      const weights = op.outputs.map(({ weight }) => weight).filter((weight) => plan.weights[weight]?.role === 'linear');
      return weights.length > 0 ? [{ block, op: begin + index, weights, inputs: 1, share: 1 }] : [];
    }),
  );
}

function tensorsOf({ source }: Weight): readonly number[] {
  if (source.kind === 'tensor') return [source.tensor];
  if (source.kind === 'parts') return [source.inputScale, ...source.parts.flatMap(partTensors)].filter((tensor) => tensor !== undefined);
  return [source.qweight, source.qzeros, source.scales, source.gIdx].filter((tensor): tensor is number => tensor !== undefined);
}

function partTensors(part: PartSource): readonly (number | undefined)[] {
  if (part.kind === 'lowrank') return [part.a, part.b];
  if (part.kind === 'sparse') return [part.rowOffsets, part.columns, part.values];
  return [part.codes, part.scales, part.seconds, part.scaleCodes, part.zeroCodes, part.tiles, part.rows, part.gIdx];
}

/** "4 bit, group 128 with 8 bit, group 128 with rank 32 with sparse" */
function partsName({ parts }: Extract<WeightSource, { kind: 'parts' }>, k: number): string {
  const names = parts.map((part) => {
    if (part.kind === 'lowrank') return `rank ${part.count}`;
    if (part.kind === 'sparse') return 'sparse';
    return `${part.bits} bit, ${part.groupSize === k ? 'group = row' : `group ${part.groupSize}`}`;
  });
  return [...new Set(names)].join(' with ');
}

/** Distinct storage kinds of the linears, by falling number of parameters. */
function storage(plan: Plan, checkpoint: Checkpoint): string {
  const linears = plan.weights.filter(({ role }) => role === 'linear');
  const groupSizes = new Set(
    linears.flatMap(({ source }) => (source.kind === 'tensor' || source.kind === 'parts' ? [] : [source.groupSize])),
  );
  // Group sizes are resolved: where the group was the whole row, they differ and each is its weight's k.
  const wholeRows =
    groupSizes.size > 1 && linears.every(({ source, k }) => source.kind === 'tensor' || source.kind === 'parts' || source.groupSize === k);
  const totals = new Map<string, number>();
  for (const { source, n, k } of linears) {
    const kind =
      source.kind === 'tensor'
        ? (checkpoint.tensors[source.tensor]?.dtype ?? 'unknown')
        : source.kind === 'parts'
          ? partsName(source, k)
          : `${packedName(source)} ${source.bits} bit, ${wholeRows ? 'group = row' : `group ${source.groupSize}`}`;
    totals.set(kind, (totals.get(kind) ?? 0) + n * k);
  }
  return [...totals]
    .sort(([, a], [, b]) => b - a)
    .map(([kind]) => kind)
    .join(' + ');
}

function packedName(source: Exclude<WeightSource, { kind: 'tensor' | 'parts' }>): string {
  if (source.kind === 'gptq') return 'GPTQ';
  return source.layout === 'awq' ? 'AWQ' : 'compressed-tensors';
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}
