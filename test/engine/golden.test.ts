/**
 * The engine computes what transformers computes: logits of every golden checkpoint, as one prefill and token by token, on both
 * numeric paths and every instruction set of this machine.
 *
 * The files under arch/ were written by casting a whole model to bf16 and back, which also rounded the rotary frequencies that
 * transformers itself keeps in f32 (test/models/golden.test.ts shows it). They are compared with tables rounded the same way.
 */
import { readdirSync } from 'node:fs';
import path from 'node:path';
import type { Plan } from '../../lib/graph/plan';
import { expectedOf, fixtures, logitsOf, specOf, topMismatches, withContext, withModel, worstDifference } from './fixtures';

function bf16(value: number): number {
  const view = new DataView(new ArrayBuffer(4));
  view.setFloat32(0, value);
  const bits = view.getUint32(0);
  view.setUint32(0, ((bits + 0x7fff + ((bits >>> 16) & 1)) & 0xffff0000) >>> 0);
  return view.getFloat32(0);
}

const roundedRopes = (plan: Plan): Plan => ({
  ...plan,
  ropes: plan.ropes.map((rope) => ({ ...rope, inverseFrequencies: rope.inverseFrequencies.map(bf16) })),
});

const cases: [string, ((plan: Plan) => Plan) | undefined][] = [
  ['tiny-stories', undefined],
  ...readdirSync(path.join(fixtures, 'arch')).map((name): [string, (plan: Plan) => Plan] => [path.join('arch', name), roundedRopes]),
  ...readdirSync(path.join(fixtures, 'interop')).map((name): [string, undefined] => [path.join('interop', name), undefined]),
];

test('the comparison fails on NaN, on one bad element and on a short array', () => {
  const expected = Float32Array.of(1, 2, 3);
  expect(worstDifference(expected, expected)).toBe(0);
  expect(worstDifference(Float32Array.of(1, 2, 3.5), expected)).toBe(0.5);
  expect(worstDifference(Float32Array.of(NaN, 2, 3), expected)).toBeNaN();
  expect(worstDifference(Float32Array.of(1, 2), expected)).toBeNaN();
  expect(topMismatches(Float32Array.of(0, 9, 0), expected, 3, 0.5)).toEqual({ wrong: 1, checked: 1 });
});

describe.each(cases)('%s', (directory, change) => {
  const { tokens, logits } = expectedOf(directory);
  const vocabSize = logits.length / tokens.length;

  // f32 sums of some hundred terms on logits up to 20; measured worst 4e-5.
  test.each([tokens.length, 7, 1])('exact path, %d tokens a step', async (batch) => {
    const worst = await withModel(await specOf(directory, 'exact', change), (model) =>
      withContext(model, tokens.length, 'f32', (context) => logitsOf(context, tokens, vocabSize, batch)),
    ).then((actual) => worstDifference(actual, logits));
    expect(worst).toBeLessThanOrEqual(1e-3);
  });

  // int8 activations, or bf16 where the processor multiplies those: only clear decisions must agree. Behind a router that had to choose between
  // experts with nearly the same score, rounding may have chosen the other one, and random experts have nothing in common.
  const routed = /moe|mixtral|deepseek/.test(directory);
  test.each([tokens.length, 5, 1])('fast path, %d tokens a step', async (batch) => {
    const actual = await withModel(await specOf(directory, 'fast', change), (model) =>
      withContext(model, tokens.length, 'f16', (context) => logitsOf(context, tokens, vocabSize, batch)),
    );
    const { wrong, checked } = topMismatches(actual, logits, vocabSize, 0.2);
    expect(checked).toBeGreaterThan(tokens.length / 4);
    expect(wrong).toBeLessThanOrEqual(routed ? checked / 20 : 0);
  });
});
