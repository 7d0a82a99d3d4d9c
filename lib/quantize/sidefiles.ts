/**
 * lib/quantize: the small files beside the weights. From a Hugging Face directory they are carried over byte for byte, by an allow-list:
 * never weights, never code. From GGUF they are rebuilt from what its metadata holds.
 */
import { readFile, stat, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { carriedFiles } from '../checkpoint/carried_files';
import { LowbitError } from '../errors';
import type { Checkpoint } from '../checkpoint/types';
import { configText, editConfigText } from './config';

/** The largest tokenizer files known are about 35 MB; anything beyond this is not what its name says. */
const maxSideFileBytes = 256 * 2 ** 20;

export interface SideFile {
  readonly name: string;
  readonly from: string; // absolute; symbolic links are followed when copied
  readonly bytes: number;
}

/** Side files that the source directory has. */
export async function findSideFiles(checkpoint: Checkpoint): Promise<SideFile[]> {
  if (checkpoint.kind === 'gguf') return [];
  const found: SideFile[] = [];
  for (const name of carriedFiles) {
    const from = path.resolve(checkpoint.path, name);
    const stats = await stat(from).catch(() => undefined);
    if (stats === undefined || !stats.isFile()) continue;
    if (stats.size > maxSideFileBytes) {
      throw new LowbitError(
        'CORRUPT_FILE',
        `${from} has ${stats.size} bytes; a file of this name is expected to have at most ${maxSideFileBytes}`,
        { file: from },
      );
    }
    found.push({ name, from, bytes: stats.size });
  }
  return found;
}

/**
 * Writes config.json, quantize_config.json, tokenizer, template and generation settings into `directory`.
 *
 * @param quantization undefined: the output is not quantised, and what config.json says of it goes
 * @param changes other keys of config.json to set, undefined to remove
 */
export async function writeSideFiles(
  directory: string,
  checkpoint: Checkpoint,
  sideFiles: readonly SideFile[],
  quantization: Record<string, unknown> | undefined,
  changes: Readonly<Record<string, unknown>> = {},
): Promise<void> {
  const write = (name: string, text: string): Promise<void> => writeFile(path.join(directory, name), text);
  if (quantization !== undefined) await write('quantize_config.json', printed(quantization));
  if (checkpoint.kind === 'hf') {
    const file = path.resolve(checkpoint.path, 'config.json');
    await write('config.json', editConfigText(await readFile(file, 'utf8'), { ...changes, quantization_config: quantization }, file));
    // Bytes, not copyFile: a read-only source must not make a read-only output.
    for (const { name, from } of sideFiles) await writeFile(path.join(directory, name), await readFile(from));
    return;
  }
  // GGUF says nothing of it, and the default of other readers would be F32; in BF16 no activation can overflow.
  await write('config.json', configText({ torch_dtype: 'bfloat16', ...checkpoint.config, ...changes }, quantization));
  await write('tokenizer_config.json', printed(checkpoint.tokenizerConfig));
  if (checkpoint.tokenizerJson) await write('tokenizer.json', printed(checkpoint.tokenizerJson));
  if (checkpoint.chatTemplate !== undefined) await write('chat_template.jinja', checkpoint.chatTemplate);
  if (Object.keys(checkpoint.generationConfig).length > 0) await write('generation_config.json', printed(checkpoint.generationConfig));
}

/** As a JSON text; a Map (a rebuilt vocabulary) as an object. */
function printed(value: unknown): string {
  const plain = (_: string, item: unknown): unknown => (item instanceof Map ? Object.fromEntries(item) : item);
  return `${JSON.stringify(value, plain, 2)}\n`;
}
