/**
 * models: the tensors of a linear in a lowbit container: checks their shapes against its records and names what is wrong. The bytes are the
 * engine's business (cpp/part/container.cc).
 */
import { type PartRecord, readPartRecords } from '../checkpoint/lowbit_config';
import type { PartSource, WeightSource } from '../graph/plan';
import { ABSENT, type PackedTensors } from './packed';

/** The source of linear `name` [n, k], whose tensor `name.parts` exists. */
export function containerLinear(tensors: PackedTensors, name: string, n: number, k: number): WeightSource {
  const index = tensors.checkpoint.find(`${name}.parts`) ?? ABSENT;
  tensors.use(`${name}.parts`);
  const records = readPartRecords(tensors.checkpoint, index);
  if (typeof records === 'string') {
    tensors.problem(`${name}.parts ${records}`);
    return { kind: 'tensor', tensor: ABSENT };
  }
  if (records[0]?.kind !== 'affine') tensors.problem(`${name}.parts does not begin with an affine part`);
  const scaled = tensors.checkpoint.find(`${name}.input_scale`) !== undefined;
  return {
    kind: 'parts',
    ...(scaled && { inputScale: tensors.take(`${name}.input_scale`, [k], ['F32']) }),
    parts: records.map((record, i) => partSource(tensors, `${name}.${i}`, record, n, k)),
  };
}

function partSource(tensors: PackedTensors, name: string, record: PartRecord, n: number, k: number): PartSource {
  const take = (part: string, shape: readonly number[], ...dtypes: readonly string[]): number =>
    tensors.take(`${name}.${part}`, shape, dtypes);
  const { kind, count } = record;
  if (kind === 'lowrank') return { kind, count, a: take('a', [count, k], 'F16'), b: take('b', [n, count], 'F16') };
  if (kind === 'sparse') {
    return {
      kind,
      count,
      rowOffsets: take('row_offsets', [n + 1], 'I32'),
      columns: take('columns', [count], 'U16'),
      values: take('values', [count], 'F16'),
    };
  }
  const { bits, affine, scaleBits } = record;
  const groupSize = Math.min(record.groupSize, k);
  const groups = Math.ceil(k / groupSize);
  const rows = record.hasRows ? count : n;
  const streams = (part: string, values: number, width: number): number => take(part, [rows, Math.ceil((values * width) / 8)], 'U8');
  const scales =
    scaleBits > 0
      ? {
          scaleCodes: streams('scale_codes', groups, scaleBits),
          zeroCodes: streams('zero_codes', groups, scaleBits),
          tiles: take('tiles', [Math.ceil(rows / 16), groups, 4], 'F16'),
        }
      : {
          scales: take('scales', [rows, groups], 'F16'),
          ...(affine === 'minimum' && { seconds: take('minima', [rows, groups], 'F16') }),
          ...(affine === 'zero_point' && { seconds: streams('zeros', groups, bits) }),
        };
  return {
    kind,
    count: rows,
    bits,
    groupSize,
    affine,
    scaleBits,
    codes: streams('codes', k, bits),
    ...scales,
    ...(record.hasRows && { rows: take('rows', [rows], 'I32') }),
    ...(record.hasOrder && { gIdx: take('g_idx', [k], 'I32') }),
  };
}
