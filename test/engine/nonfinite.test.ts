/** NaN and infinity, in weights and in what the model computes, are errors that name their place; the engine works afterwards. */
import path from 'node:path';
import { type Context, evaluate, loadModel, quantize } from '../../lib';
import { errorOf, temporaryDirectory } from '../checkpoint/support';
import { writeTinyCheckpoint } from '../checkpoint/tiny';

const scratch = temporaryDirectory();
let next = 0;
const write = (change: (name: string, values: number[]) => void): string => writeTinyCheckpoint(path.join(scratch, String(next++)), change);

async function generate(context: Context): Promise<number[]> {
  const ids: number[] = [];
  for await (const id of context.generateTokens([1, 2, 3], { maxTokens: 3, ignoreEos: true })) ids.push(id);
  return ids;
}

test.each([
  ['NaN', NaN],
  ['infinity', Infinity],
  ['minus infinity', -Infinity],
])('%s in a weight', async (_name, value) => {
  const tensor = 'model.layers.0.mlp.up_proj.weight';
  const directory = write((name, values) => {
    if (name === tensor) values[77] = value;
  });
  expect(await errorOf(() => loadModel(directory))).toMatchObject({
    code: 'CORRUPT_FILE',
    message: expect.stringContaining(tensor) as string,
  });
  expect((await errorOf(() => quantize({ model: directory, output: path.join(scratch, 'out'), method: 'rtn' }))).message).toContain(tensor);
});

test('NaN in a norm weight', async () => {
  const directory = write((name, values) => {
    if (name === 'model.norm.weight') values[3] = NaN;
  });
  expect(await errorOf(() => loadModel(directory))).toMatchObject({
    code: 'CORRUPT_FILE',
    message: expect.stringContaining('model.norm') as string,
  });
});

test.each(['exact', 'fast'] as const)('values that overflow while running, %s path', async (precision) => {
  const directory = write((name, values) => {
    if (name.endsWith('norm.weight')) values.fill(3e38);
  });
  const model = await loadModel(directory, { precision });
  const context = await model.createContext({ contextSize: 16 });
  const error = await errorOf(() => generate(context));
  expect(error).toMatchObject({ code: 'INVALID_ARGUMENT', message: expect.stringContaining('not finite at position 2') as string });
  expect((await errorOf(() => evaluate.logits(model, [1, 2]))).message).toContain('not finite');
  // The context is as it was, and another model runs.
  expect((await errorOf(() => generate(context))).message).toBe(error.message);
  await context.dispose();
  await model.dispose();
  const sound = await loadModel(
    write(() => undefined),
    { precision },
  );
  const other = await sound.createContext({ contextSize: 16 });
  expect(await generate(other)).toHaveLength(3);
  await other.dispose();
  await sound.dispose();
});

test('calibration inputs that overflow: the rows are dropped, and what is left is too little', async () => {
  const directory = write((name, values) => {
    if (name.endsWith('layernorm.weight')) values.fill(3e38);
  });
  const tokens = Array.from({ length: 8 }, (_, s) => Array.from({ length: 48 }, (_, i) => (i * 7 + s) % 48));
  const report = await quantize({
    model: directory,
    output: path.join(scratch, 'overflow'),
    bits: 4,
    groupSize: 32,
    calibration: tokens,
    calibrationLength: 48,
  });
  expect(report.fallbacks.join('\n')).toMatch(/RTN/);
});
