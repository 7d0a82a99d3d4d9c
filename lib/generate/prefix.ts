/** What a sequence holds and how much of it a new prompt can reuse. Pure logic, no engine. */

/** Number of leading tokens that are equal. */
export function commonPrefix(held: ArrayLike<number>, prompt: ArrayLike<number>): number {
  const limit = Math.min(held.length, prompt.length);
  let length = 0;
  while (length < limit && held[length] === prompt[length]) length++;
  return length;
}

/**
 * Tokens of the sequence to keep for `prompt`: the common prefix, but always less than the whole prompt, because the
 * logits that the first new token is drawn from come from running the prompt's last token.
 */
export function reusablePrefix(held: ArrayLike<number>, prompt: ArrayLike<number>): number {
  return Math.min(commonPrefix(held, prompt), prompt.length - 1);
}

/** [begin, end) slices of at most `size`, in order, that cover [begin, end). */
export function* batches(begin: number, end: number, size: number): Generator<readonly [number, number]> {
  for (let at = begin; at < end; at += size) yield [at, Math.min(end, at + size)];
}
