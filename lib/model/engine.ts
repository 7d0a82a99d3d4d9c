/** engineInfo(): what the native engine says about itself and this machine. */
import { type EngineInfo, native, toLowbitError } from '../native';

/**
 * Version, CPU, usable cores, instruction sets with the reason why each can or cannot run, and memory in use.
 *
 * @throws {LowbitError} NO_BINARY when there is no engine for this platform; UNSUPPORTED when LOWBIT_ISA names one that cannot run
 */
export function engineInfo(): EngineInfo {
  const binding = native();
  try {
    return binding.engineInfo();
  } catch (reason) {
    throw toLowbitError(reason);
  }
}
