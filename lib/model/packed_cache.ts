/** Where the packed-weight cache of a model lies. The engine reads, checks and writes it (cpp/engine/packed_cache.h). */
import { createHash } from 'node:crypto';
import { mkdir } from 'node:fs/promises';
import path from 'node:path';
import type { Checkpoint } from '../checkpoint/types';
import type { HeadBits } from '../models';

/**
 * `true`: beside the weights, `<file>.lowbit-packed` for a GGUF file and `model.lowbit-packed` in a checkpoint directory. A string: in
 * that folder, which is made, under a name that carries a hash of the model's absolute path. Another width of the head is another file,
 * so that loads with different options do not push each other out.
 */
export async function packedCachePath(
  model: string,
  kind: Checkpoint['kind'],
  option: boolean | string | undefined,
  lmHeadBits: HeadBits,
): Promise<string | undefined> {
  if (option === undefined || option === false) return undefined;
  const absolute = path.resolve(model);
  const ending = `${lmHeadBits === 16 ? '' : `.head${lmHeadBits}`}.lowbit-packed`;
  if (option === true) return kind === 'gguf' ? absolute + ending : path.join(absolute, `model${ending}`);
  const folder = path.resolve(option);
  await mkdir(folder, { recursive: true }).catch(() => undefined); // the engine says why it cannot write there
  const key = createHash('sha256').update(absolute).digest('hex').slice(0, 16);
  return path.join(folder, `${path.basename(absolute)}-${key}${ending}`);
}
