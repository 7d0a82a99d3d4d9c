/**
 * checkpoint: the metadata of a GGUF file as a Hugging Face config.json. Values are passed on as they stand; whether they make sense
 * for a model is checked in lib/models, as for config.json.
 *
 * What GGUF does not store is filled in with what the published models of the family have: the scale of Gemma's attention and the
 * order of its local and global layers.
 */
import { corruptFile } from './files';
import type { GgufMetadata } from './gguf_metadata';
import type { GgufArchitecture } from './gguf_names';
import type { JsonObject } from './json';
import { LowbitError } from '../errors';

/** What the configuration needs of the tensors. */
export interface GgufTensors {
  shapeOf(name: string): readonly number[] | undefined;
  /** Values of an F32 tensor of at most `limit` values, all above 0; undefined when it is absent. */
  numbersOf(name: string, limit: number): Promise<readonly number[] | undefined>;
}

interface Family {
  readonly modelType: string;
  readonly className: string;
  readonly activation: JsonObject;
}

const SILU = { hidden_act: 'silu' };
const GELU = { hidden_activation: 'gelu_pytorch_tanh' };
const FAMILIES: Readonly<Record<GgufArchitecture, Family>> = {
  llama: { modelType: 'llama', className: 'LlamaForCausalLM', activation: SILU },
  qwen2: { modelType: 'qwen2', className: 'Qwen2ForCausalLM', activation: SILU },
  qwen3: { modelType: 'qwen3', className: 'Qwen3ForCausalLM', activation: SILU },
  gemma2: { modelType: 'gemma2', className: 'Gemma2ForCausalLM', activation: GELU },
  gemma3: { modelType: 'gemma3_text', className: 'Gemma3ForCausalLM', activation: GELU },
  phi3: { modelType: 'phi3', className: 'Phi3ForCausalLM', activation: SILU },
  olmo2: { modelType: 'olmo2', className: 'Olmo2ForCausalLM', activation: SILU },
};
/** GGUF calls Mistral llama too; what tells them apart is the window. */
const MISTRAL: Family = { modelType: 'mistral', className: 'MistralForCausalLM', activation: SILU };

/** Rotary factors per head: half the largest head dimension lib/models accepts. */
const MAX_FACTORS = 2048;

/** @throws {LowbitError} CORRUPT_FILE for missing or mistyped keys, UNSUPPORTED for mixtures of experts and unknown rotary scalings */
export async function configFromGguf(architecture: GgufArchitecture, metadata: GgufMetadata, tensors: GgufTensors): Promise<JsonObject> {
  const reader = new Reader(architecture, metadata);
  reader.refuseExperts();
  const window = reader.integer('attention.sliding_window') ?? 0;
  const family = architecture === 'llama' && window > 0 ? MISTRAL : FAMILIES[architecture];
  const hidden = reader.required('embedding_length', reader.integer('embedding_length'));
  const heads = reader.required('attention.head_count', reader.uniformInteger('attention.head_count'));
  const layers = reader.required('block_count', reader.integer('block_count'));
  const headDim = reader.headDim(hidden, heads);
  const embedding = tensors.shapeOf('token_embd.weight');
  if (embedding === undefined)
    throw corruptFile(metadata.file, 'the tensor "token_embd.weight" is missing', { tensor: 'token_embd.weight' });
  return {
    architectures: [family.className],
    model_type: family.modelType,
    vocab_size: embedding[0],
    hidden_size: hidden,
    intermediate_size: reader.required('feed_forward_length', reader.uniformInteger('feed_forward_length')),
    num_hidden_layers: layers,
    num_attention_heads: heads,
    num_key_value_heads: reader.uniformInteger('attention.head_count_kv') ?? heads,
    head_dim: headDim,
    max_position_embeddings: reader.required('context_length', reader.integer('context_length')),
    rms_norm_eps: reader.required('attention.layer_norm_rms_epsilon', reader.number('attention.layer_norm_rms_epsilon')),
    tie_word_embeddings: tensors.shapeOf('output.weight') === undefined,
    ...family.activation,
    ...biases(architecture, tensors),
    ...(await rope(reader, headDim, tensors)),
    ...attention(architecture, reader, { hidden, heads, layers, headDim, window }),
    ...tokenIds(metadata),
  };
}

/** The keys of generation_config.json: where a text begins and which tokens end it. */
export function generationConfigFromGguf(metadata: GgufMetadata): JsonObject {
  const { bos_token_id, eos_token_id } = tokenIds(metadata);
  const ends = new Set<number>();
  if (typeof eos_token_id === 'number') ends.add(eos_token_id);
  for (const key of ['tokenizer.ggml.eot_token_id', 'tokenizer.ggml.eom_token_id']) {
    const id = metadata.integer(key);
    if (id !== undefined) ends.add(id);
  }
  for (const id of turnEnds(metadata)) ends.add(id);
  return {
    ...(bos_token_id === undefined ? {} : { bos_token_id }),
    ...(ends.size === 0 ? {} : { eos_token_id: ends.size === 1 ? [...ends][0] : [...ends] }),
  };
}

/** Control tokens that end a turn of a chat. Many files name only the token that ends a document, and chats would then not stop. */
const TURN_ENDS: ReadonlySet<string> = new Set(['<|eot_id|>', '<|eom_id|>', '<|im_end|>', '<|end|>', '<end_of_turn>', '<|end_of_turn|>']);
const CONTROL = 3;

function turnEnds(metadata: GgufMetadata): number[] {
  const types = metadata.array('tokenizer.ggml.token_type') ?? [];
  const tokens = metadata.strings('tokenizer.ggml.tokens') ?? [];
  return tokens.flatMap((token, id) => (types[id] === CONTROL && TURN_ENDS.has(token) ? [id] : []));
}

function tokenIds(metadata: GgufMetadata): JsonObject {
  const ids: JsonObject = {};
  for (const [hf, gguf] of [
    ['bos_token_id', 'bos_token_id'],
    ['eos_token_id', 'eos_token_id'],
    ['pad_token_id', 'padding_token_id'],
    ['unk_token_id', 'unknown_token_id'],
  ] as const) {
    const id = metadata.integer(`tokenizer.ggml.${gguf}`);
    if (id !== undefined) ids[hf] = id;
  }
  return ids;
}

/** Qwen2 and Phi-3 have no such settings: their biases are fixed by the architecture. */
function biases(architecture: GgufArchitecture, tensors: GgufTensors): JsonObject {
  if (architecture === 'qwen2' || architecture === 'phi3') return {};
  const has = (name: string): boolean => tensors.shapeOf(`blk.0.${name}.bias`) !== undefined;
  return { attention_bias: has('attn_q') || has('attn_output'), ...(architecture === 'llama' ? { mlp_bias: has('ffn_down') } : {}) };
}

interface Sizes {
  readonly hidden: number;
  readonly heads: number;
  readonly layers: number;
  readonly headDim: number;
  readonly window: number;
}

/** Windows, the order of layers, soft caps and the scale of attention. */
function attention(architecture: GgufArchitecture, reader: Reader, sizes: Sizes): JsonObject {
  const { hidden, heads, layers, headDim, window } = sizes;
  if (architecture !== 'gemma2' && architecture !== 'gemma3') return window > 0 ? { sliding_window: window } : {};
  // The largest models of both families scale by hidden / heads, all others by head_dim (their config.json; the file does not say).
  const largest = architecture === 'gemma2' ? 46 : 62;
  const period = reader.integer('attention.sliding_window_pattern') ?? (architecture === 'gemma2' ? 2 : 6);
  const global = (layer: number): boolean => period > 0 && (layer + 1) % period === 0;
  return {
    sliding_window: reader.required('attention.sliding_window', window > 0 ? window : undefined),
    layer_types: Array.from({ length: Math.min(layers, 1024) }, (_, layer) => (global(layer) ? 'full_attention' : 'sliding_attention')),
    query_pre_attn_scalar: layers === largest ? hidden / heads : headDim,
    attn_logit_softcapping: reader.number('attn_logit_softcapping') ?? (architecture === 'gemma2' ? 50 : null),
    final_logit_softcapping: reader.number('final_logit_softcapping') ?? (architecture === 'gemma2' ? 30 : null),
  };
}

async function rope(reader: Reader, headDim: number, tensors: GgufTensors): Promise<JsonObject> {
  const theta = reader.number('rope.freq_base') ?? (reader.architecture === 'gemma3' ? 1e6 : 10000);
  const rotary = reader.integer('rope.dimension_count');
  const share = rotary === undefined || rotary === headDim ? {} : { partial_rotary_factor: rotary / headDim };
  const parameters = { rope_theta: theta, ...share, ...(await ropeScaling(reader, tensors)) };
  const original = reader.integer('rope.scaling.original_context_length');
  const top = original === undefined ? {} : { original_max_position_embeddings: original };
  if (reader.architecture !== 'gemma3') return { rope_parameters: parameters, ...share, ...top };
  // Local layers keep the base they were trained with and are never scaled.
  const local = reader.number('rope.freq_base_swa') ?? 10000;
  return { rope_parameters: { full_attention: parameters, sliding_attention: { rope_theta: local, rope_type: 'default' } } };
}

async function ropeScaling(reader: Reader, tensors: GgufTensors): Promise<JsonObject> {
  const divisors = await tensors.numbersOf('rope_freqs.weight', MAX_FACTORS);
  if (divisors !== undefined) return { rope_type: 'lowbit_divisors', divisors };
  const [short, long] = [
    await tensors.numbersOf('rope_factors_short.weight', MAX_FACTORS),
    await tensors.numbersOf('rope_factors_long.weight', MAX_FACTORS),
  ];
  if (short !== undefined || long !== undefined) {
    const attentionFactor = reader.number('rope.scaling.attn_factor');
    return {
      rope_type: 'longrope',
      short_factor: reader.requiredTensor('rope_factors_short.weight', short),
      long_factor: reader.requiredTensor('rope_factors_long.weight', long),
      ...(attentionFactor === undefined ? {} : { attention_factor: attentionFactor }),
    };
  }
  const type = reader.string('rope.scaling.type') ?? 'none';
  // Files from before rope.scaling.* say it in one key.
  const factor = reader.number('rope.scaling.factor') ?? reader.number('rope.scale_linear');
  if (type === 'none' || factor === undefined || factor <= 0 || (type === 'linear' && factor === 1)) return { rope_type: 'default' };
  if (type === 'linear') return { rope_type: 'linear', factor };
  if (type !== 'yarn') throw reader.unsupported('rope.scaling.type', `"${type}": this version knows linear, yarn and longrope`);
  return { rope_type: 'yarn', factor, ...yarn(reader) };
}

function yarn(reader: Reader): JsonObject {
  const original = reader.required('rope.scaling.original_context_length', reader.integer('rope.scaling.original_context_length'));
  const [fast, slow] = [reader.number('rope.scaling.yarn_beta_fast'), reader.number('rope.scaling.yarn_beta_slow')];
  return {
    original_max_position_embeddings: original,
    ...(fast === undefined ? {} : { beta_fast: fast }),
    ...(slow === undefined ? {} : { beta_slow: slow }),
  };
}

/** Reads keys under the architecture's prefix. */
class Reader {
  constructor(
    readonly architecture: GgufArchitecture,
    private readonly metadata: GgufMetadata,
  ) {}

  integer(key: string): number | undefined {
    return this.metadata.integer(this.full(key));
  }

  uniformInteger(key: string): number | undefined {
    return this.metadata.uniformInteger(this.full(key));
  }

  number(key: string): number | undefined {
    return this.metadata.number(this.full(key));
  }

  string(key: string): string | undefined {
    return this.metadata.string(this.full(key));
  }

  required<T>(key: string, value: T | undefined): T {
    return this.metadata.required(this.full(key), value);
  }

  requiredTensor<T>(name: string, value: T | undefined): T {
    if (value === undefined) throw corruptFile(this.metadata.file, `the tensor "${name}" is missing`, { tensor: name });
    return value;
  }

  headDim(hidden: number, heads: number): number {
    const key = this.integer('attention.key_length');
    const value = this.integer('attention.value_length');
    if (key !== value && value !== undefined && key !== undefined) {
      throw this.unsupported('attention.value_length', `${value}: keys have ${key} dimensions, and this version needs the same for both`);
    }
    const headDim = key ?? value ?? hidden / heads;
    if (!Number.isInteger(headDim)) throw corruptFile(this.metadata.file, `the hidden size ${hidden} is no multiple of ${heads} heads`);
    return headDim;
  }

  refuseExperts(): void {
    const experts = this.integer('expert_count') ?? 0;
    if (experts > 0) throw this.unsupported('expert_count', `${experts}: mixtures of experts are not read by this version`);
  }

  unsupported(key: string, why: string): LowbitError {
    return new LowbitError('UNSUPPORTED', `${this.metadata.file}: ${this.full(key)} is ${why}`, {
      file: this.metadata.file,
      key: this.full(key),
    });
  }

  private full(key: string): string {
    return `${this.architecture}.${key}`;
  }
}
