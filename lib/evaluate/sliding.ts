/**
 * Which tokens a window of Hugging Face's perplexity sees and scores ("Perplexity of fixed-length models" in the documentation of transformers).
 * Arithmetic only.
 */

export interface Window {
  /** Tokens [begin, end) of the text, run from an empty context. */
  readonly begin: number;
  readonly end: number;
  /** Row of the window, from its begin, whose next token is the first that is scored; the others up to its end follow. */
  readonly firstRow: number;
}

/**
 * Windows of `contextSize` tokens that begin every `stride` tokens and end with the text, in order. Each scores the targets that none before
 * it has scored; the first token of a window has nothing before it and is never scored there.
 *
 * @param length tokens of the text, 2 or more
 * @param stride 1 to contextSize
 */
export function slidingWindows(length: number, contextSize: number, stride: number): Window[] {
  const windows: Window[] = [];
  for (let begin = 0, seen = 0; seen < length; begin += stride) {
    const end = Math.min(begin + contextSize, length);
    const firstTarget = Math.max(begin + 1, seen);
    if (firstTarget < end) windows.push({ begin, end, firstRow: firstTarget - 1 - begin });
    seen = end;
  }
  return windows;
}
