/**
 * lib/quantize: the tensors that are not quantised: which there are, and their bytes as the source has them, for any output.
 * Solved linears and file formats are those of outputs/.
 *
 * A Hugging Face source is copied byte for byte in its own dtypes, biases of quantised linears included. A GGUF source stores other
 * names, block types and conventions, so the engine reads the tensors back in those of Hugging Face: matrices as BF16, vectors as F32.
 */
import { RESERVED_BYTES, SMALL_SHARD_BYTES } from '../checkpoint/safetensors_writer';
import { readExactly, withFile } from '../checkpoint/files';
import type { Checkpoint, TensorEntry } from '../checkpoint/types';
import type { Plan } from '../graph/plan';
import { native, runJob, throwIfAborted, type ModelHandle } from '../native';
import type { Target } from './layout';
import { reordered } from './outputs/gguf_tensors';
import type { OutputSource } from './outputs';

/** Bytes held at a time; large enough for a disk's full speed, small enough beside the memory of a solve and to stop soon after an abort. */
const pieceBytes = 16 * 2 ** 20;

/** A tensor that is not quantised. */
export interface DenseTensor {
  readonly name: string;
  readonly dtype: string;
  readonly shape: readonly number[];
  readonly bytes: number;
  readonly from:
    | { readonly kind: 'file'; readonly entry: TensorEntry }
    | { readonly kind: 'weight'; readonly weight: number }
    | { readonly kind: 'vector'; readonly vector: number }
    /**
     * A weight in another type (NativeBinding.encodeWeight), row i being its row order[i]. `whole`: its rows cannot be had a few at a time. `transposed`: as
     * [k, n], whole too.
     */
    | {
        readonly kind: 'encoded';
        readonly weight: number;
        readonly order: Int32Array | undefined;
        readonly whole: boolean;
        readonly transposed?: boolean;
      }
    /** A vector as the engine holds it, addend included, which is how GGUF files store norms. */
    | { readonly kind: 'stored'; readonly vector: number; readonly order: Int32Array | undefined }
    | { readonly kind: 'values'; readonly values: Float32Array };
}

/** Every tensor of the output that is not one of a quantised linear. */
export function denseTensors(checkpoint: Checkpoint, plan: Plan, targets: ReadonlyMap<number, Target>): readonly DenseTensor[] {
  if (checkpoint.kind === 'hf') {
    const replaced = new Set([...targets.keys()].map((weight) => sourceTensor(plan, weight)));
    return checkpoint.tensors.flatMap((entry, index) =>
      replaced.has(index)
        ? []
        : [{ name: entry.name, dtype: entry.dtype, shape: entry.shape, bytes: entry.bytes, from: { kind: 'file' as const, entry } }],
    );
  }
  const weights = plan.weights.flatMap(({ name, n, k }, weight): readonly DenseTensor[] =>
    targets.has(weight)
      ? []
      : [{ name: `${name}.weight`, dtype: 'BF16', shape: [n, k], bytes: n * k * 2, from: { kind: 'weight', weight } }],
  );
  const vectors = plan.vectors.map(({ name, length }, vector): DenseTensor => ({
    // As those of weights, names of norms are without ".weight"; only biases have their suffix.
    name: name.endsWith('.bias') ? name : `${name}.weight`,
    dtype: 'F32',
    shape: [length],
    bytes: length * 4,
    from: { kind: 'vector', vector },
  }));
  return [...weights, ...vectors];
}

/** An entry of a safetensors header beside the name of its tensor: dtype, two dimensions, two offsets. */
const entryBytes = 110;

/** What safetensors files of about `total` bytes take beside tensors, at most, when each target becomes `parts` tensors. */
export function safetensorsOverhead(
  { targets, dense, options }: Pick<OutputSource, 'targets' | 'dense' | 'options'>,
  parts: number,
  total: number,
): number {
  const bytes = (name: string): number => Buffer.byteLength(name) + entryBytes;
  const solved = [...targets.values()].reduce((sum, { name }) => sum + parts * (bytes(name) + '.0.scales'.length), 0);
  const header = solved + dense.reduce((sum, { name }) => sum + bytes(name), 0);
  const files = Math.ceil(total / options.maxShardBytes);
  return header + files * (total <= SMALL_SHARD_BYTES ? 1024 : 1024 + RESERVED_BYTES);
}

function sourceTensor(plan: Plan, weight: number): number | undefined {
  const source = plan.weights[weight]?.source;
  return source?.kind === 'tensor' ? source.tensor : undefined;
}

export interface DenseRun {
  readonly checkpoint: Checkpoint;
  readonly model: ModelHandle;
  readonly signal: AbortSignal | undefined;
  /** Bytes done of all. */
  readonly onProgress: (done: number, total: number) => void;
  /** Of encoded tensors, as often as pieces of them come: sums of squared differences and of squares. */
  readonly onEncoded?: (error: number, norm: number) => void;
}

/** The bytes of a tensor in order, in pieces of whole rows or whole elements. */
export type Pieces = AsyncIterable<ArrayBufferView>;

/** Reads tensors one after the other and hands each to `add` before the next; `add` takes all pieces. @throws {LowbitError} IO, CANCELLED, what `add` throws */
export async function writeDense(
  tensors: readonly DenseTensor[],
  add: (tensor: DenseTensor, pieces: Pieces) => Promise<void>,
  run: DenseRun,
): Promise<void> {
  const total = tensors.reduce((sum, { bytes }) => sum + bytes, 0);
  let done = 0;
  for (const tensor of tensors) {
    await add(
      tensor,
      readTensor(tensor, run, (bytes) => run.onProgress(done + bytes, total)),
    );
    done += tensor.bytes;
  }
  run.onProgress(total, total);
}

/** The bytes of a tensor in pieces: an embedding can be larger than everything else in memory. */
export async function* readTensor(
  tensor: DenseTensor,
  run: DenseRun,
  onProgress: (bytes: number) => void,
): AsyncGenerator<ArrayBufferView> {
  const { checkpoint, model, signal } = run;
  const { from, bytes } = tensor;
  throwIfAborted(signal);
  if (from.kind === 'vector') {
    yield hfVector(checkpoint, tensor.name, native().exportVector(model, from.vector));
  } else if (from.kind === 'values') {
    yield from.values;
  } else if (from.kind === 'stored') {
    yield reordered(native().exportVector(model, from.vector), from.order);
  } else if (from.kind === 'encoded') {
    yield* encodedRows(tensor, from, run, onProgress);
  } else if (from.kind === 'weight') {
    const [n, k] = tensor.shape as readonly [number, number];
    const rows = Math.max(1, Math.floor(pieceBytes / (2 * k)));
    for (let begin = 0; begin < n; begin += rows) {
      const end = Math.min(n, begin + rows);
      yield await runJob({ signal }, (control) => native().exportWeight(model, from.weight, { begin, end }, control));
      onProgress(2 * k * end);
    }
  } else {
    const file = checkpoint.files[from.entry.file] as string;
    for (let at = 0; at < bytes; at += pieceBytes) {
      throwIfAborted(signal);
      yield await withFile(file, (handle) => readExactly(handle, file, from.entry.offset + at, Math.min(pieceBytes, bytes - at)));
      onProgress(Math.min(bytes, at + pieceBytes));
    }
  }
}

async function* encodedRows(
  { dtype, shape, bytes }: DenseTensor,
  { weight, order, whole, transposed }: Extract<DenseTensor['from'], { kind: 'encoded' }>,
  { model, signal, onEncoded }: DenseRun,
  onProgress: (bytes: number) => void,
): AsyncGenerator<ArrayBufferView> {
  const [n, k] = (transposed === true ? [...shape].reverse() : shape) as readonly [number, number];
  // What the engine holds of a piece is f32. Rows begin with panels of 16.
  const rows = whole || transposed === true ? n : Math.max(16, Math.floor(pieceBytes / (4 * k) / 16) * 16);
  for (let begin = 0; begin < n; begin += rows) {
    const end = Math.min(n, begin + rows);
    const encoded = await runJob({ signal }, (control) => native().encodeWeight(model, weight, { dtype, begin, end }, control));
    onEncoded?.(encoded.error, encoded.norm);
    yield transposed === true ? transpose(encoded.bytes, n, k) : reordered(encoded.bytes, order);
    onProgress((bytes / n) * end);
  }
}

/** [n, k] -> [k, n], elements of 2 or 4 bytes. */
function transpose(bytes: Uint8Array, n: number, k: number): Uint8Array {
  const size = bytes.length / (n * k);
  const out = new Uint8Array(bytes.length);
  for (let row = 0; row < n; row++)
    for (let column = 0; column < k; column++)
      out.set(bytes.subarray((row * k + column) * size, (row * k + column + 1) * size), (column * n + row) * size);
  return out;
}

/** GGUF files of the Gemma family hold 1 + w of every norm, Hugging Face files w. */
export function hfVector(checkpoint: Checkpoint, name: string, values: Float32Array): Float32Array {
  return checkpoint.conventions.normPlusOneStored && !name.endsWith('.bias') ? values.map((value) => value - 1) : values;
}
