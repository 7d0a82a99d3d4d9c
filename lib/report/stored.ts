/**
 * lib/report: what a report file holds, checked. lowbit_report.json travels with published models, so it is a file like any other: every
 * value is checked before it is drawn. Keys that this version does not know are kept where they can be shown (scalars of a linear) and
 * otherwise left alone, so that reports of later versions still make a page.
 */
import { LowbitError } from '../errors';

/** A value that fits a table cell. */
export type Scalar = string | number | boolean;

/** One quantised linear [n, k]. */
export interface StoredLinear {
  readonly name: string;
  readonly n: number;
  readonly k: number;
  readonly bits: number;
  readonly bits_per_weight: number;
  readonly group_size?: number;
  readonly sym?: boolean;
  /** Method that made it, where linears differ; else that of the options. */
  readonly method?: string;
  /** Why these settings were chosen for it. */
  readonly reason?: string;
  readonly error?: number;
  readonly damp_percent?: number;
  readonly dead_columns?: number;
  readonly seconds?: number;
  readonly fallbacks: readonly string[];
  /** Further scalars, by key. */
  readonly more: Readonly<Record<string, Scalar>>;
}

/** A compression that was measured: what it weighs and how far its predictions are from the original's. */
export interface StoredPoint {
  readonly bytes: number;
  /** Nats per token. */
  readonly kl_divergence: number;
  readonly label: string;
  /** The one that was written. */
  readonly chosen: boolean;
}

export interface StoredReport {
  readonly lowbit: Readonly<Record<string, Scalar>>;
  readonly model: { readonly name: string; readonly kind: string; readonly architecture: string };
  readonly checkpoint_format: string;
  readonly options: Readonly<Record<string, unknown>>;
  readonly calibration: Readonly<Record<string, Scalar>> | null;
  readonly linears: readonly StoredLinear[];
  readonly skipped: readonly string[];
  readonly totals: {
    readonly parameters: number;
    readonly quantized_parameters: number;
    readonly bits_per_weight: number;
    readonly bits_per_weight_model: number;
    readonly bytes_before: number;
    readonly bytes_after: number;
    /** Absent where it is not a number. */
    readonly error?: number;
    readonly seconds: number;
  };
  readonly seconds: Readonly<Record<string, Scalar>>;
  readonly fallbacks: readonly string[];
  readonly warnings: readonly string[];
  readonly curve: readonly StoredPoint[];
}

/** The largest models have some 60 blocks of 256 experts with three linears each. */
const maxLinears = 200_000;
const maxTexts = 200_000;
const maxPoints = 1000;
const maxKeys = 200;

/**
 * @param value the parsed JSON of a report
 * @param file for messages
 * @throws {LowbitError} CORRUPT_FILE naming the file and the key that is missing or wrong
 */
export function readReport(value: unknown, file: string): StoredReport {
  const at = new Reader(file);
  const root = at.object(value, 'the report');
  const model = at.object(root['model'], 'model');
  const totals = at.object(root['totals'], 'totals');
  const total = (key: keyof StoredReport['totals']): number => at.number(totals[key], `totals.${key}`);
  const calibration = root['calibration'] ?? null;
  return {
    lowbit: at.scalars(root['lowbit'] ?? {}, 'lowbit'),
    model: {
      name: at.string(model['name'], 'model.name'),
      kind: at.string(model['kind'], 'model.kind'),
      architecture: at.string(model['architecture'], 'model.architecture'),
    },
    checkpoint_format: at.string(root['checkpoint_format'] ?? '', 'checkpoint_format'),
    options: at.object(root['options'] ?? {}, 'options'),
    calibration: calibration === null ? null : at.scalars(calibration, 'calibration'),
    linears: at.array(root['linears'], 'linears', maxLinears).map((linear, i) => readLinear(at, linear, `linears[${i}]`)),
    skipped: at.strings(root['skipped'] ?? [], 'skipped', maxLinears),
    totals: {
      parameters: total('parameters'),
      quantized_parameters: total('quantized_parameters'),
      bits_per_weight: total('bits_per_weight'),
      bits_per_weight_model: total('bits_per_weight_model'),
      bytes_before: total('bytes_before'),
      bytes_after: total('bytes_after'),
      ...(typeof totals['error'] === 'number' && { error: total('error') }),
      seconds: total('seconds'),
    },
    seconds: at.scalars(root['seconds'] ?? {}, 'seconds'),
    fallbacks: at.strings(root['fallbacks'] ?? [], 'fallbacks', maxTexts),
    warnings: at.strings(root['warnings'] ?? [], 'warnings', maxTexts),
    curve: at.array(root['curve'] ?? [], 'curve', maxPoints).map((point, i) => readPoint(at, point, `curve[${i}]`)),
  };
}

function readLinear(at: Reader, value: unknown, where: string): StoredLinear {
  const {
    name,
    n,
    k,
    bits,
    bits_per_weight,
    fallbacks,
    group_size,
    sym,
    method,
    reason,
    error,
    damp_percent,
    dead_columns,
    seconds,
    ...more
  } = at.object(value, where);
  const optional = <T>(key: string, given: unknown, read: (value: unknown, where: string) => T): Record<string, T> =>
    given === undefined || given === null ? {} : { [key]: read(given, `${where}.${key}`) };
  const number = (given: unknown, place: string): number => at.number(given, place);
  return {
    name: at.string(name, `${where}.name`),
    n: at.number(n, `${where}.n`),
    k: at.number(k, `${where}.k`),
    bits: at.number(bits, `${where}.bits`),
    bits_per_weight: at.number(bits_per_weight, `${where}.bits_per_weight`),
    ...optional('group_size', group_size, number),
    ...optional('sym', sym, (given, place) => at.boolean(given, place)),
    ...optional('method', method, (given, place) => at.string(given, place)),
    ...optional('reason', reason, (given, place) => at.string(given, place)),
    ...optional('error', error, number),
    ...optional('damp_percent', damp_percent, number),
    ...optional('dead_columns', dead_columns, number),
    ...optional('seconds', seconds, number),
    fallbacks: at.strings(fallbacks ?? [], `${where}.fallbacks`, maxKeys),
    more: at.scalars(more, where),
  };
}

function readPoint(at: Reader, value: unknown, where: string): StoredPoint {
  const { bytes, kl_divergence, label, chosen } = at.object(value, where);
  return {
    bytes: at.number(bytes, `${where}.bytes`),
    kl_divergence: at.number(kl_divergence, `${where}.kl_divergence`),
    label: at.string(label ?? '', `${where}.label`),
    chosen: at.boolean(chosen ?? false, `${where}.chosen`),
  };
}

class Reader {
  constructor(private readonly file: string) {}

  object(value: unknown, where: string): Record<string, unknown> {
    if (typeof value !== 'object' || value === null || Array.isArray(value)) throw this.wrong(where, 'an object');
    if (Object.keys(value).length > maxKeys) throw this.wrong(where, `an object of at most ${maxKeys} keys`);
    return value as Record<string, unknown>;
  }

  array(value: unknown, where: string, most: number): readonly unknown[] {
    if (!Array.isArray(value) || value.length > most) throw this.wrong(where, `an array of at most ${most} entries`);
    return value;
  }

  string(value: unknown, where: string): string {
    if (typeof value !== 'string') throw this.wrong(where, 'a string');
    return value;
  }

  strings(value: unknown, where: string, most: number): readonly string[] {
    return this.array(value, where, most).map((item, i) => this.string(item, `${where}[${i}]`));
  }

  number(value: unknown, where: string): number {
    if (typeof value !== 'number' || !Number.isFinite(value)) throw this.wrong(where, 'a number');
    return value;
  }

  boolean(value: unknown, where: string): boolean {
    if (typeof value !== 'boolean') throw this.wrong(where, 'true or false');
    return value;
  }

  /** The entries that are scalars. */
  scalars(value: unknown, where: string): Record<string, Scalar> {
    const entries = Object.entries(this.object(value, where));
    return Object.fromEntries(
      entries.filter((entry): entry is [string, Scalar] => ['string', 'number', 'boolean'].includes(typeof entry[1])),
    );
  }

  private wrong(where: string, expected: string): LowbitError {
    return new LowbitError('CORRUPT_FILE', `${this.file} is not a report of lowbit: ${where} should be ${expected}`, {
      file: this.file,
      key: where,
    });
  }
}
