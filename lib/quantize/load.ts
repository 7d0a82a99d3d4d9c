/** lib/quantize: the model of a run in the engine. */
import { native, runJob, type ModelHandle } from '../native';
import type { Prepared } from './preflight';

/** @param lazy weights stay in their files until a block needs them */
export function load(
  { options, checkpoint, plan }: Prepared,
  lazy: boolean,
  signal: AbortSignal,
  onFraction: (fraction: number) => void,
): Promise<ModelHandle> {
  const { files, tensors } = checkpoint;
  const onProgress = (done: number, total: number): void => onFraction(total > 0 ? done / total : 1);
  return runJob({ signal, onProgress }, (control) =>
    native().loadModel({ files, tensors, plan, precision: 'exact', threads: options.threads, lazy }, control),
  );
}
