/**
 * lib/quantize/outputs: one GGUF file, model.gguf, with tokenizer and chat template: what llama.cpp reads. Linears are solved on the grids of GGUF
 * block types; embedding and head are rounded; norms and biases are F32; linears that a rule leaves alone keep the type of the source.
 */
import path from 'node:path';
import { readGgufKeys } from '../../checkpoint/gguf';
import { ggufKey, type GgufKey } from '../../checkpoint/gguf_keys';
import { tokenizerKeys } from '../../checkpoint/gguf_write_tokenizer';
import { configKeys } from '../../checkpoint/gguf_write_config';
import { GgufWriter } from '../../checkpoint/gguf_writer';
import { DTYPES, tensorBytes, type DtypeSize } from '../../checkpoint/dtype';
import type { Checkpoint } from '../../checkpoint/types';
import { LowbitError } from '../../errors';
import type { Plan } from '../../graph/plan';
import { fileTypes, outerType, type BlockType, type GgufType } from '../gguf_types';
import type { Target } from '../layout';
import { modelName } from '../report';
import { architectureOf, ggufTensors, reordered, rowOrder, storedName } from './gguf_tensors';
import type { Output, OutputFormat, OutputSource } from './output';

export const ggufFileName = 'model.gguf';

/** @param type what most linears have; targets know their own */
export function ggufFormat(type: GgufType): OutputFormat {
  return {
    name: 'gguf',
    jobOptions: (target) => ({ zeroOffset: 0, ggufType: typeOf(target) }),
    solved(target, { blocks, n, k }) {
      // A file whose tensors differ from its header would be worse than none.
      if (blocks === undefined || n !== target.n || k !== target.k || blocks.byteLength !== blockBytes(target))
        throw new LowbitError(
          'INTERNAL',
          `The engine returned ${target.name} as [${n}, ${k}] with blocks of another size than the file has room for`,
        );
      return [{ part: 'blocks', dtype: typeOf(target), shape: [n, k], data: blocks }];
    },
    solvedBytes: blockBytes,
    dense: (checkpoint, plan, targets) =>
      ggufTensors(checkpoint, plan, (weight) => (targets.has(weight) ? undefined : denseType(checkpoint, plan, weight, type))),
    async overheadBytes({ checkpoint, plan, targets, dense }) {
      const keys = await ggufKeys(checkpoint, plan, type);
      // A tensor's entry is its name, dimensions, type and offset; each is aligned to 32 bytes.
      const tensors = [...[...targets.values()].map(({ name }) => name), ...dense.map(({ name }) => name)];
      const entries = tensors.reduce((sum, name) => sum + Buffer.byteLength(name) + 72, 0);
      return keys.reduce((sum, { name, value }) => sum + Buffer.byteLength(name) + 8 + value.length, 64 + entries);
    },
    open: (directory, source) => openGguf(path.join(directory, ggufFileName), type, source),
  };
}

/** Embedding and head are rounded, linears left alone stay as they are. */
function denseType(checkpoint: Checkpoint, plan: Plan, weight: number, type: GgufType): string {
  const { role, k, source } = plan.weights[weight] as Plan['weights'][number];
  if (role !== 'linear') return outerType(type, role === 'head' || !plan.weights.some((other) => other.role === 'head'), k).type;
  const dtype = source.kind === 'tensor' ? checkpoint.tensors[source.tensor]?.dtype : undefined;
  return dtype ?? 'BF16';
}

function typeOf({ name, settings }: Target): BlockType {
  if (settings.ggufType === undefined) throw new LowbitError('INTERNAL', `No GGUF type was settled for ${name}`);
  return settings.ggufType;
}

function blockBytes(target: Target): number {
  return tensorBytes(DTYPES.get(typeOf(target)) as DtypeSize, [target.n, target.k], `tensor "${target.name}"`);
}

async function openGguf(file: string, type: GgufType, source: OutputSource): Promise<Output> {
  const { checkpoint, plan, targets, dense } = source;
  const architecture = architectureOf(checkpoint);
  const solved = new Map([...targets.values()].map((target) => [target.weight, storedName(architecture, `${target.name}.weight`)]));
  const specs = [...targets.values()].map((target) => ({
    name: solved.get(target.weight) as string,
    dtype: typeOf(target),
    shape: [target.n, target.k],
  }));
  const writer = await GgufWriter.create(file, await ggufKeys(checkpoint, plan, type), [...specs, ...dense]);
  return {
    addSolved: (target, [blocks]) =>
      writer.write(
        solved.get(target.weight) as string,
        reordered(blocks?.data ?? new Uint8Array(), rowOrder(architecture, plan, target.name, target.n)),
      ),
    addDense: (tensor, pieces) => writer.writePieces(tensor.name, pieces),
    finish: () => writer.finish(),
    abort: () => writer.abort(),
  };
}

/** Keys that a file of other types says differently. */
const REPLACED = new Set(['general.architecture', 'general.file_type', 'general.quantization_version', 'general.alignment']);

/** All metadata: of a GGUF source copied byte for byte, else made from config.json and tokenizer.json. */
export async function ggufKeys(checkpoint: Checkpoint, plan: Plan, type: keyof typeof fileTypes): Promise<readonly GgufKey[]> {
  const architecture = architectureOf(checkpoint);
  const own = [
    ggufKey.string('general.architecture', architecture),
    ggufKey.u32('general.file_type', fileTypes[type]),
    ggufKey.u32('general.quantization_version', 2),
  ];
  if (checkpoint.kind === 'gguf') {
    const copied = [...(await readGgufKeys(checkpoint.files[0] as string))].map(([name, value]) => ({ name, value }));
    return [...own, ...copied.filter(({ name }) => !REPLACED.has(name) && !name.startsWith('split.'))];
  }
  const attention = plan.ops.find((op) => op.op === 'attention');
  const headDim = attention?.headDim ?? 0;
  const rotaryDim = 2 * (plan.ropes[0]?.inverseFrequencies.length ?? headDim / 2);
  return [
    ...own,
    ggufKey.string('general.name', modelName(checkpoint.path)),
    ...configKeys(architecture, checkpoint, { vocabSize: plan.vocabSize, headDim, rotaryDim }),
    ...tokenizerKeys(checkpoint, plan.vocabSize),
  ];
}
