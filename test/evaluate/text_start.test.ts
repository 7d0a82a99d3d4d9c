/** The start of a text gives the same tokens as the start of the tokens of the whole text. */
import path from 'node:path';
import { openCheckpoint } from '../../lib/checkpoint';
import { startTokens } from '../../lib/evaluate/text_start';
import { Tokenizer } from '../../lib/tokenizer';
import { storyModel, storyText } from '../generate/fixture';

let tokenizer: Tokenizer;
beforeAll(async () => {
  tokenizer = Tokenizer.fromCheckpoint(await openCheckpoint(path.resolve(storyModel)));
});

test.each([
  ['the story', storyText],
  ['characters of two code units', 'a😀b '.repeat(3000)],
  ['one long word', 'ab'.repeat(2000)],
  ['newlines', '\n\n \n'.repeat(3000)],
])('%s', (_name, text) => {
  const whole = tokenizer.encode(text);
  for (const wanted of [1, 8, 63, 500, 501, whole.length - 1, whole.length, whole.length + 1, Infinity]) {
    expect(startTokens(tokenizer, text, wanted)).toEqual(whole.slice(0, wanted));
  }
});

test('reads no more of the text than it needs', () => {
  let read = 0;
  const counting = { encode: (text: string) => ((read += text.length), tokenizer.encode(text)) };
  startTokens(counting, storyText.repeat(10), 100);
  expect(read).toBeLessThan(2000);
});
