/**
 * lib/quantize/outputs: Hugging Face GPTQ checkpoints, version 1 and 2: safetensors with four tensors per quantised linear, everything else as the
 * source has it, configuration and side files. layout.ts describes the four tensors, config.ts the configuration.
 */
import { stat } from 'node:fs/promises';
import path from 'node:path';
import { SafetensorsWriter } from '../../checkpoint';
import { LowbitError } from '../../errors';
import type { SolveResult } from '../../native';
import { quantizationConfig } from '../config';
import { packedBytes, partShapes, type CheckpointFormat, type Target } from '../layout';
import { writeSideFiles } from '../sidefiles';
import { denseTensors, safetensorsOverhead } from '../write';
import type { Output, OutputFormat, OutputSource, PartTensor } from './output';

/** Version 2 files store the zero point itself, version 1 one less. */
export function gptqFormat(name: CheckpointFormat): OutputFormat {
  return {
    name,
    jobOptions: () => ({ zeroOffset: name === 'gptq' ? 1 : 0 }),
    solved: solvedTensors,
    solvedBytes: packedBytes,
    dense: denseTensors,
    overheadBytes: (source, total) => Promise.resolve(safetensorsOverhead(source, 4, total)),
    open: (directory, source) => Promise.resolve(openGptq(name, directory, source)),
  };
}

/** qweight, qzeros, scales and g_idx; the engine's arrays are views of little-endian memory. */
function solvedTensors(target: Target, result: SolveResult): readonly PartTensor[] {
  const arrays = [result.qweight, result.qzeros, result.scales, result.gIdx] as readonly (ArrayBufferView | undefined)[];
  const shapes = partShapes(target);
  const wrong = arrays.some((array, i) => array?.byteLength !== shapes[i]?.bytes);
  // A file whose tensors differ from its header would be worse than none.
  if (wrong || result.n !== target.n || result.k !== target.k || result.bits !== target.settings.bits) {
    throw new LowbitError(
      'INTERNAL',
      `The engine returned ${target.name} as [${result.n}, ${result.k}] in ${result.bits} bit with tensors of another size than the file has room for`,
    );
  }
  return shapes.map(({ part, dtype, shape }, i) => {
    const { buffer, byteOffset, byteLength } = arrays[i] as ArrayBufferView;
    return { part, dtype, shape, data: new Uint8Array(buffer, byteOffset, byteLength) };
  });
}

function openGptq(name: CheckpointFormat, directory: string, source: OutputSource): Output {
  const { checkpoint, options, sideFiles, version } = source;
  const writer = new SafetensorsWriter(directory, { maxShardBytes: options.maxShardBytes });
  return {
    async addSolved(target, tensors) {
      for (const { part, dtype, shape, data } of tensors) await writer.add(`${target.name}.${part}`, dtype, shape, data);
    },
    addDense: (tensor, pieces) => writer.addPieces(tensor.name, tensor.dtype, tensor.shape, pieces),
    async finish() {
      const files = await writer.finish();
      await writeSideFiles(directory, checkpoint, sideFiles, quantizationConfig(options, name, version));
      const sizes = await Promise.all(files.map(async (file) => (await stat(path.join(directory, file))).size));
      return sizes.reduce((sum, size) => sum + size, 0);
    },
    abort: () => writer.abort(),
  };
}
