/**
 * graph: assembles a Plan op by op. It knows ops, views and ranges; tensor names and architectures are lib/models' business.
 *
 * The builder refuses what could never run (a view outside its buffer, widths that do not fit together) with INTERNAL: such a plan
 * is a mistake in an architecture definition, never in a file. The engine checks plans again on its side.
 */
import { LowbitError } from '../errors';
import type { Activation, CacheSpec, LinearOutput, Op, OpRange, Plan, RopeTable, Vector, View, Weight } from './plan';

export interface PlanHeader {
  readonly architecture: string;
  readonly vocabSize: number;
  readonly hiddenSize: number;
  readonly maxSeqLen: number;
}

/** Columns [offset, offset + width) of a view. */
export function columns(view: View, offset: number, width: number): View {
  if (!(offset >= 0 && width >= 1 && offset + width <= view.width)) {
    throw internal(`columns [${offset}, ${offset + width}) lie outside a view of width ${view.width}`);
  }
  return { buffer: view.buffer, offset: view.offset + offset, width };
}

export class PlanBuilder {
  private readonly buffers: { readonly name: string; readonly width: number }[] = [];
  private readonly weights: Weight[] = [];
  private readonly vectors: Vector[] = [];
  private readonly ropes: RopeTable[] = [];
  private readonly caches: CacheSpec[] = [];
  private readonly ops: Op[] = [];
  private prologueRange: OpRange | undefined;
  private readonly blockRanges: OpRange[] = [];

  /** A named buffer as one view. The same name gives the same buffer, so its width must be the same too. */
  buffer(name: string, width: number): View {
    const known = this.buffers.findIndex((buffer) => buffer.name === name);
    if (known >= 0 && this.buffers[known]?.width !== width) {
      throw internal(`buffer ${name} is ${this.buffers[known]?.width} wide, not ${width}`);
    }
    return { buffer: known >= 0 ? known : this.buffers.push({ name, width }) - 1, offset: 0, width };
  }

  weight(weight: Weight): number {
    return this.weights.push(weight) - 1;
  }

  vector(vector: Vector): number {
    return this.vectors.push(vector) - 1;
  }

  rope(table: RopeTable): number {
    return this.ropes.push(table) - 1;
  }

  embed(weight: number, out: View, scale: number): void {
    this.push({ op: 'embed', weight, out, scale });
  }

  /** Adds the row of each token's position, counted from row `shift` of the table. */
  embedPosition(weight: number, out: View, shift: number): void {
    this.push({ op: 'embed_position', weight, out, shift });
  }

  /** out may be the input view itself. */
  layerNorm(input: View, out: View, vector: number, bias: number, eps: number): void {
    this.push({ op: 'layer_norm', in: input, out, vector, bias, eps });
  }

  /** In place. */
  activation(view: View, activation: Activation): void {
    this.push({ op: 'activation', in: view, out: view, activation });
  }

  /** `group` columns at a time are normalised by themselves; out may be the input view itself. */
  rmsNorm(input: View, out: View, vector: number, group: number, eps: number): void {
    this.push({ op: 'rms_norm', in: input, out, vector, group, eps });
  }

  /** One op and so one Hessian for all outputs. */
  linear(input: View, outputs: readonly LinearOutput[]): void {
    this.push({ op: 'linear', in: input, outputs });
  }

  /** In place. */
  rotate(view: View, headDim: number, rope: number, options: { readonly offset?: number; readonly interleaved?: boolean } = {}): void {
    this.push({ op: 'rope', view, nHeads: view.width / headDim, headDim, rope, ...options });
  }

  copy(op: Omit<Extract<Op, { op: 'copy' }>, 'op'>): void {
    this.push({ op: 'copy', ...op });
  }

  route(op: Omit<Extract<Op, { op: 'route' }>, 'op'>): void {
    this.push({ op: 'route', ...op });
  }

  experts(op: Omit<Extract<Op, { op: 'experts' }>, 'op'>): void {
    this.push({ op: 'experts', ...op });
  }

  /** Every attention op owns a cache. */
  attention(op: Omit<Extract<Op, { op: 'attention' }>, 'op' | 'cache'>): void {
    const cache = this.caches.push({ nKvHeads: op.nKvHeads, headDim: op.headDim }) - 1;
    this.push({ op: 'attention', cache, ...op });
  }

  glu(gate: View, up: View, out: View, activation: 'silu' | 'gelu_tanh'): void {
    this.push({ op: 'glu', gate, up, out, activation });
  }

  /** out = a + b; out may be a or b itself. */
  add(a: View, b: View, out: View): void {
    this.push({ op: 'add', a, b, out });
  }

  /** In place. */
  softcap(view: View, cap: number): void {
    this.push({ op: 'softcap', view, cap });
  }

  /** Ends the prologue: every op so far. */
  endPrologue(): void {
    if (this.prologueRange !== undefined) throw internal('the prologue ended twice');
    this.prologueRange = { begin: 0, end: this.ops.length };
  }

  /** Ends a block: every op since the prologue or the block before. */
  endBlock(): void {
    const begin = this.blockRanges.at(-1)?.end ?? this.prologueRange?.end;
    if (begin === undefined) throw internal('a block ended before the prologue');
    this.blockRanges.push({ begin, end: this.ops.length });
  }

  /**
   * The finished plan; every op since the last block is the epilogue.
   *
   * The engine runs the epilogue only on the rows whose logits are wanted: it gathers those rows of `residual` first, so that row r
   * of any other buffer belongs to another token than in the blocks. The epilogue may therefore read `residual` and what it wrote
   * itself, nothing else, and must leave `residual` alone, as it may run once for each few rows; both are checked here. Buffers that
   * only the epilogue uses need no more rows than those.
   */
  finish(header: PlanHeader, residual: View, logits: View): Plan {
    const begin = this.blockRanges.at(-1)?.end;
    if (this.prologueRange === undefined || begin === undefined) throw internal('a plan needs a prologue and at least one block');
    const epilogue = { begin, end: this.ops.length };
    this.checkEpilogue(epilogue, residual.buffer);
    return {
      ...header,
      buffers: this.buffers,
      weights: this.weights,
      vectors: this.vectors,
      ropes: this.ropes,
      caches: this.caches,
      ops: this.ops,
      prologue: this.prologueRange,
      blocks: this.blockRanges,
      epilogue,
      residual: residual.buffer,
      logits,
    };
  }

  private push(op: Op): void {
    const problem = this.shapeProblem(op);
    if (problem !== undefined) throw internal(`op ${this.ops.length} (${op.op}): ${problem}`);
    this.ops.push(op);
  }

  private shapeProblem(op: Op): string | undefined {
    for (const view of [...reads(op), ...writes(op)]) {
      const width = this.buffers[view.buffer]?.width;
      if (width === undefined || !(view.offset >= 0 && view.width >= 1 && view.offset + view.width <= width)) {
        return `view [${view.offset}, ${view.offset + view.width}) lies outside buffer ${view.buffer} of width ${width}`;
      }
    }
    switch (op.op) {
      case 'embed':
      case 'embed_position':
        return this.mismatch(op.weight, 'k', op.out.width);
      case 'layer_norm': {
        const fits = [op.vector, op.bias].every((vector) => this.vectors[vector]?.length === op.in.width);
        return fits && op.in.width === op.out.width ? undefined : 'weight, bias, in and out differ in width';
      }
      case 'activation':
        return op.in.width === op.out.width ? undefined : 'in and out differ in width';
      case 'rms_norm': {
        const length = this.vectors[op.vector]?.length;
        if (op.in.width !== op.out.width) return `width ${op.in.width} does not equal ${op.out.width}`;
        return op.group === length && op.in.width % op.group === 0
          ? undefined
          : `group ${op.group} fits neither ${length} nor ${op.in.width}`;
      }
      case 'linear':
        return op.outputs
          .map((output) => this.mismatch(output.weight, 'k', op.in.width) ?? this.mismatch(output.weight, 'n', output.out.width))
          .find((problem) => problem !== undefined);
      case 'rope': {
        const rotaryDim = 2 * (this.ropes[op.rope]?.inverseFrequencies.length ?? Infinity);
        const fits = op.view.width === op.nHeads * op.headDim && Number.isInteger(op.nHeads) && (op.offset ?? 0) + rotaryDim <= op.headDim;
        return fits
          ? undefined
          : `${op.nHeads} heads of ${op.headDim} with ${rotaryDim} rotary dimensions do not fit width ${op.view.width}`;
      }
      case 'attention': {
        const kvWidth = op.nKvHeads * op.headDim;
        const fits =
          op.q.width === op.nHeads * op.headDim && op.out.width === op.q.width && op.k.width === kvWidth && op.v.width === kvWidth;
        return fits && op.nHeads % op.nKvHeads === 0 ? undefined : `views do not fit ${op.nHeads}/${op.nKvHeads} heads of ${op.headDim}`;
      }
      case 'copy': {
        const { nHeads, width, zeros, inStride, outStride } = op;
        const fits =
          op.in.width === (nHeads - 1) * inStride + width &&
          op.out.width === (nHeads - 1) * outStride + width + zeros &&
          (inStride === 0 || inStride >= width) &&
          outStride >= width + zeros;
        return fits ? undefined : `views do not fit ${nHeads} heads of ${width} columns and ${zeros} zeros`;
      }
      case 'route': {
        const { topK, groups, topGroups } = op;
        const experts = op.out.width;
        const fits =
          (op.bias === undefined || this.vectors[op.bias]?.length === experts) &&
          experts % groups === 0 &&
          topGroups >= 1 &&
          topGroups <= groups &&
          topK >= 1 &&
          topK <= topGroups * (experts / groups);
        return fits
          ? (this.mismatch(op.weight, 'k', op.in.width) ?? this.mismatch(op.weight, 'n', experts))
          : `${topK} of ${experts} experts in ${topGroups} of ${groups} groups, or the bias, do not fit`;
      }
      case 'experts': {
        if (op.experts.length !== op.route.width) return `${op.experts.length} experts and a route of ${op.route.width} columns`;
        if (op.gathered.width !== op.in.width || op.product.width !== op.out.width) return 'the room for rows does not fit in and out';
        if (op.gate.width !== op.up.width || op.gated.width !== op.up.width) return 'gate, up and gated differ in width';
        return op.experts
          .flatMap(({ gate, up, down }) => [
            this.mismatch(gate, 'k', op.in.width) ?? this.mismatch(gate, 'n', op.gate.width),
            this.mismatch(up, 'k', op.in.width) ?? this.mismatch(up, 'n', op.up.width),
            this.mismatch(down, 'k', op.gated.width) ?? this.mismatch(down, 'n', op.out.width),
          ])
          .find((problem) => problem !== undefined);
      }
      case 'glu':
        return op.gate.width === op.up.width && op.up.width === op.out.width ? undefined : 'gate, up and out differ in width';
      case 'add':
        return op.a.width === op.b.width && op.b.width === op.out.width ? undefined : 'a, b and out differ in width';
      case 'softcap':
        return op.cap > 0 ? undefined : `cap ${op.cap} is not positive`;
    }
  }

  private mismatch(weight: number, side: 'n' | 'k', width: number): string | undefined {
    const found = this.weights[weight];
    if (found === undefined) return `there is no weight ${weight}`;
    return found[side] === width ? undefined : `${side} = ${found[side]} of ${found.name} does not fit a view of width ${width}`;
  }

  private checkEpilogue(range: OpRange, residual: number): void {
    const known = new Set([residual]);
    for (const op of this.ops.slice(range.begin, range.end)) {
      if (op.op === 'attention') throw internal('the epilogue must not attend');
      const foreign = reads(op).find((view) => !known.has(view.buffer));
      if (foreign !== undefined) throw internal(`the epilogue reads buffer ${this.buffers[foreign.buffer]?.name}, which it did not write`);
      for (const view of writes(op)) {
        if (view.buffer === residual) throw internal('the epilogue writes the residual');
        known.add(view.buffer);
      }
    }
  }
}

/** Views an op reads, accumulated outputs included. */
export function reads(op: Op): readonly View[] {
  switch (op.op) {
    case 'embed':
      return [];
    case 'embed_position':
      return [op.out];
    case 'rms_norm':
    case 'layer_norm':
    case 'activation':
    case 'copy':
    case 'route':
      return [op.in];
    case 'experts':
      return [op.in, op.route, ...(op.accumulate ? [op.out] : [])];
    case 'linear':
      return [op.in, ...op.outputs.filter((output) => output.accumulate).map((output) => output.out)];
    case 'rope':
    case 'softcap':
      return [op.view];
    case 'attention':
      return [op.q, op.k, op.v];
    case 'glu':
      return [op.gate, op.up];
    case 'add':
      return [op.a, op.b];
  }
}

/** Views an op writes; of `copy`, the columns between the heads belong to the view but stay as they are. */
export function writes(op: Op): readonly View[] {
  switch (op.op) {
    case 'linear':
      return op.outputs.map((output) => output.out);
    case 'rope':
    case 'softcap':
      return [op.view];
    case 'experts':
      return [op.out, op.gathered, op.gate, op.up, op.gated, op.product];
    default:
      return [op.out];
  }
}

function internal(message: string): LowbitError {
  return new LowbitError('INTERNAL', `Invalid plan: ${message}`);
}
