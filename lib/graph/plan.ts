/**
 * The plan: a model as data. lib/models/<arch>.ts builds one from a configuration; cpp/plan checks and executes it.
 *
 * Values live in buffers: row-major f32 matrices [rows, width], one row per token. An op reads and writes views, column
 * ranges of a buffer. Fused projections are therefore only views: a fused qkv weight writes one wide buffer whose
 * thirds the following ops read, and three separate weights may write the same three ranges. Norms, `glu`, `activation` and `add` may
 * write onto one of the views they read; `linear` and `attention` may not.
 */

/** Columns [offset, offset + width) of a buffer. */
export interface View {
  readonly buffer: number; // index into Plan.buffers
  readonly offset: number;
  readonly width: number;
}

/** Where the bytes of a weight come from. Tensor numbers index the checkpoint's tensor table. */
export type WeightSource =
  | {
      readonly kind: 'tensor';
      readonly tensor: number; // F32/F16/BF16 or a GGUF block type; [n, k]
      readonly transposed?: true; // the file has [k, n], as GPT-2's Conv1D does; floats only
    }
  | {
      readonly kind: 'gptq';
      readonly qweight: number;
      readonly qzeros: number;
      readonly scales: number;
      readonly gIdx?: number; // absent or trivial: column / groupSize
      readonly bits: number;
      readonly groupSize: number; // resolved, > 0
      readonly zeroOffset: 0 | 1; // added to stored zero points: 1 for v1 files, 0 for v2
    }
  | {
      readonly kind: 'words'; // AWQ and compressed-tensors
      /** awq: words hold rows of a column. stream, padded: words run along a row, without or with unused bits (WordLayout of part.h). */
      readonly layout: 'awq' | 'stream' | 'padded';
      readonly qweight: number;
      readonly qzeros?: number; // absent: 2^(bits-1)
      readonly scales: number;
      readonly gIdx?: number;
      readonly bits: number; // 1 to 8
      readonly groupSize: number; // resolved, > 0
    }
  | { readonly kind: 'parts'; readonly inputScale?: number; readonly parts: readonly PartSource[] }; // lowbit container, affine part first

/** One part of a weight in a lowbit container; numbers of tensors where not said otherwise. docs/formats.md has shapes and types. */
export type PartSource =
  | {
      readonly kind: 'affine';
      readonly count: number; // rows
      readonly bits: number;
      readonly groupSize: number;
      readonly affine: 'symmetric' | 'minimum' | 'zero_point';
      readonly scaleBits: number; // of coded scales, 0 = scales as they are
      readonly codes: number;
      readonly scales?: number;
      readonly seconds?: number; // minima or zero points
      readonly scaleCodes?: number;
      readonly zeroCodes?: number;
      readonly tiles?: number;
      readonly rows?: number; // absent: all rows
      readonly gIdx?: number; // absent: column / groupSize
    }
  | { readonly kind: 'lowrank'; readonly count: number; readonly a: number; readonly b: number } // count: the rank
  | { readonly kind: 'sparse'; readonly count: number; readonly rowOffsets: number; readonly columns: number; readonly values: number };

/** A matrix [n, k] (out_features, in_features). */
export interface Weight {
  /** Name without ".weight", as in the Hugging Face checkpoint: "model.layers.0.self_attn.q_proj". */
  readonly name: string;
  readonly n: number;
  readonly k: number;
  readonly source: WeightSource;
  /** GGUF llama files store q/k rows pairwise interleaved per head; with a head count here the engine undoes it at load. */
  readonly ropeHeads?: number;
  /** Index into Plan.vectors, [n]. */
  readonly bias?: number;
  /** Round to codes of this many bits as the weight is loaded (cpp/part/requantize.cc). Absent: as stored. */
  readonly roundBits?: 4 | 5 | 6 | 8;
  /** Decoder linears are quantisable; embedding and head are not unless asked for, routers never. */
  readonly role: 'embedding' | 'linear' | 'router' | 'head';
}

/** A 1-D f32 vector (norm weight, bias): value + addend. */
export interface Vector {
  readonly name: string;
  readonly length: number;
  readonly tensor: number;
  /** 1 for Gemma norms in Hugging Face files, which store w of (1 + w). Default 0. */
  readonly addend?: number;
  /** As Weight.ropeHeads, for q/k biases. */
  readonly ropeHeads?: number;
}

/** One rotary table: angle of pair i at position p = p * inverseFrequencies[i]; cos and sin are multiplied by `scale`. */
export interface RopeTable {
  readonly inverseFrequencies: Float64Array; // [rotary_dim / 2], scaling (linear, llama3, yarn, longrope) already applied
  readonly scale: number; // attention factor of yarn and longrope, else 1
}

/** The key and value store of one attention op. */
export interface CacheSpec {
  readonly nKvHeads: number;
  readonly headDim: number;
}

export type Activation = 'silu' | 'gelu_tanh' | 'gelu' | 'relu';

export type Op =
  /** out = scale * table[token] */
  | { readonly op: 'embed'; readonly weight: number; readonly out: View; readonly scale: number }
  /** out += table[position + shift]: learned positions. The table has at least maxSeqLen + shift rows. */
  | { readonly op: 'embed_position'; readonly weight: number; readonly out: View; readonly shift: number }
  /** Each run of `group` columns is normalised by itself with the same weights [group]: group = width for a row norm, head_dim for q/k norms. */
  | {
      readonly op: 'rms_norm';
      readonly in: View;
      readonly out: View;
      readonly vector: number;
      readonly group: number;
      readonly eps: number;
    }
  /** out = (in - mean) / sqrt(variance + eps) * vector + bias, over the whole row. */
  | {
      readonly op: 'layer_norm';
      readonly in: View;
      readonly out: View;
      readonly vector: number;
      readonly bias: number;
      readonly eps: number;
    }
  /** out (+)= in W^T + bias for every output. One linear op = one distinct input = one Hessian. */
  | { readonly op: 'linear'; readonly in: View; readonly outputs: readonly LinearOutput[] }
  /**
   * Rotates columns [offset, offset + rotaryDim) of every head of the view in place, pairs (i, i + rotaryDim/2). `interleaved`: the pairs lie
   * side by side, (2i, 2i + 1), and come out as (i, i + rotaryDim/2), which no product of a query and a key notices.
   */
  | {
      readonly op: 'rope';
      readonly view: View;
      readonly nHeads: number;
      readonly headDim: number;
      readonly rope: number;
      readonly offset?: number;
      readonly interleaved?: boolean;
    }
  /**
   * Columns [h inStride, h inStride + width) of `in` to columns [h outStride, h outStride + width) of `out` and `zeros` zeros behind them, for
   * every head h. inStride 0: all heads get the same ones. The views span exactly what is read and written.
   */
  | {
      readonly op: 'copy';
      readonly in: View;
      readonly out: View;
      readonly nHeads: number;
      readonly width: number;
      readonly zeros: number;
      readonly inStride: number;
      readonly outStride: number;
    }
  /** Appends k and v to cache `cache`, then out = softmax(softcap(scale * q k^T) + causal/window mask) v. window 0 = full; window W sees i-W < j <= i. softcap 0 = off. */
  | {
      readonly op: 'attention';
      readonly q: View;
      readonly k: View;
      readonly v: View;
      readonly out: View;
      readonly cache: number;
      readonly nHeads: number;
      readonly nKvHeads: number;
      readonly headDim: number;
      readonly scale: number;
      readonly softcap: number;
      readonly window: number;
    }
  /**
   * The experts of each token and what their outputs count for: out[e] for expert e, 0 where it is not chosen. Scores are the softmax or
   * sigmoid of in W^T, in f32 from a dense router weight. The topK experts with the highest score (+ bias, which only chooses; the lowest
   * index on ties) keep their scores, divided by their sum if `normalise`, times `scale`. groups > 1 (DeepSeek-V3, arXiv 2412.19437,
   * section 2.1.2): experts are in so many runs of equal length, and only those of the topGroups with the highest sum of their two best
   * can be chosen.
   */
  | {
      readonly op: 'route';
      readonly in: View;
      readonly out: View;
      readonly weight: number;
      readonly bias?: number; // vector
      readonly scoring: 'softmax' | 'sigmoid';
      readonly topK: number;
      readonly normalise: boolean;
      readonly scale: number;
      readonly groups: number;
      readonly topGroups: number;
    }
  /**
   * out (+)= sum over experts e with route[e] != 0 of route[e] * (activation(in G_e^T) * (in U_e^T)) D_e^T, summed in the order of the experts. Of
   * the experts' weights, only those that some row was routed to are read. The other views are room for the rows of one expert; they must
   * not overlap, nor anything that is still needed.
   */
  | {
      readonly op: 'experts';
      readonly in: View;
      readonly route: View; // as wide as there are experts
      readonly out: View;
      readonly accumulate: boolean;
      readonly activation: 'silu' | 'gelu_tanh';
      readonly experts: readonly Expert[];
      readonly gathered: View;
      readonly gate: View;
      readonly up: View;
      readonly gated: View;
      readonly product: View;
    }
  /** out = activation(gate) * up */
  | { readonly op: 'glu'; readonly gate: View; readonly up: View; readonly out: View; readonly activation: 'silu' | 'gelu_tanh' }
  /** out = activation(in); gelu is the exact one, gelu_tanh its approximation. */
  | { readonly op: 'activation'; readonly in: View; readonly out: View; readonly activation: Activation }
  /** out = a + b */
  | { readonly op: 'add'; readonly a: View; readonly b: View; readonly out: View }
  /** view = cap * tanh(view / cap) */
  | { readonly op: 'softcap'; readonly view: View; readonly cap: number };

/** Indices into Plan.weights. */
export interface Expert {
  readonly gate: number;
  readonly up: number;
  readonly down: number;
}

export interface LinearOutput {
  readonly weight: number; // index into Plan.weights
  readonly out: View;
  /** Add to what the view holds (residual) instead of overwriting it. */
  readonly accumulate: boolean;
}

/** Ops [begin, end). */
export interface OpRange {
  readonly begin: number;
  readonly end: number;
}

export interface Plan {
  readonly architecture: string; // registry name: "llama", "gemma2", ...
  readonly vocabSize: number;
  readonly hiddenSize: number;
  readonly maxSeqLen: number;
  readonly buffers: readonly { readonly name: string; readonly width: number }[];
  readonly weights: readonly Weight[];
  readonly vectors: readonly Vector[];
  readonly ropes: readonly RopeTable[];
  readonly caches: readonly CacheSpec[];
  readonly ops: readonly Op[];
  /** Embedding; then one range per decoder block; then final norm and head. They cover ops without gap or overlap. */
  readonly prologue: OpRange;
  readonly blocks: readonly OpRange[];
  /** Runs only on the rows whose logits are wanted. Its only inputs are `residual` rows. */
  readonly epilogue: OpRange;
  /** The buffer that carries state from block to block, full width. */
  readonly residual: number;
  /** The view that holds the logits after the epilogue, width vocabSize. */
  readonly logits: View;
}
