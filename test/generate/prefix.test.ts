import { batches, commonPrefix, reusablePrefix } from '../../lib/generate/prefix';

describe('prefix reuse', () => {
  test.each([
    [[], [1, 2], 0],
    [[1, 2, 3], [1, 2, 4], 2],
    [[1, 2], [1, 2, 3], 2],
    [[1, 2, 3], [1, 2], 2],
    [[5], [6], 0],
  ])('common prefix of %j and %j', (held, prompt, length) => expect(commonPrefix(held, prompt)).toBe(length));

  test('the last token of a prompt is always run again: its logits are needed', () => {
    expect(reusablePrefix([1, 2, 3], [1, 2, 3])).toBe(2);
    expect(reusablePrefix([1, 2, 3, 4], [1, 2, 3])).toBe(2);
    expect(reusablePrefix([], [7])).toBe(0);
    expect(reusablePrefix(Int32Array.of(1, 2), Int32Array.of(1, 2, 3))).toBe(2);
  });
});

describe('batches', () => {
  test.each([
    [
      0,
      5,
      2,
      [
        [0, 2],
        [2, 4],
        [4, 5],
      ],
    ],
    [3, 7, 4, [[3, 7]]],
    [4, 4, 8, []],
  ])('of [%d, %d) by %d', (begin, end, size, expected) => expect([...batches(begin, end, size)]).toEqual(expected));
});
