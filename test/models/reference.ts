/**
 * An executor of plans in doubles and plain loops: the meaning of the op vocabulary, written down a second time, independent of
 * the engine. It runs one sequence from position 0, with attention over the whole of it, so it needs no cache.
 */
import type { Activation, Op, Plan, Vector, View, Weight } from '../../lib/graph/plan';
import type { TestCheckpoint } from './fixtures';

type Matrix = readonly Float64Array[]; // rows

export interface ReferenceRun {
  /** Logits of the wanted rows, row-major. */
  readonly logits: Float64Array;
}

/**
 * Runs `tokens` through the plan. `wanted` are the rows whose logits are computed, default all: the epilogue then runs on a fresh set
 * of buffers that hold only those residual rows, everything else poisoned with NaN, as the engine's contract allows.
 */
export function runPlan(
  plan: Plan,
  checkpoint: TestCheckpoint,
  tokens: readonly number[],
  wanted = tokens.map((_, row) => row),
): ReferenceRun {
  const matrices = plan.weights.map((weight) => readWeight(weight, checkpoint));
  const vectors = plan.vectors.map((vector) => readVector(vector, checkpoint));
  const fresh = (rows: number): Float64Array[] => plan.buffers.map(({ width }) => new Float64Array(rows * width).fill(NaN));
  const execute = (buffers: Float64Array[], rows: number, begin: number, end: number): void => {
    for (const op of plan.ops.slice(begin, end)) runOp(op, { plan, matrices, vectors, buffers, rows, tokens });
  };
  const buffers = fresh(tokens.length);
  execute(buffers, tokens.length, plan.prologue.begin, plan.prologue.end);
  for (const { begin, end } of plan.blocks) {
    execute(buffers, tokens.length, begin, end);
    // Only the residual may carry state from block to block.
    buffers.forEach((buffer, index) => index !== plan.residual && buffer.fill(NaN));
  }
  const last = fresh(wanted.length);
  const width = plan.hiddenSize;
  const residual = buffers[plan.residual] as Float64Array;
  wanted.forEach((row, to) => last[plan.residual]?.set(residual.subarray(row * width, (row + 1) * width), to * width));
  execute(last, wanted.length, plan.epilogue.begin, plan.epilogue.end);
  return { logits: last[plan.logits.buffer] as Float64Array };
}

interface State {
  readonly plan: Plan;
  readonly matrices: readonly Matrix[];
  readonly vectors: readonly Float64Array[];
  readonly buffers: readonly Float64Array[];
  readonly rows: number;
  readonly tokens: readonly number[];
}

function runOp(op: Op, state: State): void {
  const row = (view: View, r: number): Float64Array => {
    const width = state.plan.buffers[view.buffer]?.width as number;
    return (state.buffers[view.buffer] as Float64Array).subarray(r * width + view.offset, r * width + view.offset + view.width);
  };
  if (op.op === 'attention') {
    attention(op, state, row);
    return;
  }
  for (let r = 0; r < state.rows; r++) {
    switch (op.op) {
      case 'embed': {
        const embedding = at(at(state.matrices, op.weight), at(state.tokens, r));
        row(op.out, r).set(embedding.map((value) => value * op.scale));
        break;
      }
      case 'embed_position': {
        const table = at(at(state.matrices, op.weight), r + op.shift);
        row(op.out, r).set(row(op.out, r).map((x, i) => x + at(table, i)));
        break;
      }
      case 'layer_norm': {
        const input = row(op.in, r).slice();
        const mean = input.reduce((total, x) => total + x, 0) / input.length;
        const variance = input.reduce((total, x) => total + (x - mean) ** 2, 0) / input.length;
        const [weight, bias] = [at(state.vectors, op.vector), at(state.vectors, op.bias)];
        row(op.out, r).set(input.map((x, i) => ((x - mean) / Math.sqrt(variance + op.eps)) * at(weight, i) + at(bias, i)));
        break;
      }
      case 'activation': {
        row(op.out, r).set(row(op.in, r).map((x) => activation(op.activation, x)));
        break;
      }
      case 'rms_norm': {
        const weight = at(state.vectors, op.vector);
        const input = row(op.in, r).slice();
        const out = row(op.out, r);
        for (let begin = 0; begin < input.length; begin += op.group) {
          const group = input.subarray(begin, begin + op.group);
          const norm = Math.sqrt(group.reduce((total, x) => total + x * x, 0) / op.group + op.eps);
          group.forEach((x, i) => (out[begin + i] = (x * at(weight, i)) / norm));
        }
        break;
      }
      case 'linear': {
        const input = row(op.in, r).slice();
        for (const { weight, out, accumulate } of op.outputs) {
          const bias = state.plan.weights[weight]?.bias;
          const target = row(out, r);
          at(state.matrices, weight).forEach((values, n) => {
            let total = bias === undefined ? 0 : at(at(state.vectors, bias), n);
            for (let k = 0; k < input.length; k++) total += (values[k] as number) * (input[k] as number);
            target[n] = accumulate ? at(target, n) + total : total;
          });
        }
        break;
      }
      case 'rope': {
        const { inverseFrequencies, scale } = at(state.plan.ropes, op.rope);
        const half = inverseFrequencies.length;
        const view = row(op.view, r);
        for (let head = 0; head < op.nHeads; head++) {
          const before = view.slice();
          for (let i = 0; i < half; i++) {
            const begin = head * op.headDim + (op.offset ?? 0);
            const first = begin + i;
            const [a, b] = op.interleaved
              ? [at(before, begin + 2 * i), at(before, begin + 2 * i + 1)]
              : [at(before, first), at(before, first + half)];
            const angle = r * at(inverseFrequencies, i);
            view[first] = scale * (a * Math.cos(angle) - b * Math.sin(angle));
            view[first + half] = scale * (b * Math.cos(angle) + a * Math.sin(angle));
          }
        }
        break;
      }
      case 'copy': {
        const [input, out] = [row(op.in, r), row(op.out, r)];
        for (let head = 0; head < op.nHeads; head++) {
          out.set(input.slice(head * op.inStride, head * op.inStride + op.width), head * op.outStride);
          out.fill(0, head * op.outStride + op.width, head * op.outStride + op.width + op.zeros);
        }
        break;
      }
      case 'route': {
        row(op.out, r).set(
          routed(op, product(at(state.matrices, op.weight), row(op.in, r)), op.bias === undefined ? [] : at(state.vectors, op.bias)),
        );
        break;
      }
      case 'experts': {
        const input = row(op.in, r).slice();
        const out = row(op.out, r);
        if (!op.accumulate) out.fill(0);
        op.experts.forEach(({ gate, up, down }, e) => {
          const share = at(row(op.route, r), e);
          if (share === 0) return;
          const upper = product(at(state.matrices, up), input);
          const gated = product(at(state.matrices, gate), input).map((x, i) => activation(op.activation, x) * at(upper, i));
          product(at(state.matrices, down), gated).forEach((value, i) => (out[i] = at(out, i) + share * value));
        });
        break;
      }
      case 'glu': {
        const up = row(op.up, r).slice();
        row(op.out, r).set(row(op.gate, r).map((x, i) => activation(op.activation, x) * at(up, i)));
        break;
      }
      case 'add': {
        const b = row(op.b, r).slice();
        row(op.out, r).set(row(op.a, r).map((x, i) => x + at(b, i)));
        break;
      }
      case 'softcap': {
        const view = row(op.view, r);
        view.set(view.map((x) => op.cap * Math.tanh(x / op.cap)));
        break;
      }
    }
  }
}

function product(matrix: Matrix, x: Float64Array): Float64Array {
  return Float64Array.from(matrix, (values) => values.reduce((total, value, i) => total + value * at(x, i), 0));
}

/** What each expert counts for. */
function routed(op: Extract<Op, { op: 'route' }>, logits: Float64Array, bias: ArrayLike<number>): Float64Array {
  const sum = logits.reduce((total, x) => total + Math.exp(x), 0);
  const scores = logits.map((x) => (op.scoring === 'softmax' ? Math.exp(x) / sum : 1 / (1 + Math.exp(-x))));
  const choice = scores.map((score, e) => score + (bias.length > 0 ? at(bias, e) : 0));
  const falling = (indices: number[], value: (index: number) => number): number[] => indices.sort((a, b) => value(b) - value(a) || a - b);
  const length = logits.length / op.groups;
  const membersOf = (group: number): number[] => Array.from({ length }, (_, i) => group * length + i);
  const best = (group: number): number => {
    const [first = 0, second = 0] = [...membersOf(group).map((e) => at(choice, e))].sort((a, b) => b - a);
    return first + (length > 1 ? second : 0);
  };
  const groups = falling(
    Array.from({ length: op.groups }, (_, g) => g),
    best,
  ).slice(0, op.topGroups);
  const chosen = falling(groups.flatMap(membersOf), (e) => at(choice, e)).slice(0, op.topK);
  const total = chosen.reduce((all, e) => all + at(scores, e), 0);
  const result = new Float64Array(logits.length);
  for (const e of chosen) result[e] = (op.scale * at(scores, e)) / (op.normalise ? total : 1);
  return result;
}

function attention(op: Extract<Op, { op: 'attention' }>, { rows }: State, row: (view: View, r: number) => Float64Array): void {
  const shared = op.nHeads / op.nKvHeads;
  const slice = (view: View, r: number, head: number): Float64Array => row(view, r).subarray(head * op.headDim, (head + 1) * op.headDim);
  for (let i = 0; i < rows; i++) {
    for (let head = 0; head < op.nHeads; head++) {
      const kvHead = Math.floor(head / shared);
      const q = slice(op.q, i, head);
      const first = op.window > 0 ? Math.max(0, i - op.window + 1) : 0;
      const scores: number[] = [];
      for (let j = first; j <= i; j++) {
        const k = slice(op.k, j, kvHead);
        const score = op.scale * q.reduce((total, x, d) => total + x * at(k, d), 0);
        scores.push(op.softcap > 0 ? op.softcap * Math.tanh(score / op.softcap) : score);
      }
      const highest = Math.max(...scores);
      const weights = scores.map((score) => Math.exp(score - highest));
      const sum = weights.reduce((total, weight) => total + weight, 0);
      const out = slice(op.out, i, head).fill(0);
      weights.forEach((weight, j) => slice(op.v, first + j, kvHead).forEach((value, d) => (out[d] = at(out, d) + (weight / sum) * value)));
    }
  }
}

function activation(name: Activation, x: number): number {
  switch (name) {
    case 'relu':
      return Math.max(0, x);
    case 'silu':
      return x / (1 + Math.exp(-x));
    case 'gelu':
      return 0.5 * x * (1 + erf(x / Math.SQRT2));
    case 'gelu_tanh':
      return 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)));
  }
}

/** The Taylor series, whose terms alternate: good to 1e-10 up to |x| = 4, and beyond it erf is 1 to 1e-8. */
function erf(x: number): number {
  if (Math.abs(x) > 4) return Math.sign(x);
  let term = x;
  let sum = x;
  for (let n = 1; n < 100; n++) {
    term *= (-x * x) / n;
    sum += term / (2 * n + 1);
  }
  return (2 / Math.sqrt(Math.PI)) * sum;
}

function readVector({ tensor, addend = 0, ropeHeads }: Vector, checkpoint: TestCheckpoint): Float64Array {
  const rows = [...checkpoint.data(tensor)].map((value) => Float64Array.of(value + addend));
  return Float64Array.from(unpermuted(rows, ropeHeads), (values) => at(values, 0));
}

function readWeight({ n, k, source, ropeHeads }: Weight, checkpoint: TestCheckpoint): Matrix {
  if (source.kind === 'gptq') return dequantized(n, k, source, checkpoint);
  if (source.kind === 'words') throw new Error('packed words of AWQ and compressed-tensors: see test/engine/packed.test.ts');
  if (source.kind === 'parts') throw new Error('lowbit containers: see test/quantize/container.test.ts');
  const values = checkpoint.data(source.tensor);
  return unpermuted(
    Array.from({ length: n }, (_, row) =>
      source.transposed ? Float64Array.from({ length: k }, (__, j) => at(values, j * n + row)) : values.subarray(row * k, (row + 1) * k),
    ),
    ropeHeads,
  );
}

/** Undoes GGUF's interleaving: file row h*D + 2i + p is row h*D + p*D/2 + i. */
function unpermuted(rows: Matrix, heads: number | undefined): Matrix {
  if (heads === undefined) return rows;
  const headDim = rows.length / heads;
  return rows.map((_, row) => {
    const inHead = row % headDim;
    const i = inHead % (headDim / 2);
    const p = Math.floor(inHead / (headDim / 2));
    return at(rows, row - inHead + 2 * i + p);
  });
}

/** w[n][k] = scale[g][n] * (code - zero), codes a least-significant-bit-first stream along k, zeros one along n. */
function dequantized(n: number, k: number, source: Extract<Weight['source'], { kind: 'gptq' }>, checkpoint: TestCheckpoint): Matrix {
  const words = checkpoint.data(source.qweight);
  const zeroWords = checkpoint.data(source.qzeros);
  const scales = checkpoint.data(source.scales);
  const groups = source.gIdx === undefined ? undefined : checkpoint.data(source.gIdx);
  // Value `index` of a bit stream whose word w is word(w); it may begin in one word and end in the next.
  const field = (index: number, word: (w: number) => number): number => {
    const [w, shift] = [Math.floor((index * source.bits) / 32), (index * source.bits) % 32];
    const low = word(w) >>> shift;
    return (shift + source.bits > 32 ? low | (word(w + 1) << (32 - shift)) : low) & (2 ** source.bits - 1);
  };
  const zerosPerRow = (n * source.bits) / 32;
  return Array.from({ length: n }, (_, row) =>
    Float64Array.from({ length: k }, (_, column) => {
      const group = groups === undefined ? Math.floor(column / source.groupSize) : at(groups, column);
      const code = field(column, (w) => at(words, w * n + row));
      const zero = (field(row, (w) => at(zeroWords, group * zerosPerRow + w)) + source.zeroOffset) % 2 ** source.bits;
      return at(scales, group * n + row) * (code - zero);
    }),
  );
}

function at<T>(values: ArrayLike<T>, index: number): T {
  if (!(index >= 0 && index < values.length)) throw new RangeError(`index ${index} of ${values.length}`);
  return values[index] as T;
}
