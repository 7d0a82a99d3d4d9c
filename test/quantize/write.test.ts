// lib/quantize files from sources that are no Hugging Face directories, and what happens when the disk is too small.
import fsPromises, { mkdtemp, readFile, readdir, rm } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { openCheckpoint, SafetensorsWriter, type Checkpoint } from '../../lib/checkpoint';
import type { Plan } from '../../lib/graph/plan';
import { buildPlan } from '../../lib/models';
import type { ModelHandle } from '../../lib/native';
import { quantize } from '../../lib/quantize';
import { findSideFiles, writeSideFiles } from '../../lib/quantize/sidefiles';
import { denseTensors, writeDense } from '../../lib/quantize/write';
import { floats, readTensors, type RawTensor } from './reference';

jest.mock('node-gyp-build', () => () => ({
  engineInfo: () => ({ version: '0', cpu: 'fake cpu', chosenIsa: 'fake', bf16: true }),
  exportWeight: async (_model: unknown, weight: number, { begin, end }: { begin: number; end: number }) =>
    new Uint16Array((end - begin) * 128).fill(weight + 1),
  exportVector: (_model: unknown, vector: number) => new Float32Array(128).fill(vector + 1.25),
}));

const source = path.join(__dirname, '..', 'fixtures', 'tiny-stories');

let directory: string;
let hf: Checkpoint;
let gguf: Checkpoint;
let plan: Plan;
beforeEach(async () => {
  directory = await mkdtemp(path.join(os.tmpdir(), 'lowbit-write-'));
  hf = await openCheckpoint(source);
  gguf = {
    ...hf,
    kind: 'gguf',
    path: 'model.gguf',
    chatTemplate: '{{ x }}',
    config: { model_type: 'llama', rope_theta: 10000 },
    conventions: { ropePermuted: true, normPlusOneStored: true },
  };
  plan = buildPlan(hf);
});
afterEach(async () => {
  jest.restoreAllMocks();
  await rm(directory, { recursive: true, force: true });
});

/** All linears quantised. */
const allTargets = (): Map<number, never> =>
  new Map(plan.weights.flatMap(({ role }, index) => (role === 'linear' ? [[index, undefined as never] as const] : [])));

test('a GGUF source gets Hugging Face names, types and norms', async () => {
  const tensors = denseTensors(gguf, plan, allTargets());
  expect(tensors.map(({ name, dtype, shape }) => [name, dtype, shape])).toEqual([
    ['model.embed_tokens.weight', 'BF16', [512, 128]],
    ...plan.vectors.map(({ name }) => [`${name}.weight`, 'F32', [128]]),
  ]);
  const writer = new SafetensorsWriter(directory);
  const done: number[] = [];
  const onProgress = (bytes: number, total: number): number => done.push(bytes / total);
  const add: Parameters<typeof writeDense>[1] = ({ name, dtype, shape }, pieces) => writer.addPieces(name, dtype, shape, pieces);
  await writeDense(tensors, add, { checkpoint: gguf, model: {} as ModelHandle, signal: undefined, onProgress });
  await writer.finish();
  expect(done.at(-1)).toBe(1);
  const written = readTensors(directory);
  expect([...written.keys()].sort()).toEqual(tensors.map(({ name }) => name).sort());
  expect(new Set(written.get('model.embed_tokens.weight')?.bytes)).toEqual(new Set([1, 0]));
  // The engine computes with 1 + w; files hold w.
  plan.vectors.forEach(({ name }, vector) =>
    expect(new Set(floats(written.get(`${name}.weight`) as RawTensor))).toEqual(new Set([vector + 0.25])),
  );
});

test('dense weights of a Hugging Face source are named as they are', () => {
  const some = allTargets();
  const kept = [...some.keys()][3] as number;
  some.delete(kept);
  const names = denseTensors(hf, plan, some).map(({ name }) => name);
  expect(names).toContain(`${plan.weights[kept]?.name}.weight`);
  expect(names).toHaveLength(hf.tensors.length - some.size);
});

test('small files of a GGUF source are rebuilt', async () => {
  expect(await findSideFiles(gguf)).toEqual([]);
  await writeSideFiles(directory, gguf, [], { bits: 4 });
  expect((await readdir(directory)).sort()).toEqual([
    'chat_template.jinja',
    'config.json',
    'generation_config.json',
    'quantize_config.json',
    'tokenizer.json',
    'tokenizer_config.json',
  ]);
  const read = async (name: string): Promise<string> => readFile(path.join(directory, name), 'utf8');
  expect(JSON.parse(await read('config.json'))).toEqual({
    torch_dtype: 'bfloat16',
    model_type: 'llama',
    rope_theta: 10000,
    quantization_config: { bits: 4 },
  });
  expect(await read('config.json')).toContain('"rope_theta": 10000.0');
  expect(JSON.parse(await read('tokenizer.json'))).toEqual(gguf.tokenizerJson);
  expect(await read('chat_template.jinja')).toBe('{{ x }}');
});

test('a disk that is too small is found before the work', async () => {
  const real = await fsPromises.statfs(directory);
  jest.spyOn(fsPromises, 'statfs').mockResolvedValue(Object.assign(real, { bavail: 10, bsize: 4096 }));
  const output = path.join(directory, 'a', 'b');
  await expect(quantize({ model: source, output, method: 'rtn' })).rejects.toMatchObject({
    code: 'IO',
    message: expect.stringMatching(
      /^Not enough room for the output .*b and the work beside it: about \d+ MB are needed and 1 MB are free\. Free space or choose another disk$/,
    ),
  });
  expect(await readdir(directory)).toEqual([]);
});
