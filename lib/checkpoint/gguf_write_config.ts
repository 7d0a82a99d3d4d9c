/**
 * checkpoint: config.json as the metadata keys of a GGUF file; the inverse of gguf_config.ts. Reads old and new spellings of the rotary settings.
 * Rotary factors that GGUF keeps as tensors are not here.
 */
import { LowbitError } from '../errors';
import { ggufKey, type GgufKey } from './gguf_keys';
import { type GgufArchitecture, isGgufArchitecture } from './gguf_names';
import { type JsonObject, isObject, own } from './json';
import type { Checkpoint } from './types';

/** model_type -> general.architecture */
const ARCHITECTURES: Readonly<Record<string, string>> = { mistral: 'llama', gemma3_text: 'gemma3' };

/** The architecture whose names and keys hold this model, or undefined when GGUF output does not know it. */
export function ggufArchitecture(config: Readonly<Record<string, unknown>>): GgufArchitecture | undefined {
  const type = config['model_type'];
  if (typeof type !== 'string') return undefined;
  const name = ARCHITECTURES[type] ?? type;
  return isGgufArchitecture(name) ? name : undefined;
}

/** What the keys need beyond config.json. */
export interface ModelFacts {
  readonly vocabSize: number; // rows of the embedding
  readonly headDim: number;
  readonly rotaryDim: number;
}

/** @throws {LowbitError} UNSUPPORTED for settings that GGUF has no place for */
export function configKeys(architecture: GgufArchitecture, checkpoint: Checkpoint, facts: ModelFacts): readonly GgufKey[] {
  const settings = new Settings(checkpoint);
  const u32 = (key: string, value: number): GgufKey => ggufKey.u32(`${architecture}.${key}`, value);
  const f32 = (key: string, value: number): GgufKey => ggufKey.f32(`${architecture}.${key}`, value);
  const heads = settings.number('num_attention_heads');
  return [
    u32('vocab_size', facts.vocabSize),
    u32('context_length', settings.number('max_position_embeddings')),
    u32('embedding_length', settings.number('hidden_size')),
    u32('block_count', settings.number('num_hidden_layers')),
    u32('feed_forward_length', settings.number('intermediate_size')),
    u32('attention.head_count', heads),
    u32('attention.head_count_kv', settings.numberOr('num_key_value_heads', heads)),
    u32('attention.key_length', facts.headDim),
    u32('attention.value_length', facts.headDim),
    f32('attention.layer_norm_rms_epsilon', settings.number('rms_norm_eps')),
    u32('rope.dimension_count', facts.rotaryDim),
    ...ropeKeys(architecture, settings, f32, u32),
    ...attentionKeys(architecture, settings, facts, f32, u32),
  ];
}

type Put = (key: string, value: number) => GgufKey;

function ropeKeys(architecture: GgufArchitecture, settings: Settings, f32: Put, u32: Put): readonly GgufKey[] {
  const rope = settings.rope();
  const theta = f32('rope.freq_base', rope.theta ?? (architecture === 'gemma3' ? 1e6 : 10000));
  const local = settings.localTheta();
  const swa = architecture === 'gemma3' && local !== undefined && local !== 10000 ? [f32('rope.freq_base_swa', local)] : [];
  const text = (value: string): GgufKey => ggufKey.string(`${architecture}.rope.scaling.type`, value);
  const original = rope.original === undefined ? [] : [u32('rope.scaling.original_context_length', rope.original)];
  const base = [theta, ...swa];
  switch (rope.type) {
    case 'default':
    case 'lowbit_divisors': // rope_freqs.weight says it
    case 'llama3':
      return base;
    case 'linear':
      return [...base, text('linear'), f32('rope.scaling.factor', rope.number('factor'))];
    case 'yarn': {
      for (const key of ['attention_factor', 'mscale', 'mscale_all_dim'])
        if (rope.has(key)) throw settings.unsupported(`rope_scaling.${key}`, 'GGUF files have no such setting for yarn');
      const optional = (key: string, name: string): readonly GgufKey[] => (rope.has(key) ? [f32(name, rope.number(key))] : []);
      return [
        ...base,
        text('yarn'),
        f32('rope.scaling.factor', rope.number('factor')),
        ...original,
        ...optional('beta_fast', 'rope.scaling.yarn_beta_fast'),
        ...optional('beta_slow', 'rope.scaling.yarn_beta_slow'),
      ];
    }
    case 'longrope': {
      const context = settings.number('max_position_embeddings');
      const trained = rope.original ?? context;
      // Abdin et al. 2024 (arXiv 2404.14219): attention is scaled by sqrt(1 + ln(s) / ln(trained length)).
      const factor = rope.has('attention_factor')
        ? rope.number('attention_factor')
        : context > trained
          ? Math.sqrt(1 + Math.log(context / trained) / Math.log(trained))
          : 1;
      return [...base, text('longrope'), ...original, f32('rope.scaling.attn_factor', factor)];
    }
    default:
      throw settings.unsupported('rope_scaling', `GGUF files do not hold rotary scaling of the type "${rope.type}"`);
  }
}

function attentionKeys(
  architecture: GgufArchitecture,
  settings: Settings,
  { headDim }: ModelFacts,
  f32: Put,
  u32: Put,
): readonly GgufKey[] {
  const window = settings.numberOr('sliding_window', 0);
  if (architecture !== 'gemma2' && architecture !== 'gemma3') {
    const wanted = architecture === 'phi3' || (window > 0 && settings.slides());
    return wanted ? [u32('attention.sliding_window', window)] : [];
  }
  const layers = settings.number('num_hidden_layers');
  const heads = settings.number('num_attention_heads');
  const scalar = settings.numberOr('query_pre_attn_scalar', headDim);
  const expected = layers === (architecture === 'gemma2' ? 46 : 62) ? settings.number('hidden_size') / heads : headDim;
  if (scalar !== expected)
    throw settings.unsupported('query_pre_attn_scalar', `${scalar}: readers of GGUF take ${expected} for a model of this size`);
  const usual = architecture === 'gemma2' ? 2 : 6;
  const period = settings.layerPeriod(usual);
  const caps = (['attn_logit_softcapping', 'final_logit_softcapping'] as const).flatMap((key) => {
    const cap = settings.numberOr(key, 0);
    return cap > 0 ? [f32(key, cap)] : [];
  });
  return [u32('attention.sliding_window', window), ...(period === usual ? [] : [u32('attention.sliding_window_pattern', period)]), ...caps];
}

/** Typed reading of config.json; meaning was checked when the plan was built. */
class Settings {
  private readonly config: JsonObject;

  constructor(private readonly checkpoint: Checkpoint) {
    this.config = checkpoint.config;
  }

  number(key: string): number {
    const value = own(this.config, key);
    if (typeof value !== 'number') throw this.unsupported(key, `expected a number, found ${JSON.stringify(value)}`);
    return value;
  }

  numberOr(key: string, fallback: number): number {
    const value = own(this.config, key);
    return typeof value === 'number' ? value : fallback;
  }

  /** Qwen files carry a window that is switched off. */
  slides(): boolean {
    return own(this.config, 'use_sliding_window') !== false;
  }

  /** Every how many layers one attends to everything. */
  layerPeriod(usual: number): number {
    const types = own(this.config, 'layer_types');
    if (!Array.isArray(types)) return this.numberOr('sliding_window_pattern', usual);
    const first = types.indexOf('full_attention');
    const fits = (period: number): boolean => types.every((type, i) => (type === 'full_attention') === ((i + 1) % period === 0));
    const period = first < 0 ? (fits(usual) ? usual : types.length + 1) : first + 1;
    if (!fits(period)) throw this.unsupported('layer_types', 'global layers do not come at a regular distance');
    return period;
  }

  rope(): {
    type: string;
    theta: number | undefined;
    original: number | undefined;
    has(key: string): boolean;
    number(key: string): number;
  } {
    const parameters = own(this.config, 'rope_parameters');
    const full = isObject(parameters) ? own(parameters, 'full_attention') : undefined;
    const scaling = own(this.config, 'rope_scaling');
    const found = isObject(full) ? full : isObject(parameters) ? parameters : isObject(scaling) ? scaling : {};
    const read = (key: string): unknown => own(found, key) ?? own(this.config, key);
    const type = own(found, 'rope_type') ?? own(found, 'type') ?? 'default';
    const numberOf = (value: unknown): number | undefined => (typeof value === 'number' ? value : undefined);
    return {
      type: type === 'su' ? 'longrope' : typeof type === 'string' ? type : 'unknown',
      theta: numberOf(read('rope_theta')),
      original: numberOf(read('original_max_position_embeddings')),
      has: (key) => typeof own(found, key) === 'number',
      number: (key) => {
        const value = own(found, key);
        if (typeof value !== 'number') throw this.unsupported(`rope_scaling.${key}`, 'expected a number');
        return value;
      },
    };
  }

  localTheta(): number | undefined {
    const parameters = own(this.config, 'rope_parameters');
    const local = isObject(parameters) ? own(parameters, 'sliding_attention') : undefined;
    const theta = isObject(local) ? own(local, 'rope_theta') : own(this.config, 'rope_local_base_freq');
    return typeof theta === 'number' ? theta : undefined;
  }

  unsupported(key: string, why: string): LowbitError {
    return new LowbitError('UNSUPPORTED', `${this.checkpoint.path}: ${key} cannot be stored in GGUF: ${why}`, {
      file: this.checkpoint.path,
      key,
    });
  }
}
