/**
 * bench/pure: what lowbit sets out to reach, as figures, and whether the results reach it. Pure. A goal without samples is "not measured",
 * never reached.
 */
'use strict';
const { DECODE, PREFILL } = require('./summary.cjs');
const { spread } = require('./stats.cjs');

const LLAMA = 'llama.cpp';
const NODE = 'node-llama-cpp';

const at = (scenario, name, threads, metric, engine = 'lowbit', variant = undefined) => ({
  scenario,
  case: name,
  engine,
  threads,
  variant,
  metric,
});

/** Each: what, the limit, whether it is a lower or an upper one, the unit, and how the figure comes from results. */
const GOALS = [
  ...Object.entries({ Q4_0: 1.4, Q4_1: 2, Q8_0: 1.4, Q4_K_M: 1.5 }).map(([name, least]) => ({
    what: `${name}: decode, 1 thread, against llama-bench`,
    least,
    unit: 'x',
    figure: (r) => r.ratio(at('speed', name, 1, DECODE), at('speed', name, 1, DECODE, LLAMA)),
  })),
  {
    what: 'GPTQ 4 bit g128: decode, 1 thread, against our Q4_0',
    least: 1,
    unit: 'x',
    figure: (r) => r.ratio(at('speed', 'GPTQ', 1, DECODE), at('speed', 'GPTQ', 1, DECODE, 'lowbit Q4_0')),
  },
  ...['Q4_0', 'Q4_1', 'Q8_0', 'Q4_K_M'].map((name) => ({
    what: `${name}: decode, 2 threads, against llama-bench's better of 1 and 2`,
    least: 1.1,
    unit: 'x',
    figure: (r) => r.ratio(at('speed', name, 2, DECODE), at('speed', name, 1, DECODE, LLAMA), at('speed', name, 2, DECODE, LLAMA)),
  })),
  ...[
    [1, 3],
    [2, 5],
  ].map(([threads, least]) => ({
    what: `Q4_0: decode, ${threads} thread${threads === 1 ? '' : 's'}, against node-llama-cpp`,
    least,
    unit: 'x',
    figure: (r) => r.ratio(at('node', 'Q4_0', threads, DECODE), at('node', 'Q4_0', threads, DECODE, NODE)),
  })),
  ...Object.entries({ Q4_0: 2.5, Q4_1: 7, Q8_0: 4, Q4_K_M: 3, F16: 1.2, BF16: 1.2 }).map(([name, least]) => ({
    what: `${name}: prefill, 1 thread, against llama-bench`,
    least,
    unit: 'x',
    figure: (r) => r.ratio(at('speed', name, 1, PREFILL), at('speed', name, 1, PREFILL, LLAMA)),
  })),
  ...['Q4_0', 'Q4_1', 'Q8_0', 'Q4_K_M', 'F16'].map((name) => ({
    what: `${name}: prefill, 2 threads, against our 1 thread`,
    least: 1.7,
    unit: 'x',
    figure: (r) => r.ratio(at('speed', name, 2, PREFILL), at('speed', name, 1, PREFILL)),
  })),
  ...[PREFILL, DECODE].map((metric) => ({
    what: `a core busy: ${metric === DECODE ? 'decode' : 'prefill'}, 2 threads, against our 1 thread on an idle machine`,
    least: 0.85,
    unit: 'x',
    figure: (r) => first(r.cases('busy'), (name) => r.ratio(at('busy', name, 2, metric, 'lowbit', 'busy'), at('busy', name, 1, metric, 'lowbit', 'idle'))), // prettier-ignore
  })),
  ...[1, 2].map((threads) => ({
    what: `8 sequences together against one, ${threads} thread${threads === 1 ? '' : 's'}`,
    least: 3.5,
    unit: 'x',
    figure: (r) => r.ratio(at('batch', 'Q4_0', threads, DECODE), at('batch', 'Q4_0', threads, 'alone_tokens_per_second')),
  })),
  ...['Q4_0', '8B layers Q4_0'].flatMap((name) =>
    [1, 2].map((threads) => ({
      what: `${name}: decode behind 4096 tokens against an empty context, ${threads} thread${threads === 1 ? '' : 's'}`,
      least: 0.7,
      unit: 'x',
      figure: (r) => r.ratio(at('context', name, threads, DECODE, 'lowbit', '4096'), at('context', name, threads, DECODE, 'lowbit', '0')),
    })),
  ),
  ...['Q4_0', 'Q4_1', 'Q8_0', 'Q4_K_M', 'F16', 'BF16', 'GPTQ'].map((name) => ({
    what: `${name}: perplexity of the fast path above the exact one`,
    most: 0.5,
    unit: '%',
    figure: (r) => {
      const where = (precision) => first(r.threads('perplexity'), (threads) => at('perplexity', name, threads, 'perplexity', 'lowbit', precision)); // prettier-ignore
      const ratio = where('fast') && r.ratio(where('fast'), where('exact'));
      const percent = (value) => 100 * (value - 1);
      return ratio && { ...ratio, median: percent(ratio.median), min: percent(ratio.min), max: percent(ratio.max) };
    },
  })),
  ...loadGoals('SmolLM2-135M Q4_0'),
  ...loadGoals('eight 8B layers Q4_K_M'),
  {
    what: 'event loop delay, 99th percentile, all cores generating',
    most: 20,
    unit: 'ms',
    figure: (r) => first(r.cases('events'), (name) => first(r.threads('events'), (threads) => r.spread(at('events', name, threads, 'p99_milliseconds')))), // prettier-ignore
  },
  {
    what: 'GPTQ run, 128 x 512 tokens',
    most: 60,
    unit: 's',
    figure: (r) => first(r.threads('gptq'), (threads) => r.spread(at('gptq', '4 bit g128, 128 x 512 tokens', threads, 'seconds'))),
  },
  {
    what: 'GPTQ run, 128 x 512 tokens: seconds of GPTQModel to ours',
    least: 1,
    unit: 'x',
    figure: (r) => first(r.threads('gptq'), (threads) => r.ratio(at('gptq', '4 bit g128, 128 x 512 tokens', threads, 'seconds', 'GPTQModel'), at('gptq', '4 bit g128, 128 x 512 tokens', threads, 'seconds'))), // prettier-ignore
  },
  {
    what: 'GEMV of 2, 3, 4 and 8 bit, 4096 x 4096 and larger, against the read loop (worst)',
    least: 0.9,
    unit: 'x',
    figure: (r) => worstKernel(r, 'gemv', (problem) => problem.m === 1 && !/^(6 bit|q6_k)/.test(problem.format)),
  },
  ...[
    ['AVX-512', 0.7, 'avx512'],
    ['AVX-VNNI', 0.65, 'avxvnni', 'avxvnni-evex'],
    ['AVX2', 0.55, 'avx2'],
  ].map(([name, least, ...tables]) => ({
    what: `GEMM, ${name}, 4096 x 4096 and larger, against the int8 loop (worst)`,
    least,
    unit: 'x',
    figure: (r) => worstKernel(r, 'gemm', (_, isa) => tables.includes(isa)),
  })),
];

function loadGoals(name) {
  const on = (metric, variant) => (r) => first(r.threads('load'), (threads) => at('load', name, threads, metric, 'lowbit', variant));
  const figure =
    (metric, variant, factor = 1) =>
    (r) => {
      const where = on(metric, variant)(r);
      const found = where && r.spread(where);
      return found && { ...found, median: found.median * factor, min: found.min * factor, max: found.max * factor };
    };
  return [
    { what: `${name}: first load, of stored bytes`, least: 1, unit: 'GB/s', figure: figure('load_bytes_per_second', 'first', 1e-9) },
    {
      what: `${name}: second load against the first`,
      least: 3,
      unit: 'x',
      figure: (r) => {
        const where = on('load_seconds', 'first')(r);
        return where && r.ratio(where, { ...where, variant: 'second' });
      },
    },
    { what: `${name}: peak memory against packed weights and KV`, most: 1.15, unit: 'x', figure: figure('peak_over_needed', 'first') },
  ];
}

function first(candidates, figure) {
  for (const candidate of candidates) {
    const found = figure(candidate);
    if (found !== undefined) return found;
  }
  return undefined;
}

/** The lowest of the ratios that the kernel bench reports for large shapes. */
function worstKernel(results, what, select) {
  const { parseProblem } = require('./parse.cjs');
  const ratios = results
    .kernels()
    .filter((kernel) => {
      const problem = parseProblem(kernel.problem);
      return problem !== undefined && problem.what === what && problem.n * problem.k >= 4096 * 4096 && select(problem, kernel.isa);
    })
    .map(({ ratio }) => ratio.median);
  return ratios.length === 0 ? undefined : { ...spread(ratios), median: Math.min(...ratios) };
}

/** @returns {{what: string, aim: string, figure: object | undefined, unit: string, reached: boolean | undefined}[]} */
function judge(results) {
  return GOALS.map(({ what, least, most, unit, figure }) => {
    const found = figure(results);
    const reached = found === undefined ? undefined : least !== undefined ? found.median >= least : found.median <= most;
    return { what, aim: least !== undefined ? `at least ${least}` : `at most ${most}`, figure: found, unit, reached };
  });
}

module.exports = { GOALS, judge };
