/**
 * models: rotary position tables. Reads both the old keys (rope_theta, rope_scaling) and the new ones (rope_parameters, flat or
 * per layer type), and applies the scaling. No rotation happens here.
 *
 * The table holds inverse frequencies f_i, i = 0 .. rotaryDim/2 - 1; unscaled f_i = theta^(-2i/rotaryDim) (RoFormer, arXiv 2104.09864).
 */
import { invalidArgument } from '../errors';
import type { RopeTable } from '../graph/plan';
import type { ConfigReader, NumberRange } from './config';
import { LIMITS } from './config';

/** Above 1, because yarn divides by its logarithm. */
const THETA: NumberRange = { min: 2, max: 1e12 };
const FACTOR: NumberRange = { min: 1, max: 65536 };
/** Divisors may lie on both sides of 1 (LongRoPE); zero would make a frequency infinite. */
const DIVISOR: NumberRange = { min: 1e-6, max: 1e9 };
const BETA: NumberRange = { min: 1e-6, max: 1e6 };
const MSCALE: NumberRange = { min: 1e-6, max: 1e6 };

export interface RopeRequest {
  readonly headDim: number;
  /** Base frequency when the configuration names none. */
  readonly defaultTheta: number;
  /** Picks the entry of a per-layer-type rope_parameters: "full_attention", "sliding_attention". */
  readonly layerType?: string;
  /** Old configurations of models with two tables keep the second base in a key of its own, unscaled: rope_local_base_freq. */
  readonly oldThetaKey?: string;
  /** Plan.maxSeqLen, on which the tables of longrope and dynamic depend. */
  readonly contextSize: number;
}

interface RopeInputs {
  readonly scaling: ConfigReader | undefined;
  readonly theta: number;
  readonly rotaryDim: number;
  readonly contextSize: number;
  /** max_position_embeddings. */
  readonly maxContext: number;
  readonly originalContext: number;
}

/**
 * The table of one kind of layer.
 *
 * Types: default, linear, dynamic, llama3, yarn, longrope (old name su), and lowbit_divisors: f_i / divisors[i], how the GGUF reader
 * hands over rope_freqs.weight. Throws UNSUPPORTED for others and CORRUPT_FILE for bad parameters.
 */
export function readRope(config: ConfigReader, request: RopeRequest): RopeTable {
  const parameters = ropeParameters(config, request.layerType);
  // A second table of an old configuration takes its base from its own key and is never scaled.
  const unscaled = parameters === undefined && request.oldThetaKey !== undefined;
  const scaling = parameters ?? (unscaled ? undefined : config.object('rope_scaling'));
  const topTheta = config.number(request.oldThetaKey ?? 'rope_theta', THETA, request.defaultTheta);
  const theta = parameters?.number('rope_theta', THETA, topTheta) ?? topTheta;
  const share = config.number('partial_rotary_factor', { min: 0, max: 1 }, 1);
  // A share such as 80/96 must not lose its last dimension to rounding.
  const rotaryDim = Math.floor(request.headDim * (parameters?.number('partial_rotary_factor', { min: 0, max: 1 }, share) ?? share) + 1e-6);
  if (rotaryDim < 2 || rotaryDim % 2 !== 0) {
    throw config.corrupt(
      'head_dim',
      `Expected even number of rotary dimensions but ${config.file} gives ${rotaryDim} of head_dim ${request.headDim}`,
    );
  }
  const maxContext = config.integer('max_position_embeddings', LIMITS.context);
  const originalContext = originalContextOf(config, scaling, maxContext);
  return scaled({ scaling, theta, rotaryDim, contextSize: request.contextSize, maxContext, originalContext });
}

/**
 * Plan.maxSeqLen. `requested` is the context the caller wants, undefined when it did not say.
 *
 * longrope and dynamic have one table up to the trained length and others beyond; cached keys cannot change tables, so the choice is
 * made once, here: the trained length unless more is asked for. All other types have one table for every length.
 * Throws INVALID_ARGUMENT when `requested` exceeds what the model can do.
 */
export function resolveContext(config: ConfigReader, requested: number | undefined): number {
  const maxContext = config.integer('max_position_embeddings', LIMITS.context);
  const scaling = ropeParameters(config, 'full_attention') ?? config.object('rope_scaling');
  const type = scaling === undefined ? 'default' : ropeType(scaling);
  const original = Math.min(maxContext, originalContextOf(config, scaling, maxContext));
  // max_position_embeddings is the stretched length, except where a user switches yarn or dynamic on and leaves it as trained.
  const stretches = type === 'dynamic' || (type === 'yarn' && scaling?.has('original_max_position_embeddings') === true);
  const reach = stretches ? Math.floor((scaling?.number('factor', FACTOR) ?? 1) * original) : maxContext;
  const limit = Math.min(Math.max(maxContext, reach), LIMITS.context.max);
  if (requested !== undefined && !(Number.isSafeInteger(requested) && requested >= 1 && requested <= limit)) {
    throw invalidArgument('contextSize', `integer between 1 and ${limit}`, requested);
  }
  if (type !== 'longrope' && type !== 'dynamic') return limit;
  if (requested === undefined || requested <= original) return original;
  return type === 'longrope' ? limit : requested;
}

/** rope_parameters: flat, or one object per layer type. */
function ropeParameters(config: ConfigReader, layerType: string | undefined): ConfigReader | undefined {
  const parameters = config.object('rope_parameters');
  if (parameters === undefined || layerType === undefined) return parameters;
  const nested = ['full_attention', 'sliding_attention'].some((name) => parameters.has(name));
  if (!nested) return parameters;
  const own = parameters.object(layerType);
  if (own === undefined) throw parameters.expected('object', layerType, undefined);
  return own;
}

function originalContextOf(config: ConfigReader, scaling: ConfigReader | undefined, maxContext: number): number {
  const top = config.integer('original_max_position_embeddings', LIMITS.context, maxContext);
  return scaling?.integer('original_max_position_embeddings', LIMITS.context, top) ?? top;
}

function ropeType(scaling: ConfigReader): string {
  const type = scaling.string('rope_type', scaling.string('type', 'default'));
  return type === 'su' ? 'longrope' : type;
}

function scaled(inputs: RopeInputs): RopeTable {
  const { scaling, theta, rotaryDim } = inputs;
  if (scaling === undefined) return { inverseFrequencies: frequencies(theta, rotaryDim), scale: 1 };
  const type = ropeType(scaling);
  switch (type) {
    case 'default':
      return { inverseFrequencies: frequencies(theta, rotaryDim), scale: 1 };
    case 'linear': {
      const factor = scaling.number('factor', FACTOR);
      return { inverseFrequencies: frequencies(theta, rotaryDim).map((f) => f / factor), scale: 1 };
    }
    case 'dynamic':
      return dynamic(inputs, scaling);
    case 'llama3':
      return llama3(inputs, scaling);
    case 'yarn':
      return yarn(inputs, scaling);
    case 'longrope':
      return longrope(inputs, scaling);
    case 'lowbit_divisors':
      return divided(frequencies(theta, rotaryDim), divisors(scaling, 'divisors', rotaryDim), 1);
    default:
      throw scaling.unsupported(
        scaling.has('rope_type') ? 'rope_type' : 'type',
        'this version knows default, linear, dynamic, llama3, yarn and longrope',
      );
  }
}

function frequencies(theta: number, rotaryDim: number): Float64Array {
  return Float64Array.from({ length: rotaryDim / 2 }, (_, i) => theta ** ((-2 * i) / rotaryDim));
}

function divisors(scaling: ConfigReader, key: string, rotaryDim: number): readonly number[] {
  const values = scaling.numbers(key, rotaryDim / 2, DIVISOR);
  if (values === undefined) throw scaling.expected(`array of ${rotaryDim / 2} numbers`, key, undefined);
  return values;
}

function divided(base: Float64Array, by: readonly number[], scale: number): RopeTable {
  return { inverseFrequencies: base.map((f, i) => f / (by[i] ?? 1)), scale };
}

/** NTK-aware base for contexts beyond the trained length; transformers recomputes it as a text grows, we fix it for the context asked for. */
function dynamic({ theta, rotaryDim, contextSize, originalContext }: RopeInputs, scaling: ConfigReader): RopeTable {
  const factor = scaling.number('factor', FACTOR);
  const stretch = contextSize > originalContext ? (factor * contextSize) / originalContext - (factor - 1) : 1;
  // With two rotary dimensions there is a single frequency, theta^0 = 1, whatever the base.
  const base = rotaryDim > 2 ? theta * stretch ** (rotaryDim / (rotaryDim - 2)) : theta;
  return { inverseFrequencies: frequencies(base, rotaryDim), scale: 1 };
}

/** Llama 3.1: long wavelengths are divided by factor, short ones kept, a linear blend between. */
function llama3({ theta, rotaryDim, originalContext }: RopeInputs, scaling: ConfigReader): RopeTable {
  const factor = scaling.number('factor', FACTOR);
  if (!scaling.has('original_max_position_embeddings')) {
    throw scaling.expected('integer', 'original_max_position_embeddings', undefined);
  }
  const low = scaling.number('low_freq_factor', BETA);
  const high = scaling.number('high_freq_factor', BETA);
  if (!(high > low)) throw scaling.expected(`number above low_freq_factor (${low})`, 'high_freq_factor', high);
  const scaledFrequency = (f: number): number => {
    const wavelength = (2 * Math.PI) / f;
    if (wavelength < originalContext / high) return f;
    if (wavelength > originalContext / low) return f / factor;
    const blend = (originalContext / wavelength - low) / (high - low);
    return ((1 - blend) * f) / factor + blend * f;
  };
  return { inverseFrequencies: frequencies(theta, rotaryDim).map(scaledFrequency), scale: 1 };
}

/** YaRN (arXiv 2309.00071): fast pairs keep their frequency, slow ones are interpolated; attention is sharpened by `scale`. */
function yarn({ theta, rotaryDim, originalContext }: RopeInputs, scaling: ConfigReader): RopeTable {
  const factor = scaling.number('factor', FACTOR);
  const betaFast = scaling.number('beta_fast', BETA, 32);
  const betaSlow = scaling.number('beta_slow', BETA, 1);
  const truncate = scaling.boolean('truncate', true);
  // The pair that makes `turns` full turns over the trained context.
  const pairOf = (turns: number): number => (rotaryDim * Math.log(originalContext / (2 * Math.PI * turns))) / (2 * Math.log(theta));
  const low = Math.max(0, truncate ? Math.floor(pairOf(betaFast)) : pairOf(betaFast));
  const high = Math.min(rotaryDim - 1, truncate ? Math.ceil(pairOf(betaSlow)) : pairOf(betaSlow));
  const width = Math.max(high - low, 0.001);
  const blended = frequencies(theta, rotaryDim).map((f, i) => {
    const ramp = Math.min(1, Math.max(0, (i - low) / width));
    return (f / factor) * ramp + f * (1 - ramp);
  });
  return { inverseFrequencies: blended, scale: yarnScale(factor, scaling) };
}

/**
 * What DeepSeek multiplies attention scores by beside 1 / sqrt(head_dim): the square of yarn's magnitude for mscale_all_dim, 1 where the
 * configuration names neither a scaling nor that key.
 */
export function yarnTemperature(config: ConfigReader): number {
  const scaling = ropeParameters(config, undefined) ?? config.object('rope_scaling');
  if (scaling === undefined || ropeType(scaling) === 'default' || !scaling.has('mscale_all_dim') || scaling.raw('mscale_all_dim') === 0)
    return 1;
  return yarnMagnitude(scaling.number('factor', FACTOR), scaling.number('mscale_all_dim', MSCALE)) ** 2;
}

const yarnMagnitude = (factor: number, mscale: number): number => (factor <= 1 ? 1 : 0.1 * mscale * Math.log(factor) + 1);

function yarnScale(factor: number, scaling: ConfigReader): number {
  const magnitude = (mscale: number): number => yarnMagnitude(factor, mscale);
  if (scaling.has('attention_factor')) return scaling.number('attention_factor', MSCALE);
  // A zero mscale means "not given", as in transformers.
  const given = (key: string): boolean => scaling.has(key) && scaling.raw(key) !== 0;
  if (given('mscale') && given('mscale_all_dim')) {
    return magnitude(scaling.number('mscale', MSCALE)) / magnitude(scaling.number('mscale_all_dim', MSCALE));
  }
  return magnitude(1);
}

/** LongRoPE (arXiv 2402.13753) as Phi-3 uses it: one set of divisors up to the trained length, another beyond. */
function longrope({ theta, rotaryDim, contextSize, maxContext, originalContext }: RopeInputs, scaling: ConfigReader): RopeTable {
  // Both sets are checked, so that a bad file fails the same way whatever context is asked for.
  const short = divisors(scaling, 'short_factor', rotaryDim);
  const long = divisors(scaling, 'long_factor', rotaryDim);
  // Only a configuration that names both lengths tells how far the model was stretched.
  const factor = originalContext === maxContext ? scaling.number('factor', FACTOR, 1) : maxContext / originalContext;
  const scale = factor <= 1 || originalContext <= 1 ? 1 : Math.sqrt(1 + Math.log(factor) / Math.log(originalContext));
  const chosen = contextSize > originalContext ? long : short;
  return divided(frequencies(theta, rotaryDim), chosen, scaling.number('attention_factor', MSCALE, scale));
}
