/**
 * AWQ and compressed-tensors checkpoints give the logits of the same codes in a GPTQ checkpoint, which were computed apart from this
 * project: the interop fixtures, moved bit by bit into the layouts of the other tools (test/checkpoint/repack.ts). Files that
 * compressed-tensors itself wrote are in golden.test.ts.
 */
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { convert } from '../../lib';
import { temporaryDirectory } from '../checkpoint/support';
import { type RepackOptions, repack } from '../checkpoint/repack';
import { differences } from '../quantize/reference';
import { expectedOf, fixtures, logitsOf, specOf, topMismatches, withContext, withModel, worstDifference } from './fixtures';

const cases: readonly (readonly [fixture: string, options: RepackOptions])[] = [
  ['gptq-v1-4bit-g128-sym', { layout: 'awq' }],
  ['gptq-v2-4bit-g64-asym', { layout: 'awq' }],
  ['gptq-v2-4bit-g64-asym', { layout: 'stream' }],
  ['gptq-v2-4bit-g64-asym', { layout: 'stream', byteZeros: true }],
  ['gptq-v1-3bit-g64', { layout: 'stream' }],
  ['gptq-v1-3bit-g64', { layout: 'padded' }],
  ['gptq-v1-4bit-g64-descact', { layout: 'stream' }],
  ['gptq-v1-8bit-g128', { layout: 'stream', symmetric: true }],
];
const ROWS = 48;

describe.each(cases)('%s as %j', (name, options) => {
  const directory = path.join(temporaryDirectory(), 'model');
  beforeAll(() => repack(path.join(fixtures, 'interop', name), directory, options));

  test.each(['exact', 'fast'] as const)('%s path', async (precision) => {
    const { tokens, logits } = expectedOf(path.join('interop', name));
    const vocabSize = logits.length / tokens.length;
    const [some, expected] = [tokens.slice(0, ROWS), logits.slice(0, ROWS * vocabSize)];
    const spec = await specOf(path.relative(fixtures, directory), precision);
    expect(spec.plan.weights.filter(({ source }) => source.kind === 'words' && source.layout === options.layout)).toHaveLength(28);
    const actual = await withModel(spec, (model) => withContext(model, ROWS, 'f32', (context) => logitsOf(context, some, vocabSize, ROWS)));
    if (precision === 'exact') expect(worstDifference(actual, expected)).toBeLessThanOrEqual(1e-3);
    else expect(topMismatches(actual, expected, vocabSize, 0.2).wrong).toBe(0);
  });

  test('converts to the GPTQ checkpoint that its bits come from', async () => {
    const output = path.join(path.dirname(directory), 'gptq');
    const report = await convert({ model: directory, output, to: name.startsWith('gptq-v1') ? 'gptq' : 'gptq_v2', threads: 2 });
    expect(report.tensors.filter(({ exact }) => !exact)).toEqual([]);
    expect(report.dropped).toEqual(['quantization_config of config.json']);
    expect(differences(output, path.join(fixtures, 'interop', name))).toEqual([]);
    const { quantization_config } = JSON.parse(readFileSync(path.join(output, 'config.json'), 'utf8')) as Record<string, unknown>;
    expect(quantization_config).toMatchObject({ quant_method: 'gptq', desc_act: name.includes('descact') });
  });
});
