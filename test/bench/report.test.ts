/** From result lines to figures, goals and tables; and the committed tables are what the committed results give. */
import { existsSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { pure, root } from './load';

const { Results, comparison, shared } = pure('summary');
const { GOALS, judge } = pure('goals');
const { fillMarkers, sections, table } = pure('tables');
const { charts } = pure('charts');

const sample = (engine: string, threads: number, round: number, decode: number, more: object = {}) => ({
  type: 'sample',
  scenario: 'speed',
  case: 'Q4_0',
  engine,
  threads,
  round,
  metrics: { decode_tokens_per_second: decode },
  read_bytes_per_second: 3e10,
  ...more,
});
const machine = { type: 'machine', cpu: 'x', processors: 2, memory_gib: 8, platform: 'p', isa: 'i', node: 'v', time: '2026-01-01T' };

const lines = [
  machine,
  ...[100, 50].flatMap((rate, round) => [
    sample('lowbit', 1, round, 2 * rate),
    sample('llama.cpp', 1, round, rate),
    sample('lowbit', 2, round, 3 * rate),
    sample('llama.cpp', 2, round, rate / 2),
  ]),
];
const judged = (results: any, what: RegExp) => judge(results).find((goal: any) => what.test(goal.what));

test('ratios are of the same round; against the better of two thread counts, of both', () => {
  const results = new Results(lines);
  expect(comparison(results, 'speed', 'llama.cpp').map(({ threads, ratio }: any) => [threads, ratio.median, ratio.min, ratio.max])).toEqual(
    [
      [1, 2, 2, 2],
      [2, 6, 6, 6],
    ],
  );
  expect(judged(results, /^Q4_0: decode, 2 threads/).figure).toMatchObject({ median: 3, min: 3, max: 3 });
});

test('rounds of two runs are not mixed up', () => {
  const results = new Results([machine, sample('lowbit', 1, 0, 10), machine, sample('llama.cpp', 1, 0, 1)]);
  expect(comparison(results, 'speed', 'llama.cpp')).toEqual([]);
});

test('variants of one engine are series of their own', () => {
  const busy = (threads: number, variant: string, rate: number) => sample('lowbit', threads, 0, rate, { scenario: 'busy', variant });
  const results = new Results([busy(1, 'idle', 100), busy(2, 'busy', 90)]);
  expect(shared(results)).toMatchObject([{ engine: 'lowbit', ratio: { median: 0.9 } }]);
  expect(judged(results, /a core busy: decode/)).toMatchObject({ reached: true });
});

test('a goal is reached at its limit, missed below it, and without samples neither', () => {
  const at = (rate: number) =>
    judged(new Results([sample('lowbit', 1, 0, rate), sample('llama.cpp', 1, 0, 10)]), /^Q4_0: decode, 1 thread/);
  expect(at(14)).toMatchObject({ reached: true });
  expect(at(13.9)).toMatchObject({ reached: false });
  expect(judge(new Results([])).every((goal: any) => goal.reached === undefined && goal.figure === undefined)).toBe(true);
  expect(new Set(GOALS.map((goal: any) => goal.what)).size).toBe(GOALS.length);
});

test('an upper limit is one', () => {
  const delay = (p99: number) => sample('lowbit', 2, 0, 1, { scenario: 'events', metrics: { p99_milliseconds: p99 } });
  expect(judged(new Results([delay(20)]), /event loop/)).toMatchObject({ reached: true });
  expect(judged(new Results([delay(21)]), /event loop/)).toMatchObject({ reached: false });
});

test('the worst kernel of the large shapes decides', () => {
  const kernel = (problem: string, ratio: number) => ({ type: 'kernel', scenario: 'kernels', problem, ratio });
  const results = new Results([
    kernel('gemv q4_0 m=1 4096x4096', 0.95),
    kernel('gemv q8_0 m=1 4096x14336', 0.91),
    kernel('gemv q4_0 m=1 1536x576', 0.2),
    kernel('gemv q4_0 m=8 4096x4096', 0.3),
  ]);
  expect(judged(results, /^GEMV/).figure.median).toBe(0.91);
  const gemm = (isa: string, ratio: number) => ({ ...kernel('gemm q4_0 m=512 4096x4096', ratio), isa });
  const tables = new Results([gemm('avx512', 0.8), gemm('avx512', 0.71), gemm('avxvnni-evex', 0.66), gemm('avx2', 0.54)]);
  expect(['AVX-512', 'AVX-VNNI', 'AVX2'].map((name) => judged(tables, new RegExp(`^GEMM, ${name}`)).reached)).toEqual([true, true, false]);
});

test('figures of lowbit alone are shown in readable units, variants apart', () => {
  const load = (variant: string, seconds: number) =>
    sample('lowbit', 2, 0, 1, { scenario: 'load', variant, metrics: { load_seconds: seconds, peak_rss_bytes: 25e7 } });
  const text: string = sections(new Results([machine, load('first', 0.5), load('second', 0.1)])).more;
  expect(text.split('\n').slice(2)).toEqual([
    '| load | Q4_0 | first | 2 | load | 0.50 (0.50-0.50) s |',
    '| load | Q4_0 | first | 2 | peak memory of the process | 250 (250-250) MB |',
    '| load | Q4_0 | second | 2 | load | 0.10 (0.10-0.10) s |',
    '| load | Q4_0 | second | 2 | peak memory of the process | 250 (250-250) MB |',
  ]);
});

test('markers are filled, twice with the same outcome, and unknown or missing ones are errors', () => {
  const document = 'a\n<!-- bench:one -->\nold\n<!-- /bench -->\nb\n';
  const once = fillMarkers(document, { one: table(['x'], [[1]]) });
  expect(once).toBe('a\n<!-- bench:one -->\n\n| x |\n|---|\n| 1 |\n\n<!-- /bench -->\nb\n');
  expect(fillMarkers(once, { one: table(['x'], [[1]]) })).toBe(once);
  expect(() => fillMarkers(document, {})).toThrow(/"one", which does not exist/);
  expect(() => fillMarkers(document, { one: '', two: '' })).toThrow(/no place for two/);
});

test('without results there are no pictures, and with them only those that have data', () => {
  expect(charts(new Results([]))).toEqual({});
  expect(Object.keys(charts(new Results(lines)))).toEqual(['ratios', 'threads']);
});

describe('docs/benchmarks.md', () => {
  const document = readFileSync(path.join(root, 'docs', 'benchmarks.md'), 'utf8');
  const results = new Results(JSON.parse(readFileSync(path.join(root, 'docs', 'benchmarks', 'results.json'), 'utf8')));

  test('its tables are those of the committed results (npm run bench -- report)', () => {
    expect(fillMarkers(document, sections(results))).toBe(document);
  });

  test('it shows the pictures that the results give, and no others', () => {
    const shown = [...document.matchAll(/\(benchmarks\/(\w+)\.svg\)/g)].map((match) => match[1]!);
    expect([...shown].sort()).toEqual(Object.keys(charts(results)).sort());
    for (const name of shown) expect(existsSync(path.join(root, 'docs', 'benchmarks', `${name}.svg`))).toBe(true);
  });
});
