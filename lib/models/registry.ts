/**
 * models: the list of architectures, and the way from a checkpoint to its plan. Adding one means a file beside this one and a line below.
 */
import type { Checkpoint } from '../checkpoint/types';
import type { Plan } from '../graph/plan';
import { ConfigReader } from './config';
import { type Architecture, Decoder, type PlanOptions } from './decoder';
import { deepseekV3 } from './deepseek_v3';
import { gemma2 } from './gemma2';
import { gemma3 } from './gemma3';
import { gpt2 } from './gpt2';
import { llama } from './llama';
import { mistral } from './mistral';
import { mixtral } from './mixtral';
import { olmo2 } from './olmo2';
import { opt } from './opt';
import { phi3 } from './phi3';
import { qwen2 } from './qwen2';
import { qwen3 } from './qwen3';
import { qwen3Moe } from './qwen3_moe';

export type { PlanOptions } from './decoder';

const ARCHITECTURES: readonly Architecture[] = [
  llama,
  mistral,
  qwen2,
  qwen3,
  gemma2,
  gemma3,
  phi3,
  olmo2,
  gpt2,
  opt,
  mixtral,
  qwen3Moe,
  deepseekV3,
];

/** Names of the supported architectures, as in Plan.architecture. */
export const architectureNames: readonly string[] = ARCHITECTURES.map(({ name }) => name);

/**
 * The plan of a checkpoint. Errors: UNSUPPORTED for an unknown architecture or a feature this version lacks, CORRUPT_FILE for a
 * configuration or tensors that do not fit (details.problems lists all tensors at fault), INVALID_ARGUMENT for contextSize.
 */
export function buildPlan(checkpoint: Checkpoint, options: PlanOptions = {}): Plan {
  const file = ConfigReader.of(checkpoint);
  const architecture = findArchitecture(file);
  const config = file.withAliases(architecture.traits.keys ?? {});
  refuseOtherKinds(config, architecture);
  const model = new Decoder(architecture, checkpoint, config, options);
  architecture.define(model);
  refuseUnreadFeatures(config, architecture);
  return model.finish();
}

function findArchitecture(config: ConfigReader): Architecture {
  const modelType = config.string('model_type');
  const found = ARCHITECTURES.find(({ modelTypes }) => modelTypes.includes(modelType));
  if (found === undefined) throw config.unsupported('model_type', `this version knows ${architectureNames.join(', ')}`);
  return found;
}

const EXPERT_KEYS = ['num_local_experts', 'num_experts', 'n_routed_experts', 'num_experts_per_tok'] as const;
const TOWER_KEYS = ['vision_config', 'text_config', 'audio_config'] as const;

function refuseOtherKinds(config: ConfigReader, { name, traits }: Architecture): void {
  for (const key of EXPERT_KEYS) {
    if (traits.experts !== true && config.has(key)) throw config.unsupported(key, `${name} models here are dense, without experts`);
  }
  for (const key of TOWER_KEYS) {
    if (config.has(key))
      throw config.unsupported(key, 'multimodal checkpoints cannot be run, only text models; use one exported as text only');
  }
}

/** Keys that change what a model computes when set to anything but these values. */
const FEATURES: Readonly<Record<string, readonly unknown[]>> = {
  attention_bias: [false],
  mlp_bias: [false],
  use_bidirectional_attention: [false],
  attn_logit_softcapping: [0],
  final_logit_softcapping: [0],
  use_sliding_window: [false],
  layer_types: [],
};

/** A feature switched on that the definition never asked about would be ignored in silence, so it is refused instead. */
function refuseUnreadFeatures(config: ConfigReader, architecture: Architecture): void {
  for (const [key, neutral] of Object.entries(FEATURES)) {
    if (config.wasRead(key)) continue;
    const value = config.raw(key);
    if (value === undefined || neutral.includes(value)) continue;
    if (key === 'layer_types' && Array.isArray(value) && value.every((type) => type === 'full_attention')) continue;
    throw config.unsupported(key, `${architecture.name} models here do not have it`);
  }
}
