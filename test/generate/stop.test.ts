/** Stop strings: nothing of one leaves, and cuts between pieces do not matter. */
import { StopFilter } from '../../lib/generate/stop';

/** Feeds pieces, returns everything that came out. */
function run(pieces: readonly string[], stops: readonly string[]): { text: string; stopped: boolean } {
  const filter = new StopFilter(stops);
  let text = '';
  for (const piece of pieces) text += filter.push(piece);
  return { text: text + filter.flush(), stopped: filter.stopped };
}

/** All ways to cut a short text into pieces. */
function* cuts(text: string): Generator<string[]> {
  for (let mask = 0; mask < 1 << (text.length - 1); mask++) {
    const pieces: string[] = [];
    let begin = 0;
    for (let end = 1; end <= text.length; end++) {
      if (end < text.length && !((mask >> (end - 1)) & 1)) continue;
      pieces.push(text.slice(begin, end));
      begin = end;
    }
    yield pieces;
  }
}

describe('StopFilter', () => {
  test.each([
    ['the stop string is cut off with all that follows', 'one END two', ['END'], 'one ', true],
    ['no stop string: everything passes', 'plain', [], 'plain', false],
    ['an unfinished stop string at the end is text', 'one EN', ['END'], 'one EN', false],
    ['a start that does not go on is text', 'EN END', ['END'], 'EN ', true],
    ['a start that repeats itself', 'aaab', ['aab'], 'a', true],
    ['the one that is complete first wins', 'abcd', ['abcd', 'bc'], 'a', true],
    ['same end: the longer one', 'xab', ['ab', 'b'], 'x', true],
    ['a stop string at the very start', 'END', ['END'], '', true],
    ['newlines', 'a\n\nb', ['\n\n'], 'a', true],
  ])('%s', (_name, text, stops, expected, stopped) => {
    for (const pieces of cuts(text)) expect(run(pieces, stops)).toEqual({ text: expected, stopped });
  });

  test('holds back exactly what may still become a stop string', () => {
    const filter = new StopFilter(['END', 'Nope']);
    expect(filter.push('say EN')).toBe('say ');
    expect(filter.push('o')).toBe('E'); // not END, but "No" may become Nope
    expect(filter.push('N')).toBe('No');
    expect(filter.push('op')).toBe('');
    expect(filter.push('!')).toBe('Nop!');
  });

  test('random texts: the same output for one piece and for single letters', () => {
    let state = 12345;
    const next = (n: number): number => (state = (Math.imul(state, 1103515245) + 12345) >>> 0) % n;
    const word = (length: number): string => Array.from({ length }, () => 'ab'[next(2)]).join('');
    for (let i = 0; i < 500; i++) {
      const text = word(1 + next(20));
      const stops = Array.from({ length: 1 + next(3) }, () => word(1 + next(5)));
      const whole = run([text], stops);
      expect(run(text.split(''), stops)).toEqual(whole);
      expect(whole.stopped).toBe(stops.some((stop) => text.includes(stop)));
      for (const stop of stops) expect(whole.text.includes(stop)).toBe(false);
    }
  });

  test('ignores what comes after the stop', () => {
    const filter = new StopFilter(['.']);
    expect(filter.push('a.')).toBe('a');
    expect(filter.push('b')).toBe('');
    expect(filter.flush()).toBe('');
  });
});
