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
import { denseTensors, safetensorsOverhead } from '../write';
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
  // Records, codes, scales, zero points; the two of a low-rank part.
  overheadBytes: (source, total) =>
    Promise.resolve(safetensorsOverhead(source, source.options.allocation?.ranks.some((rank) => rank > 0) === true ? 6 : 4, total)),
  open: (directory, source) => Promise.resolve(open(directory, source)),
};

const recordBytes = 32;

/**
 * Records, codes, scales, zero points, a stored order and a low-rank part: all that GPTQ and rounding make. Of other methods it is an estimate: their sparse
 * parts, minima and scales of inputs come on top.
 */
function expectedBytes({ n, k, settings }: Target): number {
  const { bits, groupSize, sym, descAct, staticGroups, eoraRank } = settings;
  const groups = groupCount(k, groupSize);
  const stream = (count: number): number => n * Math.ceil((count * bits) / 8);
  const order = descAct && !staticGroups && groups > 1 ? 4 * k : 0;
  const lowRank = eoraRank > 0 ? recordBytes + 2 * eoraRank * (n + k) : 0;
  return recordBytes + stream(k) + 2 * n * groups + (sym ? 0 : stream(groups)) + order + lowRank;
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
