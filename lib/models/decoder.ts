/**
 * models: the vocabulary in which architectures are written. A decoder-only transformer in Hugging Face naming: embedding, layers of
 * attention and gated feed-forward around one residual stream, final norm, head. What differs between architectures (which norms,
 * biases, windows, rotary tables) is said in their own files.
 *
 * Buffers, one row per token: x carries the residual from layer to layer; everything else lives within a layer. q|k|v and gate|up are
 * ranges of one wide buffer each, so fused and separate projections give the same plan. `hidden` serves the normalised input of a
 * projection and, once that is consumed, the output that a post-norm still has to see.
 */
import type { Checkpoint } from '../checkpoint/types';
import { LowbitError } from '../errors';
import { PlanBuilder, columns } from '../graph/builder';
import type { Activation, Plan, View } from '../graph/plan';
import { type ConfigReader, LIMITS } from './config';
import { type RopeRequest, readRope, resolveContext } from './rope';
import { TensorResolver } from './tensors';

/** What an architecture assumes where the configuration is silent. */
export interface Traits {
  /** Head width when head_dim is absent; undefined: hidden_size / num_attention_heads. */
  readonly headDim?: number;
  /** Base of the rotary frequencies, default 10000. */
  readonly ropeTheta?: number;
  /** Whether the head is the embedding when tie_word_embeddings is absent. Undefined: if there is no lm_head. */
  readonly tied?: boolean;
  /** Norm weights are stored as w of (1 + w). */
  readonly normPlusOne?: boolean;
  /** Keys of the configuration that have other names in this architecture: hidden_size is n_embd. */
  readonly keys?: Readonly<Record<string, string>>;
  /** Layer norms with weight and bias in place of RMS norms. */
  readonly layerNorm?: boolean;
  /** When the key rms_norm_eps (or what it is called) is absent; undefined: it is required. */
  readonly normEps?: number;
  /** When intermediate_size (or what it is called) is absent, as a multiple of hidden_size; undefined: it is required. */
  readonly intermediateFactor?: number;
  /** Layers may have experts in place of one feed-forward. */
  readonly experts?: boolean;
  /** Tensors of layers behind the last one are no mistake: they predict further tokens and are not run. */
  readonly furtherLayers?: boolean;
  /** Linears are stored as [in, out]. */
  readonly transposedLinears?: boolean;
}

/** What the tensors outside the layers, and the layers themselves, are called. */
export interface TensorNames {
  readonly embedding: string;
  /** Learned positions. */
  readonly positions?: string;
  /** Before the number of a layer, with its dot. */
  readonly layers: string;
  readonly norm: string;
}

const NAMES: TensorNames = { embedding: 'model.embed_tokens', layers: 'model.layers.', norm: 'model.norm' };

export interface PlanOptions {
  /**
   * The longest context that will be used, 1 .. what the model allows. Matters only where rotary tables depend on it (longrope, dynamic):
   * without it those models run with the table of their trained length and Plan.maxSeqLen stops there.
   */
  readonly contextSize?: number | undefined;
  /** Told at most once, when a GPTQ checkpoint's content contradicts its label and the content was believed. */
  readonly onWarning?: ((message: string) => void) | undefined;
}

/** One file in this folder, one line in registry.ts. */
export interface Architecture {
  /** Plan.architecture. */
  readonly name: string;
  /** Values of model_type in config.json that mean this architecture. */
  readonly modelTypes: readonly string[];
  readonly traits: Traits;
  /** Where they differ from Llama's. */
  readonly names?: (checkpoint: Checkpoint) => TensorNames;
  readonly define: (model: Decoder) => void;
}

export interface DecoderShape {
  readonly hiddenSize: number;
  readonly intermediateSize: number;
  readonly nLayers: number;
  readonly nHeads: number;
  readonly nKvHeads: number;
  readonly headDim: number;
  readonly vocabSize: number;
  readonly normEps: number;
}

export interface Bias {
  /** A bias tensor is required. When false one is still used where a file format keeps it without saying so: see TensorResolver. */
  readonly bias: boolean;
}

export interface AttentionOptions {
  /** Of q k^T; default 1 / sqrt(headDim). */
  readonly scale?: number;
  /** 0, the default, is off. */
  readonly softcap?: number;
  /** 0, the default, sees everything. */
  readonly window?: number;
}

/** See the ops route and experts in lib/graph/plan.ts. */
export interface ExpertsOptions {
  readonly count: number;
  /** Between the matrices of an expert. */
  readonly width: number;
  /** Names of the matrices of one expert. */
  readonly matrices: { readonly gate: string; readonly up: string; readonly down: string };
  readonly activation: 'silu' | 'gelu_tanh';
  readonly scoring: 'softmax' | 'sigmoid';
  readonly topK: number;
  readonly normalise: boolean;
  readonly scale: number;
  readonly groups: number;
  readonly topGroups: number;
  /** The router has a vector e_score_correction_bias, which chooses experts but does not weigh them. */
  readonly bias?: boolean;
}

export type LayerType = 'full_attention' | 'sliding_attention';

const NO_BIAS: Bias = { bias: false };

export class Decoder {
  readonly shape: DecoderShape;
  readonly maxSeqLen: number;
  /** @internal */
  readonly builder = new PlanBuilder();
  /** @internal */
  readonly tensors: TensorResolver;
  private readonly x: View;
  private readonly names: TensorNames;
  private readonly tied: boolean;
  private embedding: number | undefined;
  private logits: View | undefined;

  constructor(
    private readonly architecture: Architecture,
    checkpoint: Checkpoint,
    readonly config: ConfigReader,
    options: PlanOptions,
  ) {
    this.shape = readShape(config, architecture.traits);
    this.maxSeqLen = resolveContext(config, options.contextSize);
    this.tensors = new TensorResolver(checkpoint, options.onWarning ?? (() => undefined));
    this.names = architecture.names?.(checkpoint) ?? NAMES;
    this.tied = isTied(config, architecture.traits, checkpoint);
    this.x = this.builder.buffer('x', this.shape.hiddenSize);
  }

  /** x = scale * E[token] (+ P[position + shift], where positions are learned). */
  embed(scale = 1, learned?: { readonly shift: number }): void {
    this.embedding = this.table(this.names.embedding, this.shape.vocabSize);
    this.builder.embed(this.embedding, this.x, scale);
    const { positions } = this.names;
    if (learned !== undefined && positions !== undefined) {
      const rows = this.config.integer('max_position_embeddings', LIMITS.context) + learned.shift;
      this.builder.embedPosition(this.table(positions, rows), this.x, learned.shift);
    }
    this.builder.endPrologue();
  }

  /** A matrix of rows to look up, each as wide as the model. */
  private table(name: string, n: number): number {
    const { hiddenSize } = this.shape;
    const source = this.tensors.embedding(name, n, hiddenSize);
    return this.builder.weight({ name, n, k: hiddenSize, source, role: 'embedding' });
  }

  /** Adds a rotary table, for Layer.rope. `layerType` picks one where the configuration has several. */
  rope(options: Pick<RopeRequest, 'layerType' | 'oldThetaKey'> & { readonly theta?: number; readonly headDim?: number } = {}): number {
    const { theta = this.architecture.traits.ropeTheta ?? 10000, ...rest } = options;
    return this.builder.rope(
      readRope(this.config, { headDim: this.shape.headDim, defaultTheta: theta, contextSize: this.maxSeqLen, ...rest }),
    );
  }

  layers(define: (layer: Layer, index: number) => void): void {
    for (let index = 0; index < this.shape.nLayers; index++) {
      define(new Layer(this, `${this.names.layers}${index}.`, this.x), index);
      this.builder.endBlock();
    }
  }

  /** Final norm, unless there is none, and head: logits = softcap(norm(x) W^T). Its buffers are its own, see PlanBuilder.finish. */
  head(softcap = 0, hasNorm = true): void {
    const { vocabSize, hiddenSize } = this.shape;
    const normed = hasNorm ? this.norm(this.names.norm, this.x, this.builder.buffer('final', hiddenSize), hiddenSize) : this.x;
    this.logits = this.builder.buffer('logits', vocabSize);
    // A tied head is the embedding's own entry, so that memory holds it once.
    const weight =
      this.tied && this.embedding !== undefined ? this.embedding : this.weight('lm_head', this.logits, normed, NO_BIAS, 'head');
    this.builder.linear(normed, [{ weight, out: this.logits, accumulate: false }]);
    if (softcap > 0) this.builder.softcap(this.logits, softcap);
  }

  /** Throws CORRUPT_FILE with every tensor that is missing, misshapen or unknown. */
  finish(): Plan {
    if (this.logits === undefined) throw new LowbitError('INTERNAL', `The definition of ${this.architecture.name} has no head`);
    this.tensors.finish(this.architecture.name, {
      names: this.tied ? ['lm_head.weight'] : [],
      ...(this.architecture.traits.furtherLayers ? { matching: (name: string) => this.isFurtherLayer(name) } : {}),
    });
    const { vocabSize, hiddenSize } = this.shape;
    const header = { architecture: this.architecture.name, vocabSize, hiddenSize, maxSeqLen: this.maxSeqLen };
    return this.builder.finish(header, this.x, this.logits);
  }

  /** Whether a tensor belongs to a layer behind the last one. */
  private isFurtherLayer(name: string): boolean {
    const { layers } = this.names;
    return name.startsWith(layers) && Number.parseInt(name.slice(layers.length), 10) >= this.shape.nLayers;
  }

  /** @internal out = norm(input), `group` columns at a time. */
  norm(name: string, input: View, out: View, group: number, eps = this.shape.normEps): View {
    const { layerNorm } = this.architecture.traits;
    const vector = this.builder.vector({
      name,
      length: group,
      tensor: this.tensors.dense(`${name}.weight`, [group], 'vector'),
      ...(this.architecture.traits.normPlusOne && !this.tensors.normPlusOneStored ? { addend: 1 } : {}),
    });
    if (layerNorm === true) {
      const tensor = this.tensors.dense(`${name}.bias`, [group], 'vector');
      const bias = this.builder.vector({ name: `${name}.bias`, length: group, tensor });
      this.builder.layerNorm(input, out, vector, bias, eps);
    } else {
      this.builder.rmsNorm(input, out, vector, group, eps);
    }
    return out;
  }

  /** @internal A vector under its full name. */
  vector(name: string, length: number): number {
    return this.builder.vector({ name, length, tensor: this.tensors.dense(name, [length], 'vector') });
  }

  /** @internal The matrix that scores experts: always floats. */
  router(name: string, out: View, input: View): number {
    const tensor = this.tensors.dense(`${name}.weight`, [out.width, input.width], 'vector');
    return this.builder.weight({ name, n: out.width, k: input.width, source: { kind: 'tensor', tensor }, role: 'router' });
  }

  /** @internal The matrix that maps `input` to `out`. */
  weight(name: string, out: View, input: View, { bias }: Bias, role: 'linear' | 'head', heads?: number): number {
    const ropeHeads = heads !== undefined && this.tensors.ropePermuted ? { ropeHeads: heads } : {};
    const transposed = role === 'linear' && this.architecture.traits.transposedLinears === true;
    const source = this.tensors.matrix(name, out.width, input.width, transposed);
    const biasTensor = this.tensors.bias(name, out.width, bias, source.kind);
    const vector = biasTensor !== undefined && { name: `${name}.bias`, length: out.width, tensor: biasTensor, ...ropeHeads };
    return this.builder.weight({
      name,
      n: out.width,
      k: input.width,
      source,
      role,
      ...ropeHeads,
      ...(vector ? { bias: this.builder.vector(vector) } : {}),
    });
  }
}

export class Layer {
  private readonly builder: PlanBuilder;
  private readonly hidden: View;

  constructor(
    private readonly model: Decoder,
    private readonly prefix: string,
    /** The residual stream. */
    readonly x: View,
  ) {
    this.builder = model.builder;
    this.hidden = this.builder.buffer('hidden', model.shape.hiddenSize);
  }

  /** Row norm; of x into a scratch buffer unless said otherwise. */
  norm(name: string, input = this.x, out = this.hidden, eps = this.model.shape.normEps): View {
    return this.model.norm(this.prefix + name, input, out, input.width, eps);
  }

  /** Norm of every head by itself with one weight [headDim], in place. */
  headNorm(name: string, view: View): View {
    return this.model.norm(this.prefix + name, view, view, this.model.shape.headDim);
  }

  /** self_attn.{q,k,v}_proj of one input. */
  qkv(input: View, bias = NO_BIAS): { readonly q: View; readonly k: View; readonly v: View } {
    const { q, k, v } = this.qkvViews();
    const { nHeads, nKvHeads } = this.model.shape;
    this.builder.linear(input, [
      this.output('self_attn.q_proj', q, input, bias, nHeads),
      this.output('self_attn.k_proj', k, input, bias, nKvHeads),
      this.output('self_attn.v_proj', v, input, bias),
    ]);
    return { q, k, v };
  }

  /** The same from one matrix with the rows of q, k and v in this order. */
  fusedQkv(name: string, input: View, bias = NO_BIAS): { readonly q: View; readonly k: View; readonly v: View } {
    const { all, ...parts } = this.qkvViews();
    this.builder.linear(input, [this.output(name, all, input, bias)]);
    return parts;
  }

  /** Rotates q and k in place. */
  rope(table: number, ...views: readonly View[]): void {
    for (const view of views) this.builder.rotate(view, this.model.shape.headDim, table);
  }

  attention({ q, k, v }: { readonly q: View; readonly k: View; readonly v: View }, options: AttentionOptions = {}): View {
    const { nHeads, nKvHeads, headDim } = this.model.shape;
    const { scale = 1 / Math.sqrt(headDim), softcap = 0, window = 0 } = options;
    const out = this.builder.buffer('attention', q.width);
    this.builder.attention({ q, k, v, out, nHeads, nKvHeads, headDim, scale, softcap, window });
    return out;
  }

  /** mlp.{gate,up}_proj of one input, then activation(gate) * up. */
  glu(input: View, activation: 'silu' | 'gelu_tanh', bias = NO_BIAS): View {
    const { all, gate, up } = this.gluViews();
    this.builder.linear(input, [this.output('mlp.gate_proj', gate, input, bias), this.output('mlp.up_proj', up, input, bias)]);
    return this.gated(all, activation);
  }

  /** As glu, for a feed-forward `name` of another width beside the first. */
  sharedGlu(name: string, width: number, input: View, activation: 'silu' | 'gelu_tanh'): View {
    const all = this.builder.buffer('shared_gate_up', 2 * width);
    const [gate, up] = [columns(all, 0, width), columns(all, width, width)];
    this.project(input, [
      [`${name}.gate_proj`, gate, NO_BIAS],
      [`${name}.up_proj`, up, NO_BIAS],
    ]);
    const out = this.builder.buffer('shared_gated', width);
    this.builder.glu(gate, up, out, activation);
    return out;
  }

  /** out = input W^T + bias for every [name, out, bias], as one op. */
  project(input: View, outputs: readonly (readonly [name: string, out: View, bias: Bias])[]): void {
    this.builder.linear(
      input,
      outputs.map(([name, out, bias]) => this.output(name, out, input, bias)),
    );
  }

  /** As glu, from one matrix with the rows of gate first. */
  fusedGlu(name: string, input: View, activation: 'silu' | 'gelu_tanh'): View {
    const { all } = this.gluViews();
    this.builder.linear(input, [this.output(name, all, input, NO_BIAS)]);
    return this.gated(all, activation);
  }

  /** activation(input W^T + bias): the upper half of a feed-forward without a gate. */
  ffn(name: string, input: View, activation: Activation, bias = NO_BIAS): View {
    const out = this.builder.buffer('ffn', this.model.shape.intermediateSize);
    this.builder.linear(input, [this.output(name, out, input, bias)]);
    this.builder.activation(out, activation);
    return out;
  }

  /**
   * x += what the chosen experts of `mlp` make of the input: a router `${mlp}.gate` and experts `${mlp}.experts.N` with matrices of
   * these names, each `width` wide inside.
   */
  addExperts(mlp: string, input: View, options: ExpertsOptions): void {
    const { builder } = this;
    const { hiddenSize } = this.model.shape;
    const { count, width, matrices, activation, bias, ...routing } = options;
    const route = builder.buffer('route', count);
    builder.route({
      in: input,
      out: route,
      weight: this.model.router(`${this.prefix}${mlp}.gate`, route, input),
      ...(bias === true ? { bias: this.model.vector(`${this.prefix}${mlp}.gate.e_score_correction_bias`, count) } : {}),
      ...routing,
    });
    const gathered = builder.buffer('gathered', hiddenSize);
    const [gate, up] = [builder.buffer('expert_gate', width), builder.buffer('expert_up', width)];
    const [gated, product] = [builder.buffer('expert_gated', width), builder.buffer('expert_product', hiddenSize)];
    const matrix = (expert: number, kind: keyof typeof matrices, out: View, from: View): number =>
      this.output(`${mlp}.experts.${expert}.${matrices[kind]}`, out, from, NO_BIAS).weight;
    const experts = Array.from({ length: count }, (_, e) => ({
      gate: matrix(e, 'gate', gate, gathered),
      up: matrix(e, 'up', up, gathered),
      down: matrix(e, 'down', product, gated),
    }));
    builder.experts({ in: input, route, out: this.x, accumulate: true, activation, experts, gathered, gate, up, gated, product });
  }

  /** x += input W^T + bias. */
  addProjection(name: string, input: View, bias = NO_BIAS): void {
    this.builder.linear(input, [{ ...this.output(name, this.x, input, bias), accumulate: true }]);
  }

  /** x += norm(input W^T + bias): where a norm sits between a projection and the residual. */
  addNormedProjection(name: string, norm: string, input: View, bias = NO_BIAS): void {
    this.builder.linear(input, [this.output(name, this.hidden, input, bias)]);
    this.builder.add(this.x, this.norm(norm, this.hidden, this.hidden), this.x);
  }

  private qkvViews(): { readonly all: View; readonly q: View; readonly k: View; readonly v: View } {
    const { nHeads, nKvHeads, headDim } = this.model.shape;
    const qWidth = nHeads * headDim;
    const kvWidth = nKvHeads * headDim;
    const all = this.builder.buffer('qkv', qWidth + 2 * kvWidth);
    return { all, q: columns(all, 0, qWidth), k: columns(all, qWidth, kvWidth), v: columns(all, qWidth + kvWidth, kvWidth) };
  }

  private gluViews(): { readonly all: View; readonly gate: View; readonly up: View } {
    const width = this.model.shape.intermediateSize;
    const all = this.builder.buffer('gate_up', 2 * width);
    return { all, gate: columns(all, 0, width), up: columns(all, width, width) };
  }

  private gated(all: View, activation: 'silu' | 'gelu_tanh'): View {
    const width = all.width / 2;
    const out = this.builder.buffer('gated', width);
    this.builder.glu(columns(all, 0, width), columns(all, width, width), out, activation);
    return out;
  }

  private output(name: string, out: View, input: View, bias: Bias, heads?: number) {
    return { weight: this.model.weight(this.prefix + name, out, input, bias, 'linear', heads), out, accumulate: false };
  }
}

function readShape(config: ConfigReader, traits: Traits): DecoderShape {
  const hiddenSize = config.integer('hidden_size', LIMITS.hiddenSize);
  const nHeads = config.integer('num_attention_heads', LIMITS.heads);
  const nKvHeads = config.integer('num_key_value_heads', LIMITS.heads, nHeads);
  if (nHeads % nKvHeads !== 0) throw config.expected(`divisor of num_attention_heads (${nHeads})`, 'num_key_value_heads', nKvHeads);
  if (!config.has('head_dim') && traits.headDim === undefined && hiddenSize % nHeads !== 0) {
    throw config.expected(`divisor of hidden_size (${hiddenSize}), as there is no head_dim,`, 'num_attention_heads', nHeads);
  }
  const headDim = config.integer('head_dim', LIMITS.headDim, traits.headDim ?? hiddenSize / nHeads);
  if (headDim % 2 !== 0) throw config.expected('even integer, as rotary positions turn pairs,', 'head_dim', headDim);
  return {
    hiddenSize,
    intermediateSize: config.integer(
      'intermediate_size',
      LIMITS.intermediateSize,
      traits.intermediateFactor === undefined ? undefined : traits.intermediateFactor * hiddenSize,
    ),
    nLayers: config.integer('num_hidden_layers', LIMITS.layers),
    nHeads,
    nKvHeads,
    headDim,
    vocabSize: config.integer('vocab_size', LIMITS.vocabSize),
    normEps: config.number('rms_norm_eps', { min: 1e-12, max: 1 }, traits.normEps),
  };
}

function isTied(config: ConfigReader, traits: Traits, checkpoint: Checkpoint): boolean {
  const hasHead = ['weight', 'qweight', 'weight_packed', 'parts'].some((part) => checkpoint.find(`lm_head.${part}`) !== undefined);
  // GGUF has no key for it: a file without a head is tied.
  if (checkpoint.kind === 'gguf') return !hasHead;
  return config.boolean('tie_word_embeddings', traits.tied ?? !hasHead);
}

/** hidden_act (or `key`) as the glu op names it. Throws UNSUPPORTED for others. */
export function readActivation(config: ConfigReader, key = 'hidden_act', fallback = 'silu'): 'silu' | 'gelu_tanh' {
  const name = config.string(key, fallback);
  if (name === 'silu') return 'silu';
  if (name === 'gelu_pytorch_tanh') return 'gelu_tanh';
  throw config.unsupported(key, 'this version knows silu and gelu_pytorch_tanh');
}

/** The activation of a feed-forward without a gate. Throws UNSUPPORTED for one that the activation op does not know. */
export function readPlainActivation(config: ConfigReader, key: string, fallback: string): Activation {
  const known: Readonly<Record<string, Activation>> = {
    relu: 'relu',
    silu: 'silu',
    swish: 'silu',
    gelu: 'gelu',
    gelu_new: 'gelu_tanh',
    gelu_fast: 'gelu_tanh',
    gelu_pytorch_tanh: 'gelu_tanh',
  };
  const name = config.string(key, fallback);
  const activation = Object.hasOwn(known, name) ? known[name] : undefined;
  if (activation === undefined) throw config.unsupported(key, `this version knows ${Object.keys(known).join(', ')}`);
  return activation;
}

/**
 * The attention window of every layer, 0 = full: from layer_types, or `typeOf` where the configuration has none. A sliding layer needs
 * sliding_window, `defaultWindow` when the key is absent.
 */
export function readWindows(model: Decoder, typeOf: (index: number) => LayerType, defaultWindow?: number): readonly number[] {
  const { config } = model;
  const length = model.shape.nLayers;
  const types =
    config.choices<LayerType>('layer_types', length, ['full_attention', 'sliding_attention']) ??
    Array.from({ length }, (_, i) => typeOf(i));
  return types.map((type) => (type === 'full_attention' ? 0 : config.integer('sliding_window', LIMITS.context, defaultWindow)));
}
