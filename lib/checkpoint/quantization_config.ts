/**
 * checkpoint: which method quantised a Hugging Face checkpoint, and its settings. One reader per method that is read; the others are
 * named in the error with what to do.
 */
import { type AwqConfig, readAwqConfig } from './awq_config';
import { type CompressedTensorsConfig, readCompressedTensorsConfig } from './compressed_tensors_config';
import { type GptqConfig, readGptqConfig } from './gptq_config';
import { isObject, own } from './json';
import { type LowbitConfig, readLowbitConfig } from './lowbit_config';
import { SettingsReader, badSetting } from './settings_reader';

export type QuantizationConfig = GptqConfig | AwqConfig | CompressedTensorsConfig | LowbitConfig;

/** quant_method -> what such a checkpoint is called and, where there is a better way than another model, what to do. */
const OTHER_METHODS: Readonly<Record<string, readonly [what: string, instead?: string]>> = {
  aqlm: ['an AQLM checkpoint'],
  'auto-round': ['an AutoRound checkpoint', 'export it with format="auto_gptq" (symmetric) or "auto_awq"'],
  bitnet: ['a BitNet checkpoint', 'use a GGUF file of types TQ1_0 or TQ2_0'],
  bitsandbytes: ['a bitsandbytes checkpoint', 'quantise the unquantised model with lowbit, or use a GPTQ or AWQ version'],
  eetq: ['an EETQ checkpoint'],
  exl2: ['an EXL2 checkpoint of ExLlamaV2'],
  exl3: ['an EXL3 checkpoint of ExLlamaV3'],
  fbgemm_fp8: ['an FP8 checkpoint (FBGEMM)'],
  fp8: ['an FP8 checkpoint'],
  fp_quant: ['an FP-Quant checkpoint'],
  higgs: ['a HIGGS checkpoint'],
  hqq: ['an HQQ checkpoint', 'quantise the unquantised model with lowbit, or use a GPTQ or AWQ version'],
  modelopt: ['a TensorRT Model Optimizer checkpoint'],
  mxfp4: ['an MXFP4 checkpoint', 'use a BF16 version of the model'],
  quanto: ['a Quanto checkpoint'],
  quark: ['a Quark checkpoint'],
  quip: ['a QuIP# checkpoint'],
  sinq: ['a SINQ checkpoint'],
  spqr: ['an SpQR checkpoint'],
  torchao: ['a torchao checkpoint'],
  vptq: ['a VPTQ checkpoint'],
};

/** Old exporters know neither key nor format: their tensors say it. Suffix of a tensor -> what it belongs to. */
const FOREIGN_TENSORS: readonly (readonly [suffix: RegExp, what: string])[] = [
  [/\.weight\.quant_state\.bitsandbytes__(nf4|fp4)$|\.(SCB|weight_format)$/, 'a bitsandbytes checkpoint'],
  [/\.q_weight$/, 'an EXL2 checkpoint of ExLlamaV2'],
  [/\.trellis$/, 'an EXL3 checkpoint of ExLlamaV3'],
  [/\.W_q$/, 'an HQQ checkpoint'],
  [/\.codebooks$/, 'an AQLM checkpoint'],
  [/\.weight_scale_inv$/, 'an FP8 checkpoint'],
  [/_blocks$/, 'an MXFP4 checkpoint'],
];

/**
 * The settings in `config.quantization_config`; undefined when the checkpoint is not quantised.
 *
 * @param config Checkpoint.config
 * @param file for messages: the checkpoint's path
 * @throws {LowbitError} UNSUPPORTED for methods and layouts that are not read, CORRUPT_FILE for bad values
 */
export function parseQuantizationConfig(config: Readonly<Record<string, unknown>>, file = 'config.json'): QuantizationConfig | undefined {
  const raw = own(config, 'quantization_config') ?? undefined;
  if (raw === undefined) return undefined;
  if (!isObject(raw)) throw badSetting(file, 'quantization_config', 'an object', raw);
  const reader = new SettingsReader(raw, file);
  const method = reader.string(['quant_method', 'method']) ?? (raw['config_groups'] === undefined ? 'gptq' : 'compressed-tensors');
  if (method === 'gptq') return readGptqConfig(reader);
  if (method === 'awq') return readAwqConfig(reader);
  if (method === 'lowbit') return readLowbitConfig(reader);
  if (method === 'compressed-tensors') return readCompressedTensorsConfig(reader);
  const [what, instead] = (Object.hasOwn(OTHER_METHODS, method) ? OTHER_METHODS[method] : undefined) ?? [
    `weights quantised by "${method.slice(0, 60)}"`,
  ];
  throw reader.unsupported(what, instead);
}

/** What a checkpoint without quantization_config is by the names of its tensors: "an HQQ checkpoint"; undefined when nothing is known. */
export function foreignByTensors(names: Iterable<string>): string | undefined {
  for (const name of names) for (const [suffix, what] of FOREIGN_TENSORS) if (suffix.test(name)) return what;
  return undefined;
}
