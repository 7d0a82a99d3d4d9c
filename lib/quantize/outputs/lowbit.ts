/**
 * lib/quantize/outputs: lowbit's own container (docs/formats.md, "lowbit container"): a Hugging Face directory whose linears are lists of parts,
 * for what GPTQ and GGUF files have no place for. The engine makes the tensors of a linear (cpp/quantize/container_tensors.h).
 */
import { stat } from 'node:fs/promises';
import path from 'node:path';
import { SafetensorsWriter } from '../../checkpoint';
import { containerVersion } from '../../checkpoint/lowbit_config';
import { LowbitError } from '../../errors';
import { groupCount, type Target } from '../layout';
import { writeSideFiles } from '../sidefiles';
import { denseTensors } from '../write';
import type { Output, OutputFormat, OutputSource } from './output';

export const lowbitFormat: OutputFormat = {
  name: 'lowbit',
  jobOptions: () => ({ zeroOffset: 0, container: true }),
  solved(target, { tensors }) {
    if (tensors === undefined || tensors.length === 0) {
      throw new LowbitError('INTERNAL', `The engine returned ${target.name} without the tensors of a lowbit container`);
    }
    return tensors;
  },
  solvedBytes: expectedBytes,
  dense: denseTensors,
  open: (directory, source) => Promise.resolve(open(directory, source)),
};

/** Codes, scales and a second value per group: what most methods take; sparse and low-rank parts come on top. */
function expectedBytes({ n, k, settings: { bits, groupSize } }: Target): number {
  return Math.ceil((n * k * bits) / 8) + n * groupCount(k, groupSize) * 4;
}

function open(directory: string, { checkpoint, options, sideFiles, version }: OutputSource): Output {
  const writer = new SafetensorsWriter(directory, { maxShardBytes: options.maxShardBytes });
  return {
    async addSolved(target, tensors) {
      for (const { part, dtype, shape, data } of tensors) await writer.add(`${target.name}.${part}`, dtype, shape, data);
    },
    addDense: (tensor, pieces) => writer.addPieces(tensor.name, tensor.dtype, tensor.shape, pieces),
    async finish() {
      const files = await writer.finish();
      await writeSideFiles(directory, checkpoint, sideFiles, {
        quant_method: 'lowbit',
        version: containerVersion,
        method: options.method,
        quantizer: [`lowbit:${version}`],
      });
      const sizes = await Promise.all(files.map(async (file) => (await stat(path.join(directory, file))).size));
      return sizes.reduce((sum, size) => sum + size, 0);
    },
    abort: () => writer.abort(),
  };
}
