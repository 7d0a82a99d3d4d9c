/** The arithmetic of llama.cpp's perplexity: which positions count, and what their losses add up to. */

/** Position of the first row whose next token is scored. */
export function firstScoredRow(contextSize: number): number {
  return Math.floor(contextSize / 2);
}

/** Sums of negative log-likelihoods. */
export class LossSum {
  count = 0;
  private sum = 0;
  private squares = 0;

  add(logProbabilities: Iterable<number>): void {
    for (const value of logProbabilities) {
      this.count++;
      this.sum -= value;
      this.squares += value * value;
    }
  }

  get perplexity(): number {
    return Math.exp(this.sum / this.count);
  }

  /** 0 for fewer than two targets. */
  get standardError(): number {
    if (this.count < 2) return 0;
    const mean = this.sum / this.count;
    const variance = Math.max(0, this.squares / this.count - mean * mean); // rounding can make it slightly negative
    return this.perplexity * Math.sqrt(variance / (this.count - 1));
  }
}
