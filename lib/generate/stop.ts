/**
 * Stop strings over a stream of text pieces. No part of a stop string ever leaves: a tail that may still become one is
 * held back. What comes out does not depend on how the text is cut into pieces.
 */

export class StopFilter {
  private held = '';
  private done = false;

  /** `stops`: non-empty strings; empty list = everything passes. */
  constructor(private readonly stops: readonly string[]) {}

  /** True once a stop string was complete; later pieces are ignored. */
  get stopped(): boolean {
    return this.done;
  }

  /** Takes the next piece, returns the text that is safe to show. */
  push(piece: string): string {
    if (this.done) return '';
    const text = this.held + piece;
    const cut = this.firstStop(text);
    if (cut !== undefined) {
      this.done = true;
      this.held = '';
      return text.slice(0, cut);
    }
    const keep = this.possiblePrefix(text);
    this.held = text.slice(text.length - keep);
    return text.slice(0, text.length - keep);
  }

  /** The text ends here: what was held back is not a stop string after all. */
  flush(): string {
    const rest = this.held;
    this.held = '';
    return rest;
  }

  /**
   * Start of the stop string that is complete first (smallest end, then smallest start), as if the text had come letter
   * by letter.
   */
  private firstStop(text: string): number | undefined {
    let start: number | undefined;
    let end = Infinity;
    for (const stop of this.stops) {
      const at = text.indexOf(stop);
      if (at < 0) continue;
      const ends = at + stop.length;
      if (ends < end || (ends === end && at < (start as number))) [start, end] = [at, ends];
    }
    return start;
  }

  /** Length of the longest tail of `text` that is a proper prefix of a stop string. */
  private possiblePrefix(text: string): number {
    let keep = 0;
    for (const stop of this.stops) {
      for (let length = Math.min(stop.length - 1, text.length); length > keep; length--) {
        if (text.endsWith(stop.slice(0, length))) {
          keep = length;
          break;
        }
      }
    }
    return keep;
  }
}
