/** The command line of npm run bench: every value is checked, and the message names option and range. */
import { pure } from './load';

const { FILES, parseOptions } = pure('options');
const scenarios = ['speed', 'gptq'];
const parse = (...argv: string[]) => parseOptions(argv, {}, scenarios);

test('defaults', () => {
  expect(parse()).toMatchObject({ command: 'run', rounds: 7, quick: false, only: undefined, skip: [], files: FILES, threads: [1, 2] });
  expect(parse('--quick')).toMatchObject({ rounds: 2, quick: true });
});

test('lists are sorted out, the environment gives folders, and the command line wins', () => {
  expect(parse('--threads', '4,1,4', '--only', 'gptq,gptq', '--files', 'Q8_0')).toMatchObject({
    threads: [1, 4],
    only: ['gptq'],
    files: ['Q8_0'],
  });
  expect(parseOptions(['--cache', 'b'], { LOWBIT_BENCH_CACHE: 'a', LOWBIT_BENCH_LLAMA: 'c' }, scenarios)).toMatchObject({
    cache: 'b',
    llama: 'c',
  });
  expect(parseOptions([], { LOWBIT_PYTHON: '' }, scenarios).python).toBeUndefined();
  expect(parse('report', 'a.jsonl', 'b.jsonl')).toMatchObject({ command: 'report', inputs: ['a.jsonl', 'b.jsonl'] });
});

test.each([
  [['--rounds', '0'], 'Expected integer between 1 and 100 for --rounds but received "0"'],
  [['--rounds', '1.5'], 'Expected integer between 1 and 100 for --rounds but received "1.5"'],
  [['--rounds', '4294967296'], 'Expected integer between 1 and 100 for --rounds but received "4294967296"'],
  [['--threads', '1,x'], 'Expected integer between 1 and 256 for --threads but received "x"'],
  [['--threads='], 'Expected integer between 1 and 256 for --threads but received ""'],
  [['--only', 'sped'], 'Expected one of speed, gptq for --only but received "sped"'],
  [['--files', ','], 'for --files but received ","'],
  [['walk'], 'Expected one of run, setup, report, list for the command but received "walk"'],
  [['run', 'away'], 'Expected no argument after "run" but received "away"'],
  [['--unknown'], "Unknown option '--unknown'"],
])('%j is refused', (argv, message) => {
  expect(() => parse(...argv)).toThrow(message);
});
