/**
 * For tests: a GPTQ fixture with the same codes, zero points and scales in the layout of another tool, so that the logits expected of the
 * one hold for the other. Values move bit by bit, from where the formats say they lie; nothing of lib/ or the engine takes part.
 */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { safetensorsFile } from './support';

export type Layout = 'awq' | 'stream' | 'padded';

interface Raw {
  readonly dtype: string;
  readonly shape: readonly number[];
  readonly bytes: Buffer;
}

/** The row of its eight that nibble i of an AWQ word holds, as AutoAWQ's packer lists it. */
const AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7];

/** Words of a line of `count` values, and the bit at which value `index` begins. */
const wordsOf = (layout: Layout, count: number, bits: number): number =>
  layout === 'padded' ? Math.ceil(count / Math.floor(32 / bits)) : Math.ceil((count * bits) / 32);
function bitOf(layout: Layout, index: number, bits: number): number {
  if (layout === 'awq') return Math.floor(index / 8) * 32 + 4 * AWQ_ORDER.indexOf(index % 8);
  const perWord = Math.floor(32 / bits);
  return layout === 'padded' ? Math.floor(index / perWord) * 32 + (index % perWord) * bits : index * bits;
}

/** Lines of small numbers in words: value i of line l is in the words first(l) + w * stride. */
class Lines {
  constructor(
    readonly bytes: Buffer,
    private readonly bits: number,
    private readonly layout: Layout,
    private readonly first: (line: number) => number,
    private readonly stride: number,
  ) {}

  /** The number of bit `b` of value `index`, counted from the first byte. */
  private bit(line: number, index: number, b: number): number {
    const bit = bitOf(this.layout, index, this.bits) + b;
    return 32 * (this.first(line) + (bit >>> 5) * this.stride) + (bit & 31);
  }

  get(line: number, index: number): number {
    let value = 0;
    for (let b = 0; b < this.bits; b++) {
      const bit = this.bit(line, index, b);
      value |= (((this.bytes[bit >>> 3] as number) >> (bit & 7)) & 1) << b;
    }
    return value;
  }

  set(line: number, index: number, value: number): void {
    for (let b = 0; b < this.bits; b++) {
      const bit = this.bit(line, index, b);
      if ((value >> b) & 1) this.bytes[bit >>> 3] = (this.bytes[bit >>> 3] as number) | (1 << (bit & 7));
    }
  }
}

function readTensors(file: string): Map<string, Raw> {
  const bytes = readFileSync(file);
  const start = 8 + Number(bytes.readBigUInt64LE(0));
  const header = JSON.parse(bytes.toString('utf8', 8, start)) as Record<
    string,
    { dtype: string; shape: number[]; data_offsets: [number, number] }
  >;
  delete header['__metadata__'];
  return new Map(
    Object.entries(header).map(
      ([
        name,
        {
          dtype,
          shape,
          data_offsets: [begin, end],
        },
      ]) => [name, { dtype, shape, bytes: bytes.subarray(start + begin, start + end) }],
    ),
  );
}

const integers32 = (count: number, value: (i: number) => number): Buffer => {
  const bytes = Buffer.alloc(4 * count);
  for (let i = 0; i < count; i++) bytes.writeInt32LE(value(i), 4 * i);
  return bytes;
};

export interface RepackOptions {
  readonly layout: Layout;
  /** compressed-tensors only: zero points as old versions wrote them, one signed byte each. */
  readonly byteZeros?: boolean;
  /** compressed-tensors only: leave zero points out; they must be those of symmetric weights. */
  readonly symmetric?: boolean;
}

/** Writes the fixture `source` to `target` as a checkpoint of AWQ or compressed-tensors. */
export function repack(source: string, target: string, { layout, byteZeros = false, symmetric = false }: RepackOptions): void {
  const config = JSON.parse(readFileSync(path.join(source, 'config.json'), 'utf8')) as Record<string, Record<string, unknown>>;
  const old = config['quantization_config'] as { bits: number; group_size: number; checkpoint_format: string };
  const { bits } = old;
  const offset = old.checkpoint_format === 'gptq' ? 1 : 0;
  const from = readTensors(path.join(source, 'model.safetensors'));
  const to = new Map<string, Raw>();
  for (const [name, tensor] of from) {
    if (!name.endsWith('.qweight')) {
      if (!/\.(qzeros|scales|g_idx)$/.test(name)) to.set(name, tensor);
      continue;
    }
    const linear = name.slice(0, -'.qweight'.length);
    const part = (suffix: string): Raw => from.get(`${linear}.${suffix}`) as Raw;
    const [groups, n] = part('scales').shape as [number, number];
    const k = part('g_idx').shape[0] as number;
    const codes = new Lines(tensor.bytes, bits, 'stream', (row) => row, n);
    const zeros = new Lines(part('qzeros').bytes, bits, 'stream', (group) => (group * n * bits) / 32, 1);
    const zero = (group: number, row: number): number => zeros.get(group, row) + offset;
    const scales = part('scales');
    const awq = layout === 'awq';

    const rowWords = wordsOf(layout, awq ? n : k, bits);
    const newCodes = new Lines(Buffer.alloc(4 * (awq ? k : n) * rowWords), bits, layout, (line) => line * rowWords, 1);
    for (let row = 0; row < n; row++)
      for (let column = 0; column < k; column++) newCodes.set(awq ? column : row, awq ? row : column, codes.get(row, column));
    const zeroWords = wordsOf(layout, n, bits);
    const newZeros = new Lines(
      Buffer.alloc(4 * groups * zeroWords),
      bits,
      layout,
      (group) => (awq ? group * zeroWords : group),
      awq ? 1 : groups,
    );
    const signed = Buffer.alloc(n * groups);
    const newScales = awq ? scales.bytes : Buffer.alloc(scales.bytes.length);
    for (let group = 0; group < groups; group++) {
      for (let row = 0; row < n; row++) {
        newZeros.set(group, row, zero(group, row));
        signed.writeInt8(zero(group, row) - 2 ** (bits - 1), row * groups + group);
        if (!awq) scales.bytes.copy(newScales, 2 * (row * groups + group), 2 * (group * n + row), 2 * (group * n + row) + 2);
      }
    }
    if (awq) {
      to.set(`${linear}.qweight`, { dtype: 'I32', shape: [k, rowWords], bytes: newCodes.bytes });
      to.set(`${linear}.qzeros`, { dtype: 'I32', shape: [groups, zeroWords], bytes: newZeros.bytes });
      to.set(`${linear}.scales`, scales);
      continue;
    }
    to.set(`${linear}.weight_packed`, { dtype: 'I32', shape: [n, rowWords], bytes: newCodes.bytes });
    to.set(`${linear}.weight_scale`, { dtype: 'F16', shape: [n, groups], bytes: newScales });
    if (symmetric && signed.some((value) => value !== 0)) throw new Error(`${linear} is not symmetric`);
    if (!symmetric) {
      to.set(
        `${linear}.weight_zero_point`,
        byteZeros
          ? { dtype: 'I8', shape: [n, groups], bytes: signed }
          : { dtype: 'I32', shape: [zeroWords, groups], bytes: newZeros.bytes },
      );
    }
    const trivial = Array.from({ length: k }, (_, c) => part('g_idx').bytes.readInt32LE(4 * c) === Math.floor(c / old.group_size)).every(
      Boolean,
    );
    if (!trivial) to.set(`${linear}.weight_g_idx`, part('g_idx'));
    to.set(`${linear}.weight_shape`, { dtype: 'I32', shape: [2], bytes: integers32(2, (i) => (i === 0 ? n : k)) });
  }
  const quantization =
    layout === 'awq'
      ? { quant_method: 'awq', version: 'gemm', bits: 4, group_size: old.group_size, zero_point: true, modules_to_not_convert: null }
      : {
          quant_method: 'compressed-tensors',
          format: 'pack-quantized',
          quantization_status: 'compressed',
          ignore: ['re:.*lm_head'],
          config_groups: {
            group_0: {
              targets: ['Linear'],
              weights: { num_bits: bits, type: 'int', symmetric, strategy: 'group', group_size: old.group_size },
            },
          },
        };
  mkdirSync(target, { recursive: true });
  writeFileSync(path.join(target, 'config.json'), JSON.stringify({ ...config, quantization_config: quantization }));
  writeTensors(path.join(target, 'model.safetensors'), to);
}

function writeTensors(file: string, tensors: ReadonlyMap<string, Raw>): void {
  let offset = 0;
  const header = Object.fromEntries(
    [...tensors].map(([name, { dtype, shape, bytes }]) => [name, { dtype, shape, data_offsets: [offset, (offset += bytes.length)] }]),
  );
  writeFileSync(file, safetensorsFile(header, Buffer.concat([...tensors.values()].map(({ bytes }) => bytes))));
}
