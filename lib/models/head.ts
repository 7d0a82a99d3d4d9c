/**
 * models: the precision of the head. The head reads its whole matrix for every token: in a small model whose embedding stays in 16 bits
 * it is half of all bytes of a decode step. Here it is decided whether the engine rounds it while loading (cpp/part/requantize.cc).
 */
import type { Checkpoint } from '../checkpoint/types';
import type { Op, Plan, Weight } from '../graph/plan';

/** Bits per code of the head; 16: as the file stores it. */
export type HeadBits = 4 | 5 | 6 | 8 | 16;

export interface HeadChoice {
  readonly plan: Plan;
  /** What the head is held in: 16 also where the file stores no more bits than were asked for. */
  readonly lmHeadBits: HeadBits;
}

/**
 * The plan with its head in `requested` bits. Without a request the head stays as stored, but for one case: on the fast path, whose
 * activations have 8 bits, a dense head behind quantised linears takes 8 bits, too. A head that is the embedding becomes a weight of
 * its own, at the end of the plan's list, and the embedding stays as stored: its rows are gathered, not streamed.
 */
export function chooseHead(plan: Plan, checkpoint: Checkpoint, precision: 'exact' | 'fast', requested: HeadBits | undefined): HeadChoice {
  const stored = { plan, lmHeadBits: 16 } as const;
  const op = plan.ops.findIndex((candidate) => isHead(candidate, plan));
  const head = plan.ops[op];
  if (head?.op !== 'linear') return stored;
  const index = head.outputs[0]?.weight as number;
  const weight = plan.weights[index] as Weight;
  const storedBits = codeBits(weight, checkpoint);
  const bits = requested ?? (precision === 'fast' && storedBits >= 16 && hasQuantizedLinear(plan, checkpoint) ? 8 : 16);
  if (bits === 16 || storedBits <= bits) return stored;
  const shared = plan.ops.some((other) => other.op === 'embed' && other.weight === index);
  if (!shared) return { plan: { ...plan, weights: replaced(plan.weights, index, { ...weight, roundBits: bits }) }, lmHeadBits: bits };
  const outputs = head.outputs.map((output) => ({ ...output, weight: plan.weights.length }));
  return {
    plan: {
      ...plan,
      weights: [...plan.weights, { ...weight, name: 'lm_head', role: 'head', roundBits: bits }],
      ops: replaced(plan.ops, op, { ...head, outputs }),
    },
    lmHeadBits: bits,
  };
}

const replaced = <T>(list: readonly T[], index: number, item: T): readonly T[] => list.map((old, i) => (i === index ? item : old));

function isHead(op: Op, plan: Plan): boolean {
  return op.op === 'linear' && op.outputs.length === 1 && op.outputs[0]?.out.buffer === plan.logits.buffer;
}

const hasQuantizedLinear = (plan: Plan, checkpoint: Checkpoint): boolean =>
  plan.weights.some((weight) => weight.role === 'linear' && codeBits(weight, checkpoint) < 16);

/** Bits per code as the file stores a weight: 32 and 16 for dense ones, the digit of a GGUF block type (Q6_K: 6). */
function codeBits({ source }: Weight, checkpoint: Checkpoint): number {
  if (source.kind === 'parts') return 8; // codes of at most that many; its own writer chose them
  if (source.kind !== 'tensor') return source.bits;
  const dtype = checkpoint.tensors[source.tensor]?.dtype ?? '';
  const block = /^[IT]?Q(\d)_/.exec(dtype)?.[1];
  if (block !== undefined) return Number(block);
  return dtype === 'F32' ? 32 : 16;
}
