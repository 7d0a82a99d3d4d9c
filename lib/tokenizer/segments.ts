/**
 * tokenizer: cuts long texts where byte-pair merging cannot reach across, so that BPE over a whole text becomes BPE over words.
 *
 * Why this changes nothing: a merge joins two neighbouring symbols a and b, and only pairs in the list of merges are joined. It
 * joins across the border between characters x|y only if a ends in x and b begins with y. If no merge has such an a and b, no symbol
 * ever spans the border, the two sides never see each other, and the result is that of the two sides one after the other.
 * SentencePiece vocabularies have such borders before nearly every word; without them a text is one word of a million characters.
 */

/** Shorter pieces are left whole: words are cached by the library anyway. */
const MIN_LENGTH = 64;

/** Returns a function that cuts a piece; the concatenation of the parts is the piece. */
export function segmenter(merges: readonly (readonly string[])[]): (piece: string) => string[] {
  let joined: ReadonlySet<string> | undefined; // made for the first long piece: loading a model need not wait for it
  return (piece) => {
    if (piece.length < MIN_LENGTH) return [piece];
    joined ??= joinedCharacters(merges);
    const parts: string[] = [];
    let start = 0;
    let before = firstCharacter(piece);
    for (let at = before.length; at < piece.length;) {
      const character = firstCharacter(piece, at);
      if (!joined.has(before + character)) {
        parts.push(piece.slice(start, at));
        start = at;
      }
      before = character;
      at += character.length;
    }
    parts.push(piece.slice(start));
    return parts;
  };
}

/** The pairs of neighbouring characters that some merge joins. */
function joinedCharacters(merges: readonly (readonly string[])[]): ReadonlySet<string> {
  const joined = new Set<string>();
  for (const [left, right] of merges) if (left && right) joined.add(lastCharacter(left) + firstCharacter(right));
  return joined;
}

/** Characters are code points, as in the library; a lone half of a surrogate pair counts as one. */
function firstCharacter(text: string, at = 0): string {
  return String.fromCodePoint(text.codePointAt(at) as number);
}

function lastCharacter(text: string): string {
  const code = text.codePointAt(text.length - 2);
  return code !== undefined && code > 0xffff ? text.slice(-2) : text.slice(-1);
}
