// The test's own reader is tested: against checkpoints that GPTQModel made of tiny-stories, and by breaking what it reads.
import path from 'node:path';
import { dequantize, floats, half, readTensors, relativeError, roundToGrid, toHalf, type RawTensor } from './reference';

const fixtures = path.join(__dirname, '..', 'fixtures');
const dense = readTensors(path.join(fixtures, 'tiny-stories'));
const name = 'model.layers.1.mlp.down_proj';
const original = floats(dense.get(`${name}.weight`) as RawTensor);

// Limits of the relative squared weight error: misread codes or groups give 1 and more.
test.each([
  ['gptq-v1-2bit-g32', 2, 'gptq', 0.35],
  ['gptq-v1-3bit-g64', 3, 'gptq', 0.1],
  ['gptq-v1-4bit-g128-sym', 4, 'gptq', 0.03],
  ['gptq-v1-4bit-g64-descact', 4, 'gptq', 0.03],
  ['gptq-v1-8bit-g128', 8, 'gptq', 1e-3],
  ['gptq-v2-4bit-g64-asym', 4, 'gptq_v2', 0.03],
] as const)('reads %s', (directory, bits, format, limit) => {
  const tensors = readTensors(path.join(fixtures, 'interop', directory));
  const { weights } = dequantize(tensors, name, bits, format);
  const error = relativeError(weights, original);
  expect(error).toBeLessThan(limit);
  const other = dequantize(tensors, name, bits, format === 'gptq' ? 'gptq_v2' : 'gptq');
  expect(relativeError(other.weights, original)).toBeGreaterThan(3 * error); // zero points off by one are seen
});

test('16-bit floats', () => {
  expect([0x3c00, 0xbc00, 0x0001, 0x7bff, 0x3555].map(half)).toEqual([1, -1, 2 ** -24, 65504, 0.333251953125]);
  for (let bits = 0; bits < 0x7bff; bits += 7) expect(toHalf(half(bits))).toBe(bits);
  expect(toHalf(1 + 2 ** -11)).toBe(0x3c00); // tie, even
  expect(toHalf(1 + 3 * 2 ** -11)).toBe(0x3c02); // tie, even
});

test.each([2, 3, 4, 8])('rounding to %d bits and reading it back', (bits) => {
  const [n, k] = [128, 384];
  for (const sym of [true, false]) {
    const { qweight, qzeros, scales, gIdx } = roundToGrid(original, n, k, { bits, groupSize: 64, sym, zeroOffset: sym ? 1 : 0 });
    const raw = (dtype: string, shape: number[], array: Int32Array | Uint16Array): RawTensor => ({
      dtype,
      shape,
      bytes: Buffer.from(array.buffer),
    });
    const tensors = new Map([
      ['x.qweight', raw('I32', [(k * bits) / 32, n], qweight)],
      ['x.qzeros', raw('I32', [6, (n * bits) / 32], qzeros)],
      ['x.scales', raw('F16', [6, n], scales)],
      ['x.g_idx', raw('I32', [k], gIdx)],
    ]);
    const { weights, scaleOf } = dequantize(tensors, 'x', bits, sym ? 'gptq' : 'gptq_v2');
    // Half a step, and the rounding of the scale to 11 bits over at most 2^bits steps.
    const wrong = weights.findIndex(
      (value, i) => !(Math.abs(value - (original[i] as number)) <= (scaleOf[i] as number) * (0.5 + 2 ** (bits - 11))),
    );
    expect(wrong).toBe(-1);
  }
});
