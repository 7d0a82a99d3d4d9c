/**
 * checkpoint: the quantisation settings of an AWQ checkpoint as AutoAWQ, GPTQModel and transformers write them. Only the "GEMM" layout is
 * read (docs/formats.md); the others hold the same codes in another order under the same tensor names.
 */
import type { SettingsReader } from './settings_reader';

export interface AwqConfig {
  readonly method: 'awq';
  readonly bits: 4;
  /** Columns per scale; -1 = whole row. */
  readonly groupSize: number;
  /** Whether linear `name` (without ".weight") is packed: false for those that modules_to_not_convert names, and for the head. */
  packs(name: string): boolean;
}

/** @throws {LowbitError} UNSUPPORTED for other layouts and widths, CORRUPT_FILE for bad values */
export function readAwqConfig(reader: SettingsReader): AwqConfig {
  const version = (reader.string(['version', 'format', 'checkpoint_format']) ?? 'gemm').toLowerCase();
  const backend = reader.string(['backend']) ?? 'autoawq';
  if (version !== 'gemm') {
    throw reader.unsupported(
      `AWQ weights in the layout "${version.slice(0, 60)}"`,
      'use a version of the model in the layout "gemm" (AutoAWQ: quant_config version "GEMM")',
    );
  }
  if (backend === 'llm-awq') {
    throw reader.unsupported('AWQ weights in the layout of llm-awq', 'use a version of the model that AutoAWQ wrote in the layout "gemm"');
  }
  const bits = reader.raw(['bits', 'w_bit']) ?? 4;
  if (typeof bits !== 'number' || !Number.isInteger(bits)) throw reader.bad('bits', '4', bits);
  if (bits !== 4) throw reader.unsupported(`AWQ weights of ${bits} bits`, 'AWQ files of 4 bits are read');
  // The tools match these as parts of a name; the head is never packed.
  const kept = reader.strings('modules_to_not_convert');
  return {
    method: 'awq',
    bits: 4,
    groupSize: reader.groupSize(['group_size', 'q_group_size'], 128),
    packs: (name) => name !== 'lm_head' && !kept.some((part) => name.includes(part)),
  };
}
