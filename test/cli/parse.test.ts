/** Words of the command line to values, without a process. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { median } from '../../lib/cli/commands/bench';
import { formatBytes } from '../../lib/units';
import { camelCaseRules, collect, defined, parseJsonObject, parseNumber, readText, toSnakeCase } from '../../lib/cli/parse';
import { createIo } from '../../lib/cli/io';
import { failure } from '../generate/fixture';

test.each([
  ['4', 4],
  ['-1', -1],
  ['0.05', 0.05],
  ['.5', 0.5],
  ['1e3', 1000],
  ['4294967296', 2 ** 32],
])('parseNumber(%j)', (word, value) => expect(parseNumber(word)).toBe(value));

test.each([[''], [' '], ['4k'], ['0x10'], ['NaN'], ['Infinity'], ['1,5'], ['--bits'], ['1e'], ['.']])('parseNumber refuses %j', (word) => {
  expect(() => parseNumber(word)).toThrow(`Expected a number but received "${word}".`);
});

test('parseJsonObject', () => {
  expect(parseJsonObject('{"a": 1}')).toEqual({ a: 1 });
  for (const word of ['', '[]', 'null', '3', '{']) expect(() => parseJsonObject(word)).toThrow(/^Expected a JSON object/);
});

test('collect, defined, toSnakeCase, camelCaseRules', () => {
  expect(collect('b', collect('a'))).toEqual(['a', 'b']);
  expect(defined({ a: 1, b: undefined, c: 0 })).toEqual({ a: 1, c: 0 });
  expect(toSnakeCase({ groupSize: 1, list: [{ nHeads: 2 }], dynamic: { '.*Proj': { groupSize: 1 } } }, ['dynamic'])).toEqual({
    group_size: 1,
    list: [{ n_heads: 2 }],
    dynamic: { '.*Proj': { groupSize: 1 } },
  });
  expect(camelCaseRules({ '.*down_proj': { group_size: 32, desc_act: true }, '-:.*v_proj': {}, x: false })).toEqual({
    '.*down_proj': { groupSize: 32, descAct: true },
    '-:.*v_proj': {},
    x: false,
  });
});

test('median and formatBytes', () => {
  expect([median([3, 1, 2]), median([4, 1, 3, 2]), median([7])]).toEqual([2, 2.5, 7]);
  expect([formatBytes(999), formatBytes(1_710_288), formatBytes(4e9)]).toEqual(['999 B', '1.71 MB', '4.00 GB']);
});

describe('readText', () => {
  const directory = mkdtempSync(path.join(os.tmpdir(), 'lowbit-test-'));
  const file = path.join(directory, 'text.txt');
  afterAll(() => rmSync(directory, { recursive: true, force: true }));

  test('keeps carriage returns and a byte order mark', async () => {
    writeFileSync(file, '\ufeffa\r\nb\r');
    expect(await readText(file)).toBe('\ufeffa\r\nb\r');
  });
  test('refuses what is not UTF-8, and what is not there', async () => {
    writeFileSync(file, Buffer.from([0x61, 0xff]));
    expect(await failure(() => readText(file))).toEqual({
      code: 'INVALID_ARGUMENT',
      message: `${file} is not valid UTF-8: convert it first`,
    });
    expect(await failure(() => readText(`${file}x`))).toEqual({ code: 'IO', message: `Cannot read ${file}x: there is no such file` });
  });
});

test('with --json only the result reaches stdout, without it only the text', () => {
  for (const json of [true, false]) {
    const written = { out: '', error: '' };
    const stream = (name: 'out' | 'error') =>
      ({ isTTY: false, write: (text: string) => (written[name] += text) }) as unknown as NodeJS.WriteStream;
    const io = createIo(
      { stdin: process.stdin, stdout: stream('out'), stderr: stream('error') },
      json,
      new AbortController().signal,
      () => {},
    );
    io.out('text\n');
    io.note('note');
    io.result({ tokens: 3 });
    expect(written).toEqual({ out: json ? '{"tokens":3}\n' : 'text\n', error: 'note\n' });
  }
});
