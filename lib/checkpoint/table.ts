/**
 * checkpoint: a Checkpoint from its parts. The readers (hf.ts, gguf.ts) fill it; nothing is read here.
 */
import { corruptFile } from './files';
import type { Checkpoint, TensorEntry } from './types';

/** Name -> index into the table. CORRUPT_FILE when a name stands in it twice. */
export function indexByName(tensors: readonly TensorEntry[], files: readonly string[]): ReadonlyMap<string, number> {
  const index = new Map<string, number>();
  tensors.forEach((tensor, i) => {
    const earlier = index.get(tensor.name);
    if (earlier !== undefined) {
      const first = files[(tensors[earlier] as TensorEntry).file];
      const file = files[tensor.file] as string;
      throw corruptFile(file, `the tensor "${tensor.name}" stands ${first === file ? 'in it twice' : `also in ${first}`}`, {
        tensor: tensor.name,
      });
    }
    index.set(tensor.name, i);
  });
  return index;
}

/** The checks that all formats share: no two tensors of a file share a byte. `tensors` of one file, any order. */
export function checkOverlap(tensors: readonly TensorEntry[], file: string): void {
  const sorted = tensors.filter(({ bytes }) => bytes > 0).sort((a, b) => a.offset - b.offset);
  for (let i = 1; i < sorted.length; i++) {
    const [before, here] = [sorted[i - 1] as TensorEntry, sorted[i] as TensorEntry];
    if (before.offset + before.bytes > here.offset) {
      throw corruptFile(file, `the tensors "${before.name}" and "${here.name}" overlap`, { tensor: here.name });
    }
  }
}

export type CheckpointParts = Omit<Checkpoint, 'find'>;

export function makeCheckpoint(parts: CheckpointParts, find: (hfName: string) => number | undefined): Checkpoint {
  return Object.freeze({ ...parts, find });
}
