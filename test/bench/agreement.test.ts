/** The check that comes before time: it must see a wrong model, and a NaN. */
import { pure } from './load';

const { disagreement, divergence, logProbabilities, meanAgreement, readLogProbabilities } = pure('agreement');
const limits = { klNats: 0.02, sameBest: 0.9 };

test('log-probabilities sum to one, whatever the shift', () => {
  for (const shift of [0, 1000, -1000]) {
    const sum = [...logProbabilities([1, 2, 3].map((value) => value + shift))].reduce(
      (total: number, value: any) => total + Math.exp(value),
      0,
    );
    expect(Math.abs(sum - 1)).toBeLessThan(1e-6);
  }
});

test('divergence of two coins, by hand', () => {
  const [p, q] = [
    [0.5, 0.5],
    [0.9, 0.1],
  ].map((row) => Float32Array.from(row, Math.log));
  expect(divergence(p, q).nats).toBeCloseTo(0.5 * Math.log(0.5 / 0.9) + 0.5 * Math.log(0.5 / 0.1), 6);
  expect(divergence(p, p).nats).toBe(0);
  expect(() => divergence(p, Float32Array.of(0))).toThrow(RangeError);
});

test('one swapped pair of tokens, a NaN and too few equal best tokens are disagreements', () => {
  const p = logProbabilities([4, 1, 0, 0]);
  const rows = (q: Float32Array) => meanAgreement([divergence(p, q)]);
  expect(disagreement(rows(p), limits)).toBeUndefined();
  expect(disagreement(rows(logProbabilities([1, 4, 0, 0])), limits)).toMatch(/nats/);
  expect(disagreement(rows(Float32Array.of(NaN, -2, -3, -3)), limits)).toMatch(/NaN nats/);
  expect(disagreement({ kl_nats: 0, same_best: 0.5 }, limits)).toMatch(/best token/);
  expect(disagreement({ kl_nats: 0, same_best: NaN }, limits)).toMatch(/best token/);
  expect(() => meanAgreement([])).toThrow(RangeError);
});

describe('the file of log-probabilities', () => {
  /** Two chunks of 5 tokens, a vocabulary of 3 (padded to 4): positions 2 and 3 are stored. */
  function file(): Buffer {
    const [context, vocabulary, chunks, scored] = [5, 3, 2, 2];
    const head = Buffer.alloc(20);
    head.write('_logits_', 'latin1');
    [context, vocabulary, chunks].forEach((value, i) => head.writeInt32LE(value, 8 + 4 * i));
    const tokens = Buffer.from(Int32Array.from({ length: context * chunks }, (_, i) => i).buffer);
    const rows = Array.from({ length: chunks * scored }, (_, row) => {
      const bytes = Buffer.alloc(16);
      bytes.writeFloatLE(0.5, 0);
      bytes.writeFloatLE(-8, 4);
      [row, 10, 16].forEach((code, id) => bytes.writeUInt16LE(code, 8 + 2 * id));
      return bytes;
    });
    return Buffer.concat([head, tokens, ...rows]);
  }

  test('is read to the byte', () => {
    const read = readLogProbabilities(file());
    expect(read).toMatchObject({ contextSize: 5, vocabulary: 3, first: 2, scored: 2 });
    expect(read.tokens.map((ids: Int32Array) => [...ids])).toEqual([
      [0, 1, 2, 3, 4],
      [5, 6, 7, 8, 9],
    ]);
    expect([...read.rows(1, 1)]).toEqual([-6.5, -3, 0]);
  });

  test('tokens that were cut off, 16 below the best one, are impossible and not merely improbable', () => {
    const bytes = file();
    const row = 20 + 40;
    bytes.writeFloatLE(16 / 65_535, row);
    bytes.writeFloatLE(-16, row + 4);
    [0, 65_535, 1].forEach((code, id) => bytes.writeUInt16LE(code, row + 8 + 2 * id));
    const p = readLogProbabilities(bytes).rows(0, 0);
    expect(p[0]).toBe(-Infinity);
    expect(p[2]).toBeCloseTo(-16, 3);
    expect(divergence(p, p)).toEqual({ nats: 0, sameBest: true });
  });

  test('a truncated or foreign file is refused', () => {
    expect(() => readLogProbabilities(file().subarray(0, -1))).toThrow(/too few for 2 chunks/);
    expect(() => readLogProbabilities(Buffer.from('GGUF'))).toThrow(/llama-perplexity did not write it/);
  });
});
