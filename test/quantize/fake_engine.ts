// A stand-in for the native binding: rounds weights in JavaScript, records what it was asked, and can be told to fail or to wait.
// It lets the pipeline be tested without the engine: order of calls, files, reports, aborts.
import { openSync, readSync, closeSync } from 'node:fs';
import type { TensorEntry } from '../../lib/checkpoint/types';
import type { Plan } from '../../lib/graph/plan';
import type { JobControl, ModelSpec, SolveOptions } from '../../lib/native';
import { floats, roundToGrid } from './reference';

interface Job {
  readonly weight: number;
  readonly options: SolveOptions;
}

/** The binding rejects with plain objects, which lib/native.ts turns into LowbitErrors. */
export function engineError(code: string, message: string): Error {
  return { code, message } as unknown as Error;
}

export class FakeEngine {
  readonly calls: string[] = [];
  readonly jobs: Job[] = [];
  calibrationSpec: { tokens: Int32Array; offsets: Int32Array; precision: string } | undefined;
  spec: ModelSpec | undefined;
  /** Handles not disposed yet. */
  live = 0;
  /** Called at every entry with its name; may throw a plain {code, message}, as the binding does, or abort something. */
  onCall: (name: string) => void = () => undefined;
  /** Changes a result before it is returned. */
  tamper: (result: Record<string, unknown>) => Record<string, unknown> = (result) => result;

  engineInfo = () => ({ version: '0', cpu: 'fake cpu', chosenIsa: 'fake', bf16: true });
  createCancel = () => ({ cancelled: false });
  cancel = (handle: { cancelled: boolean }) => (handle.cancelled = true);
  modelInfo = () => ({ isa: 'fake', threads: 2 });

  loadModel = (spec: ModelSpec, control: JobControl) =>
    this.enter('loadModel', control, () => {
      this.spec = spec;
      this.live++;
      return { plan: spec.plan };
    });

  disposeModel = async () => {
    this.calls.push('disposeModel');
    this.live--;
  };

  createCalibration = (_model: unknown, spec: { tokens: Int32Array; offsets: Int32Array; precision: string }, control: JobControl) =>
    this.enter('createCalibration', control, () => {
      this.calibrationSpec = spec;
      this.live++;
      return { position: 0 };
    });

  calibrationAdvance = (calibration: { position: number }, { hessian }: { hessian: boolean }, control: JobControl) =>
    this.enter(`advance ${hessian ? 'with' : 'without'}`, control, () => {
      const plan = this.spec?.plan as Plan;
      const stops = plan.blocks.flatMap(({ begin, end }, block) => [
        ...plan.ops
          .slice(begin, end)
          .flatMap((op) => (op.op === 'linear' ? [{ block, weights: op.outputs.map(({ weight }) => weight) }] : [])),
        { block, weights: [] as number[] },
      ]);
      const stop = stops[calibration.position++];
      return {
        ...stop,
        tokens: hessian ? this.calibrationSpec?.tokens.length : 0,
        droppedRows: hessian ? 1 : 0,
        finished: calibration.position === stops.length,
      };
    });

  calibrationSolve = (_calibration: unknown, jobs: readonly Job[], control: JobControl) =>
    this.enter('solve', control, () => jobs.map((job) => this.solve(job)));

  calibrationState = async () => new Float32Array(4);
  setCalibrationState = async () => undefined;

  disposeCalibration = async () => {
    this.calls.push('disposeCalibration');
    this.live--;
  };

  solveWeight = (_model: unknown, weight: number, options: Job['options'], control: JobControl) =>
    this.enter('solveWeight', control, () => this.solve({ weight, options }));

  private solve(job: Job): Record<string, unknown> {
    this.jobs.push(job);
    const { plan, files, tensors } = this.spec as ModelSpec;
    const weight = plan.weights[job.weight];
    if (weight?.source.kind !== 'tensor') throw new Error('not dense');
    const entry = tensors[weight.source.tensor] as TensorEntry;
    const { n, k } = weight;
    const { bits, sym } = job.options;
    const tensorsOut = rounded(files[entry.file] as string, entry, n, k, job.options);
    return this.tamper({
      weight: job.weight,
      n,
      k,
      bits,
      sym,
      error: 0.25,
      dampPercent: 0.06,
      deadColumns: 3,
      tokens: 640,
      seconds: 0.5,
      fallbacks: [],
      ...tensorsOut,
    });
  }

  private async enter<T>(name: string, control: JobControl, work: () => T): Promise<T> {
    this.calls.push(name);
    this.onCall(name);
    control.onProgress?.(1, 2);
    await new Promise((resolve) => setImmediate(resolve));
    if ((control.cancel as { cancelled?: boolean } | undefined)?.cancelled) throw engineError('CANCELLED', 'The operation was aborted');
    const result = work();
    control.onProgress?.(2, 2);
    return result;
  }
}

/** The same weights are rounded in many tests. */
const known = new Map<string, ReturnType<typeof roundToGrid>>();

function rounded(file: string, entry: TensorEntry, n: number, k: number, options: SolveOptions): ReturnType<typeof roundToGrid> {
  const key = JSON.stringify([entry, options.bits, options.groupSize, options.sym, options.zeroOffset]);
  const result = known.get(key) ?? roundToGrid(floats({ ...entry, bytes: readBytes(file, entry) }), n, k, options);
  known.set(key, result);
  return result;
}

function readBytes(file: string, { offset, bytes }: TensorEntry): Buffer {
  const descriptor = openSync(file, 'r');
  const buffer = Buffer.alloc(bytes);
  readSync(descriptor, buffer, 0, bytes, offset);
  closeSync(descriptor);
  return buffer;
}
