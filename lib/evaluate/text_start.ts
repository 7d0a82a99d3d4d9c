/** Tokens of the beginning of a long text, without tokenising all of it: that takes seconds per megabyte and blocks the event loop. */
import type { Tokenizer } from '../tokenizer';

/** Near the cut, tokens may differ from those of the whole text; further away than a few words they do not. */
const margin = 64;

/** The first `wanted` tokens of the text, or all if it has fewer. */
export function startTokens(tokenizer: Pick<Tokenizer, 'encode'>, text: string, wanted: number): Int32Array {
  for (let length = (wanted + margin) * 6; length < text.length; length *= 2) {
    const tokens = tokenizer.encode(text.slice(0, wholeCharacters(text, length)));
    if (tokens.length >= wanted + margin) return tokens.slice(0, wanted);
  }
  return tokenizer.encode(text).slice(0, wanted);
}

/** A cut between the halves of a surrogate pair would make another character of each. */
function wholeCharacters(text: string, length: number): number {
  return (text.codePointAt(length - 1) as number) > 0xffff ? length - 1 : length;
}
