/**
 * checkpoint: the settings of a lowbit container in config.json (docs/formats.md, "lowbit container"), and the records that say which parts a
 * linear has. The tensors of the parts are found in lib/models/container.ts.
 */
import { LowbitError } from '../errors';
import { readSmallSync } from './files';
import type { SettingsReader } from './settings_reader';
import type { Checkpoint } from './types';

/** The version this release writes; it reads this one and older ones. Raise it with every change that old readers would misread. */
export const containerVersion = 1;

export interface LowbitConfig {
  readonly method: 'lowbit';
  readonly version: number;
}

/** @throws {LowbitError} UNSUPPORTED for a newer version, CORRUPT_FILE for a bad one */
export function readLowbitConfig(reader: SettingsReader): LowbitConfig {
  const version = reader.raw(['version']);
  if (typeof version !== 'number' || !Number.isInteger(version) || version < 1)
    throw reader.bad('version', 'integer of at least 1', version);
  if (version > containerVersion) {
    throw new LowbitError(
      'UNSUPPORTED',
      `${reader.file} is a lowbit container of version ${version}; this release reads up to version ${containerVersion}: update lowbit`,
      { file: reader.file, version },
    );
  }
  return { method: 'lowbit', version };
}

/** One part of a linear: the ints of a row of its tensor `parts`. */
export interface PartRecord {
  readonly kind: 'affine' | 'lowrank' | 'sparse';
  readonly bits: number;
  readonly groupSize: number; // affine: 16, a multiple of 32, or at least the columns
  readonly affine: 'symmetric' | 'minimum' | 'zero_point';
  /** Bits of coded scales, 0 = none. */
  readonly scaleBits: number;
  /** Has a tensor `rows`, has a tensor `g_idx`. */
  readonly hasRows: boolean;
  readonly hasOrder: boolean;
  /** Rows of an affine part, rank, sparse values. */
  readonly count: number;
}

export const recordLength = 8;
/** A linear of more parts than this is none. */
const maxParts = 64;
/** In the order of their numbers: LOWBIT_PART of cpp/part/parts.def, where 0 is dense, and AffineKind of cpp/part/packed.h. */
const kinds = [undefined, 'affine', 'lowrank', 'sparse'] as const;
const affineKinds = ['symmetric', 'minimum', 'zero_point'] as const;

/** The records of tensor number `index`, or what is wrong with them, in words. */
export function readPartRecords(checkpoint: Checkpoint, index: number): readonly PartRecord[] | string {
  const entry = checkpoint.tensors[index];
  const file = entry && checkpoint.files[entry.file];
  const count = entry?.shape[0] ?? 0;
  if (entry === undefined || file === undefined) return 'is missing';
  if (entry.dtype !== 'I32' || entry.shape.length !== 2 || entry.shape[1] !== recordLength || count < 1 || count > maxParts) {
    return `is ${entry.dtype} [${entry.shape.join(', ')}], expected I32 [1 to ${maxParts}, ${recordLength}]`;
  }
  const bytes = readSmallSync(file, entry.offset, entry.bytes);
  const records: PartRecord[] = [];
  for (let part = 0; part < count; part++) {
    const at = (i: number): number => bytes.readInt32LE(4 * (part * recordLength + i));
    const kind = kinds[at(0)];
    const affine = affineKinds[at(3)];
    if (kind === undefined || affine === undefined || (at(5) & ~3) !== 0 || at(7) !== 0)
      return `has a part ${part} that this release does not know`;
    const [bits, groupSize, scaleBits, number] = [at(1), at(2), at(4), at(6)];
    const fits = kind !== 'affine' || (bits >= 1 && bits <= 8 && groupSize >= 16 && scaleBits >= 0 && scaleBits <= 8);
    if (!fits || number < 1)
      return `has a part ${part} of ${bits} bits, groups of ${groupSize}, scales of ${scaleBits} bits and ${number} rows`;
    records.push({ kind, bits, groupSize, affine, scaleBits, hasRows: (at(5) & 1) !== 0, hasOrder: (at(5) & 2) !== 0, count: number });
  }
  return records;
}
