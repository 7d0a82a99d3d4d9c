// Independent reading of GPTQ checkpoints for tests: safetensors, 16-bit floats, bit streams, de-quantisation. Shares no code with lib/.
import { readFileSync, readdirSync } from 'node:fs';
import path from 'node:path';

export interface RawTensor {
  readonly dtype: string;
  readonly shape: readonly number[];
  readonly bytes: Buffer;
}

/** All tensors of all safetensors files of a directory. */
export function readTensors(directory: string): Map<string, RawTensor> {
  const tensors = new Map<string, RawTensor>();
  for (const name of readdirSync(directory).filter((file) => file.endsWith('.safetensors') && file.startsWith('model'))) {
    const file = readFileSync(path.join(directory, name));
    const start = 8 + Number(file.readBigUInt64LE());
    const header = JSON.parse(file.toString('utf8', 8, start)) as Record<
      string,
      { dtype: string; shape: number[]; data_offsets: [number, number] }
    >;
    for (const [tensor, { dtype, shape, data_offsets }] of Object.entries(header)) {
      if (tensor === '__metadata__') continue;
      if (tensors.has(tensor)) throw new Error(`${tensor} is stored twice`);
      tensors.set(tensor, { dtype, shape, bytes: file.subarray(start + data_offsets[0], start + data_offsets[1]) });
    }
  }
  return tensors;
}

/** Names of tensors that are in one directory only, or in both with other types, shapes or bytes. */
export function differences(one: string, other: string): string[] {
  const [a, b] = [readTensors(one), readTensors(other)];
  return [...new Set([...a.keys(), ...b.keys()])].filter((name) => {
    const [x, y] = [a.get(name), b.get(name)];
    return x === undefined || y === undefined || x.dtype !== y.dtype || x.shape.join() !== y.shape.join() || !x.bytes.equals(y.bytes);
  });
}

/** IEEE binary16. */
export function half(bits: number): number {
  const sign = bits >> 15 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (exponent ? (1 + fraction / 1024) * 2 ** (exponent - 15) : (fraction / 1024) * 2 ** -14);
}

/** Nearest binary16, ties to even, by search: slow and obviously right. Positive, finite, at most 65504. */
export function toHalf(value: number): number {
  let low = 0;
  let high = 0x7bff;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (half(middle) <= value) low = middle;
    else high = middle;
  }
  const below = value - half(low);
  const above = half(high) - value;
  return below < above || (below === above && low % 2 === 0) ? low : high;
}

export function floats({ dtype, bytes }: RawTensor): Float64Array {
  const view = new DataView(new ArrayBuffer(4));
  const width = dtype === 'F32' ? 4 : 2;
  const values = new Float64Array(bytes.length / width);
  for (let i = 0; i < values.length; i++) {
    if (dtype === 'F16') {
      values[i] = half(bytes.readUInt16LE(2 * i));
    } else {
      // A BF16 is the upper half of an F32.
      view.setUint32(0, dtype === 'F32' ? bytes.readUInt32LE(4 * i) : bytes.readUInt16LE(2 * i) * 65536);
      values[i] = view.getFloat32(0);
    }
  }
  return values;
}

/** Value `index` of a stream of `bits`-bit values over 32-bit words, lowest bits first; word w is bytes.readUInt32LE(wordAt(w)). */
function fromStream(bytes: Buffer, index: number, bits: number, wordAt: (word: number) => number): number {
  const word = (index * bits) >> 5;
  const shift = (index * bits) & 31;
  let value = bytes.readUInt32LE(wordAt(word)) >>> shift;
  if (shift + bits > 32) value |= bytes.readUInt32LE(wordAt(word + 1)) << (32 - shift);
  return value & ((1 << bits) - 1);
}

export interface Dequantized {
  readonly n: number;
  readonly k: number;
  readonly weights: Float64Array; // [n][k]
  readonly scaleOf: Float64Array; // [n][k] the scale of each weight
  readonly zeros: number[]; // true zero points, [n][groups]
}

/** scales * (code - zero) of one linear, in float64. */
export function dequantize(tensors: ReadonlyMap<string, RawTensor>, name: string, bits: number, format: 'gptq' | 'gptq_v2'): Dequantized {
  const part = (suffix: string): RawTensor => {
    const tensor = tensors.get(`${name}.${suffix}`);
    if (tensor === undefined) throw new Error(`${name}.${suffix} is missing`);
    return tensor;
  };
  const [qweight, qzeros, scales, gIdx] = [part('qweight'), part('qzeros'), part('scales'), part('g_idx')];
  const k = gIdx.shape[0] as number;
  const [groups, n] = scales.shape as [number, number];
  const expected = { qweight: [(k * bits) / 32, n], qzeros: [groups, (n * bits) / 32], scales: [groups, n], g_idx: [k] };
  for (const [suffix, shape] of Object.entries(expected)) {
    if (part(suffix).shape.join() !== shape.join())
      throw new Error(`${name}.${suffix} has shape ${part(suffix).shape.join()}, expected ${shape.join()}`);
  }
  const scale = floats(scales);
  const zero = (row: number, group: number): number =>
    fromStream(qzeros.bytes, row, bits, (word) => 4 * (((group * n * bits) >> 5) + word)) + (format === 'gptq' ? 1 : 0);
  const weights = new Float64Array(n * k);
  const scaleOf = new Float64Array(n * k);
  for (let row = 0; row < n; row++) {
    for (let column = 0; column < k; column++) {
      const group = gIdx.bytes.readInt32LE(4 * column);
      const code = fromStream(qweight.bytes, column, bits, (word) => 4 * (word * n + row));
      scaleOf[row * k + column] = scale[group * n + row] as number;
      weights[row * k + column] = (scale[group * n + row] as number) * (code - zero(row, group));
    }
  }
  return { n, k, weights, scaleOf, zeros: Array.from({ length: n * groups }, (_, i) => zero(Math.floor(i / groups), i % groups)) };
}

/** Relative Frobenius error, squared. */
export function relativeError(actual: Float64Array, expected: Float64Array): number {
  let difference = 0;
  let norm = 0;
  expected.forEach((value, i) => {
    difference += (value - (actual[i] as number)) ** 2;
    norm += value * value;
  });
  return difference / norm;
}

/** Writes `count` values of `bits` bits as one stream; the inverse of fromStream. `words` starts as zeros. */
function toStream(
  words: Int32Array,
  values: (index: number) => number,
  count: number,
  bits: number,
  wordAt: (word: number) => number,
): void {
  for (let index = 0; index < count; index++) {
    const word = (index * bits) >> 5;
    const shift = (index * bits) & 31;
    const value = values(index);
    words[wordAt(word)] = (words[wordAt(word)] as number) | (value << shift);
    if (shift + bits > 32) words[wordAt(word + 1)] = (words[wordAt(word + 1)] as number) | (value >>> (32 - shift));
  }
}

/** Plain symmetric or asymmetric rounding of w [n][k] as GPTQ tensors: what the test's stand-in for the engine answers with. */
export function roundToGrid(
  w: Float64Array,
  n: number,
  k: number,
  options: { bits: number; groupSize: number; sym: boolean; zeroOffset: number },
) {
  const { bits, sym, zeroOffset } = options;
  const groupSize = options.groupSize === -1 ? k : options.groupSize;
  const groups = Math.ceil(k / groupSize);
  const most = 2 ** bits - 1;
  const codes = new Uint8Array(n * k);
  const zeros = new Uint8Array(n * groups);
  const scales = new Uint16Array(groups * n);
  for (let row = 0; row < n; row++) {
    for (let group = 0; group < groups; group++) {
      const begin = row * k + group * groupSize;
      const values = w.subarray(begin, Math.min(begin + groupSize, (row + 1) * k));
      const largest = Math.max(0, ...values);
      const smallest = Math.min(0, ...values);
      const range = sym ? 2 * Math.max(largest, -smallest) : largest - smallest;
      const bitsOfScale = toHalf(Math.max(range / most, 1e-6));
      const scale = half(bitsOfScale);
      const zero = sym ? 2 ** (bits - 1) : Math.min(most, Math.round(-smallest / scale));
      scales[group * n + row] = bitsOfScale;
      zeros[row * groups + group] = zero;
      values.forEach((value, i) => (codes[begin + i] = Math.min(most, Math.max(0, Math.round(value / scale) + zero))));
    }
  }
  const qweight = new Int32Array((k * bits * n) / 32);
  for (let row = 0; row < n; row++)
    toStream(
      qweight,
      (column) => codes[row * k + column] as number,
      k,
      bits,
      (word) => word * n + row,
    );
  const qzeros = new Int32Array((groups * n * bits) / 32);
  for (let group = 0; group < groups; group++) {
    const stored = (row: number): number => ((zeros[row * groups + group] as number) - zeroOffset) & most;
    toStream(qzeros, stored, n, bits, (word) => (group * n * bits) / 32 + word);
  }
  const gIdx = Int32Array.from({ length: k }, (_, column) => Math.floor(column / groupSize));
  return { groupSize, qweight, qzeros, scales, gIdx };
}
