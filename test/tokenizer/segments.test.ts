/** Cutting long texts must not change what byte-pair merging makes of them: compared with merging done naively on the whole text. */
import { segmenter } from '../../lib/tokenizer/segments';
import { randomNumbers } from '../checkpoint/support';

/** BPE by definition: join the pair of the best rank, the leftmost first, until none is left. */
function merge(text: string, ranks: ReadonlyMap<string, number>): string[] {
  const symbols = Array.from(text);
  for (;;) {
    let best = Infinity;
    let at = -1;
    for (let i = 0; i + 1 < symbols.length; i++) {
      const rank = ranks.get(`${symbols[i]} ${symbols[i + 1]}`) ?? Infinity;
      if (rank < best) [best, at] = [rank, i];
    }
    if (at < 0) return symbols;
    symbols.splice(at, 2, (symbols[at] as string) + (symbols[at + 1] as string));
  }
}

test('200 random vocabularies and texts', () => {
  const random = randomNumbers(11);
  const pick = <T>(items: readonly T[]): T => items[Math.floor(random() * items.length)] as T;
  const alphabet = ['a', 'b', 'c', '\u2581', '\ud83d\ude80', '\u00e9', '\ud83d'];
  let cuts = 0;
  for (let round = 0; round < 200; round++) {
    const symbols = [...alphabet];
    const merges: [string, string][] = [];
    for (let i = 0; i < 12; i++) {
      const pair: [string, string] = [pick(symbols), pick(symbols)];
      merges.push(pair);
      symbols.push(pair.join(''));
    }
    const ranks = new Map(merges.map(([a, b], rank) => [`${a} ${b}`, rank] as const).reverse());
    const text = Array.from({ length: 150 }, () => pick(alphabet)).join('');
    const parts = segmenter(merges)(text);
    cuts += parts.length - 1;
    expect(parts.join('')).toBe(text);
    expect(parts.flatMap((part) => merge(part, ranks))).toEqual(merge(text, ranks));
  }
  expect(cuts).toBeGreaterThan(200); // the test would prove nothing if nothing was cut
});

test('words of a SentencePiece text come apart before their space', () => {
  const cut = segmenter([
    ['\u2581', 'a'],
    ['a', 'b'],
    ['b', 'a'],
    ['a', 'a'],
  ]);
  expect(cut('\u2581aba'.repeat(20))).toEqual(Array<string>(20).fill('\u2581aba'));
  expect(cut('\u2581a\u2581a')).toEqual(['\u2581a\u2581a']); // short pieces stay whole
});
