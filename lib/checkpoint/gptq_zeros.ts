/**
 * checkpoint: which of the two conventions the zero points of a GPTQ checkpoint follow: version 1 stores them minus one, version 2 as they
 * are. Published checkpoints carry the wrong label, and sometimes none that is right for both values of `sym`, so the content is asked.
 */
import { LowbitError } from '../errors';
import { readSmallSync } from './files';
import type { GptqConfig } from './gptq_config';
import type { Checkpoint, TensorEntry } from './types';

export interface ZeroOffset {
  /** Added to stored zero points: 1 for v1, 0 for v2. Goes into WeightSource.zeroOffset. */
  readonly zeroOffset: 0 | 1;
  /** Set when the file's content contradicts its label. */
  readonly warning?: string;
}

/** Enough of one tensor to tell. A multiple of 12 bytes, the period of 3-bit fields. */
const SAMPLE_BYTES = 12 * 1024;
/** Equal zero points that are no accident where the settings call them asymmetric. */
const UNIFORM_FIELDS = 256;
/** Tensors that are asked for the mean of a checkpoint. */
const SAMPLE_TENSORS = 64;
/** Zero points that make a mean: their spread is about one code, so that of the mean is 0.02. */
const MIN_FIELDS = 2048;
/** Distance of a mean from the one that a convention predicts, in codes; the two predictions are 1 apart. */
const TOLERANCE = 0.25;

/**
 * Decides whether stored zero points are one too small (v1) or true (v2), by content where that can tell:
 *
 * - All zero points of the sample are 2^(bits-1) (v2) or one less (v1), as those of symmetric weights are; `sym` may say otherwise.
 * - Asymmetric ones of 3 and 4 bits: weights lie evenly around zero, so the mean zero point of a checkpoint is the middle of the code
 *   range, (2^bits - 1) / 2, and the mean stored one is that or one less. With 2 bits a zero of 0 wraps in v1 and spoils the mean; with 8
 *   bits one code is less than the weights' own skew.
 *
 * Where the content is neither, the label counts.
 *
 * @param qzeros index of a *.qzeros tensor in checkpoint.tensors
 * @throws {LowbitError} CORRUPT_FILE when the tensor is no I32 matrix, IO
 */
export function resolveZeroOffset(
  checkpoint: Checkpoint,
  qzeros: number,
  config: Pick<GptqConfig, 'bits' | 'sym' | 'format'> & Partial<Pick<GptqConfig, 'module'>>,
): ZeroOffset {
  const labelled = config.format === 'v1' ? 1 : 0;
  const tensor = checkpoint.tensors[qzeros];
  const file = tensor && checkpoint.files[tensor.file];
  if (tensor === undefined || file === undefined) throw new LowbitError('INTERNAL', `There is no tensor ${qzeros} in ${checkpoint.path}`);
  if (tensor.dtype !== 'I32' || tensor.shape.length !== 2) {
    throw new LowbitError(
      'CORRUPT_FILE',
      `${file}: expected an I32 matrix for "${tensor.name}" but found ${tensor.dtype} [${tensor.shape.join(', ')}]`,
      { file, tensor: tensor.name },
    );
  }
  const words = sample(tensor, file, config.bits);
  const uniform = config.sym || (words.length * 8) / config.bits >= UNIFORM_FIELDS ? offsetOfUniform(words, config.bits) : undefined;
  const actual = uniform ?? (config.sym || config.module === undefined ? undefined : offsetByMean(checkpoint, config.bits, config.module));
  if (actual === undefined || actual === labelled) return { zeroOffset: labelled };
  const [is, says] = actual === 1 ? ['gptq (v1)', 'gptq_v2'] : ['gptq_v2', 'gptq (v1)'];
  return {
    zeroOffset: actual,
    warning: `${checkpoint.path} is labelled ${says}, but the zero points in "${tensor.name}" are those of ${is}; they are read as ${is}`,
  };
}

/** The first bytes of a tensor, whole periods of its fields; rows follow one another without padding. */
function sample(tensor: TensorEntry, file: string, bits: number): Buffer {
  const period = bits === 3 ? 12 : 4;
  const length = Math.floor(Math.min(SAMPLE_BYTES, tensor.bytes) / period) * period;
  return length === 0 ? Buffer.alloc(0) : readSmallSync(file, tensor.offset, length);
}

function offsetOfUniform(bytes: Buffer, bits: number): 0 | 1 | undefined {
  const period = bits === 3 ? 12 : 4;
  if (bytes.length === 0 || !bytes.subarray(period).equals(bytes.subarray(0, bytes.length - period))) return undefined;
  const all = (value: number): boolean => bytes.subarray(0, period).equals(filled(value, bits, period));
  const middle = 2 ** (bits - 1);
  if (all(middle - 1)) return 1;
  return all(middle) ? 0 : undefined;
}

/** `length` bytes of equal fields, least significant bit first. */
function filled(value: number, bits: number, length: number): Buffer {
  const bytes = Buffer.alloc(length);
  for (let bit = 0; bit < length * 8; bit++) {
    if ((value >> (bit % bits)) & 1) bytes[bit >> 3] = (bytes[bit >> 3] as number) | (1 << (bit & 7));
  }
  return bytes;
}

/** One answer per checkpoint and width: all of its tensors come from one writer. */
const answers = new WeakMap<Checkpoint, Map<number, 0 | 1 | undefined>>();

function offsetByMean(checkpoint: Checkpoint, bits: number, module: GptqConfig['module']): 0 | 1 | undefined {
  if (bits !== 3 && bits !== 4) return undefined;
  const known = answers.get(checkpoint) ?? new Map<number, 0 | 1 | undefined>();
  answers.set(checkpoint, known);
  if (!known.has(bits)) known.set(bits, measure(checkpoint, bits, module));
  return known.get(bits);
}

function measure(checkpoint: Checkpoint, bits: number, module: GptqConfig['module']): 0 | 1 | undefined {
  const asymmetric = checkpoint.tensors.filter(({ name, dtype, shape }) => {
    if (!name.endsWith('.qzeros') || dtype !== 'I32' || shape.length !== 2) return false;
    const settings = module(name.slice(0, -'.qzeros'.length));
    return settings !== undefined && !settings.sym && settings.bits === bits;
  });
  const step = Math.max(1, Math.floor(asymmetric.length / SAMPLE_TENSORS));
  let [sum, count] = [0, 0];
  for (let i = 0; i < asymmetric.length; i += step) {
    const tensor = asymmetric[i] as TensorEntry;
    const bytes = sample(tensor, checkpoint.files[tensor.file] as string, bits);
    for (let bit = 0; bit < bytes.length * 8; bit++) sum += (((bytes[bit >> 3] as number) >> (bit & 7)) & 1) << (bit % bits);
    count += (bytes.length * 8) / bits;
  }
  if (count < MIN_FIELDS) return undefined;
  const below = (2 ** bits - 1) / 2 - sum / count;
  if (Math.abs(below - 1) < TOLERANCE) return 1;
  return Math.abs(below) < TOLERANCE ? 0 : undefined;
}
