/**
 * lib/quantize/outputs: what every format of an output does. A run asks an OutputFormat what a solved linear becomes and what else belongs
 * into the output, then hands both to an Output, which ends as files in a directory. Formats know names, bytes and files; nothing is solved here.
 *
 * What `solved` returns is plain tensors. A journal may keep them, and an output assembled from kept tensors is byte for byte the one assembled
 * from live results, because `addSolved` sees nothing else.
 */
import type { Checkpoint } from '../../checkpoint/types';
import type { Plan } from '../../graph/plan';
import type { SolveOptions, SolveResult } from '../../native';
import type { Target } from '../layout';
import type { ResolvedOptions } from '../options';
import type { SideFile } from '../sidefiles';
import type { DenseTensor, Pieces } from '../write';

/** One tensor of a solved linear as the output stores it. */
export interface PartTensor {
  /** Within the linear: 'qweight'. */
  readonly part: string;
  readonly dtype: string; // a name of DTYPES
  readonly shape: readonly number[];
  readonly data: Uint8Array; // little endian
}

/** What an output is made from besides its tensors. */
export interface OutputSource {
  readonly checkpoint: Checkpoint;
  readonly plan: Plan;
  readonly options: ResolvedOptions;
  readonly targets: ReadonlyMap<number, Target>; // by weight index
  readonly dense: readonly DenseTensor[]; // of OutputFormat.dense
  readonly sideFiles: readonly SideFile[];
  /** Of lowbit. */
  readonly version: string;
}

/** An output that is being written. Calls one after the other; after a failure only abort(). */
export interface Output {
  /** The tensors of one linear, in the order of the plan. */
  addSolved(target: Target, tensors: readonly PartTensor[]): Promise<void>;
  /** Every tensor of OutputFormat.dense, in that order, behind all solved linears; in pieces, because an embedding may be larger than memory. */
  addDense(tensor: DenseTensor, pieces: Pieces): Promise<void>;
  /** Completes all files. Returns the bytes of those that hold weights. */
  finish(): Promise<number>;
  /** Closes what is open after a failure. Nothing after finish(). */
  abort(): Promise<void>;
}

export interface OutputFormat {
  /** As reports and files name it. */
  readonly name: 'gptq' | 'gptq_v2' | 'gguf' | 'lowbit';
  /** What the engine has to know to make `result` below. */
  jobOptions(target: Target): Pick<SolveOptions, 'zeroOffset' | 'ggufType' | 'container'>;
  /** A solved linear as tensors. @throws {LowbitError} INTERNAL when the engine's arrays have other sizes than the file has room for */
  solved(target: Target, result: SolveResult): readonly PartTensor[];
  /** Bytes of those tensors, before they exist; of 'lowbit' about so many. */
  solvedBytes(target: Target): number;
  /** What files of about `total` bytes take beside the bytes of tensors, at most: headers. For sizes that are promised. */
  overheadBytes(source: Pick<OutputSource, 'checkpoint' | 'plan' | 'options' | 'targets' | 'dense'>, total: number): Promise<number>;
  /** Everything else that the output holds. */
  dense(checkpoint: Checkpoint, plan: Plan, targets: ReadonlyMap<number, Target>): readonly DenseTensor[];
  /** Begins an output in an existing, empty directory. */
  open(directory: string, source: OutputSource): Promise<Output>;
}
