/** The arithmetic of perplexity, against sums done by hand. */
import { LossSum, firstScoredRow } from '../../lib/evaluate/loss_sum';

test('llama.cpp scores 255 targets of a chunk of 512, from position 257 on', () => {
  const first = firstScoredRow(512); // row r predicts position r + 1
  expect(first + 1).toBe(257);
  expect(512 - 1 - first).toBe(255);
  expect(firstScoredRow(5)).toBe(2);
});

test('perplexity and standard error', () => {
  const sum = new LossSum();
  sum.add([-Math.log(2), -Math.log(8)]);
  expect(sum.count).toBe(2);
  expect(sum.perplexity).toBeCloseTo(4, 12); // geometric mean of 2 and 8
  // mean 2 ln 2, deviations +- ln 2: variance (ln 2)^2, over N - 1 = 1
  expect(sum.standardError).toBeCloseTo(4 * Math.log(2), 12);
});

test('equal losses have no error, and rounding never makes it NaN', () => {
  const sum = new LossSum();
  sum.add(Array(1000).fill(-1.1));
  expect(sum.perplexity).toBeCloseTo(Math.exp(1.1), 9);
  expect(sum.standardError).toBeGreaterThanOrEqual(0);
  expect(sum.standardError).toBeLessThan(1e-6);
});
