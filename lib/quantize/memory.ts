/** lib/quantize: how much memory the states of a calibration may take. No result depends on it. */
import process from 'node:process';

/**
 * Without a limit given: a quarter of the memory that is free when the run begins, between these. Up to the limit nothing runs twice; above it, the
 * products before the widest stop of each block (gate and up before down) do. 1 GiB is 128 x 512 tokens of a model 1,024 wide, or 2,048 without that
 * stop: more would be faster for wider models, but a run should leave the machine to others unless told to take it.
 */
const [least, most] = [2 ** 26, 2 ** 30];

/** @param available bytes that the process may still take, within the limits of its container */
export function stateBytesFor(given: number | undefined, available: number = process.availableMemory()): number {
  return given ?? Math.floor(Math.min(most, Math.max(least, available / 4)));
}
