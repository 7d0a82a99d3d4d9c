/**
 * The one error type of lowbit.
 *
 * Every failure, in TypeScript or in the engine, reaches the user as a `LowbitError` with a stable `code`, a message that
 * names the file, tensor or option and says what to do, and optional machine-readable `details`. The engine stays usable.
 */

/** Stable error codes; the engine's are listed in cpp/base/status.h. */
export type LowbitErrorCode =
  | 'INVALID_ARGUMENT' // the caller can fix the call
  | 'UNSUPPORTED' // valid input that this build, machine or version cannot handle
  | 'CORRUPT_FILE' // a file contradicts itself or its format
  | 'IO' // the operating system refused: missing file, no permission, disk full
  | 'OUT_OF_MEMORY' // an allocation or a memory budget failed
  | 'DEVICE' // an accelerator failed
  | 'CANCELLED' // AbortSignal or SIGINT
  | 'DISPOSED' // the object was disposed
  | 'NO_BINARY' // no native binary for this platform
  | 'INTERNAL'; // a bug in lowbit

export class LowbitError extends Error {
  override readonly name = 'LowbitError';
  readonly code: LowbitErrorCode;
  /** Machine-readable context: file, tensor, option, problems, ... */
  readonly details: Readonly<Record<string, unknown>>;

  constructor(code: LowbitErrorCode, message: string, details: Record<string, unknown> = {}, options?: { cause?: unknown }) {
    super(message, options);
    this.code = code;
    this.details = Object.freeze({ ...details });
  }
}

/** "received 9 of type number": how every argument message ends. */
export function describe(value: unknown): string {
  if (value === null) return 'null';
  if (value === undefined) return 'undefined';
  if (typeof value === 'string') return `"${value.length > 60 ? `${value.slice(0, 60)}…` : value}" of type string`;
  if (typeof value === 'object') return `an instance of ${constructorName(value)}`;
  if (typeof value === 'number' || typeof value === 'bigint' || typeof value === 'boolean') return `${value} of type ${typeof value}`;
  return `a ${typeof value}`;
}

/** Objects without a prototype have no constructor, whatever their type says. */
function constructorName(value: object): string {
  const { constructor } = value as { constructor?: unknown };
  return typeof constructor === 'function' ? constructor.name : 'Object';
}

/** An INVALID_ARGUMENT error in the project's wording: "Expected <expected> for <option> but received <value>". */
export function invalidArgument(option: string, expected: string, value: unknown): LowbitError {
  return new LowbitError('INVALID_ARGUMENT', `Expected ${expected} for ${option} but received ${describe(value)}`, { option });
}
