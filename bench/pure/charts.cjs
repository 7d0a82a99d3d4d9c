/** bench/pure: the pictures of docs/benchmarks.md as Vega-Lite specifications. Pure: report.mjs renders them. */
'use strict';
const { comparison, depths, shared, DECODE } = require('./summary.cjs');
const { parseProblem } = require('./parse.cjs');

const CONFIG = {
  background: 'white',
  font: 'Helvetica, Arial, sans-serif',
  axis: { grid: true, gridColor: '#e8e8e8', domainColor: '#888', tickColor: '#888', labelFontSize: 11, titleFontSize: 11, titleFontWeight: 'normal' }, // prettier-ignore
  legend: { titleFontWeight: 'normal', labelFontSize: 11 },
  title: { fontSize: 13, anchor: 'start', fontWeight: 'bold' },
  view: { stroke: null },
};
/** Distinguishable with the common colour blindnesses (Okabe and Ito). */
const COLOURS = { lowbit: '#0072b2', 'llama.cpp': '#e69f00', 'node-llama-cpp': '#cc79a7', 'torch f32': '#009e73' };
const scaleFor = (engines) => ({ domain: engines, range: engines.map((engine) => COLOURS[engine] ?? '#666') });
const nameOf = (metric) => (metric === DECODE ? 'decode' : 'prefill');
const chart = (title, rest) => ({ $schema: 'https://vega.github.io/schema/vega-lite/v6.json', config: CONFIG, title, ...rest });

/** Panels in the order of the rows; Vega-Lite would sort them by name. */
const inOrder = (rows, field) => [...new Set(rows.map((row) => row[field]))];

/** Bars of the ratio to each peer, with the range over pairs of samples; the line at 1 is a tie. */
function ratioBars(results) {
  const rows = [
    ['speed', 'llama.cpp'],
    ['node', 'node-llama-cpp'],
  ].flatMap(([scenario, peer]) =>
    comparison(results, scenario, peer).map(({ case: name, threads, metric, ratio }) => ({
      weights: name,
      panel: `${nameOf(metric)}, ${threads} thread${threads === 1 ? '' : 's'}`,
      peer,
      ratio: ratio.median,
      min: ratio.min,
      max: ratio.max,
    })),
  );
  if (rows.length === 0) return undefined;
  const y = { field: 'weights', type: 'nominal', title: null, sort: null };
  const peer = { field: 'peer', type: 'nominal', sort: null };
  return chart('lowbit relative to its peers (tokens per second)', {
    data: { values: rows },
    facet: { field: 'panel', type: 'nominal', title: null, header: { labelFontWeight: 'bold' }, sort: inOrder(rows, 'panel') },
    columns: 2,
    spec: {
      width: 280,
      height: { step: 12 },
      layer: [
        { mark: 'bar', encoding: { x: { field: 'ratio', type: 'quantitative', title: 'times as fast' }, y, yOffset: peer, color: { ...peer, title: 'relative to', scale: scaleFor(['llama.cpp', 'node-llama-cpp']) } } }, // prettier-ignore
        { mark: { type: 'rule', color: '#333' }, encoding: { x: { field: 'min', type: 'quantitative' }, x2: { field: 'max' }, y, yOffset: peer } }, // prettier-ignore
        { mark: { type: 'rule', color: '#d55e00', strokeDash: [4, 3] }, encoding: { x: { datum: 1 } } },
      ],
    },
  });
}

/** Tokens per second over threads. */
function threadLines(results) {
  const rows = comparison(results, 'speed', 'llama.cpp').flatMap(({ case: name, threads, metric, ours, theirs }) => [
    { weights: name, threads, what: nameOf(metric), engine: 'lowbit', rate: ours.median },
    { weights: name, threads, what: nameOf(metric), engine: 'llama.cpp', rate: theirs.median },
  ]);
  if (rows.length === 0) return undefined;
  return chart('Tokens per second over threads', {
    data: { values: rows },
    facet: {
      row: { field: 'what', title: null, sort: inOrder(rows, 'what') },
      column: { field: 'weights', title: null, sort: inOrder(rows, 'weights') },
    },
    resolve: { scale: { y: 'independent' } },
    spec: {
      width: 95,
      height: 130,
      mark: { type: 'line', point: true },
      encoding: {
        x: { field: 'threads', type: 'ordinal', axis: { labelAngle: 0 } },
        y: { field: 'rate', type: 'quantitative', title: 'tokens/s', scale: { zero: true } },
        color: { field: 'engine', type: 'nominal', title: null, scale: scaleFor(['lowbit', 'llama.cpp']) },
      },
    },
  });
}

/** Decode of the whole model over the length of the context, on a logarithmic axis; an empty context stands at 1. */
function contextLines(results) {
  const found = depths(results).filter((row) => !row.case.includes('layers'));
  const rows = found.map(({ engine, threads, depth, rate }) => ({
    engine,
    threads: `${threads} thread${threads === 1 ? '' : 's'}`,
    tokens: Math.max(depth, 1),
    rate: rate.median,
  }));
  if (rows.length === 0) return undefined;
  return chart('Decode over the length of the context', {
    data: { values: rows },
    width: 420,
    height: 240,
    mark: { type: 'line', point: true },
    encoding: {
      x: { field: 'tokens', type: 'quantitative', scale: { type: 'log', base: 2 }, title: 'tokens before', axis: { values: [1, 128, 1024, 4096] } }, // prettier-ignore
      y: { field: 'rate', type: 'quantitative', title: 'tokens/s', scale: { zero: true } },
      color: { field: 'engine', type: 'nominal', title: null, scale: scaleFor(['lowbit', 'llama.cpp']) },
      strokeDash: { field: 'threads', type: 'nominal', title: null },
    },
  });
}

/** Two threads with a core taken away, relative to the engine's own single thread. */
function sharedBars(results) {
  const rows = shared(results).map(({ engine, metric, ratio }) => ({
    engine,
    what: nameOf(metric),
    share: ratio.median,
    min: ratio.min,
    max: ratio.max,
  }));
  if (rows.length === 0) return undefined;
  const engines = [...new Set(rows.map(({ engine }) => engine))];
  const y = { field: 'engine', type: 'nominal', title: null, sort: null };
  return chart('Two threads while another process takes a core', {
    data: { values: rows },
    facet: { field: 'what', type: 'nominal', title: null, sort: inOrder(rows, 'what'), header: { labelFontWeight: 'bold' } },
    spec: {
      width: 280,
      height: { step: 24 },
      layer: [
        { mark: 'bar', encoding: { x: { field: 'share', type: 'quantitative', title: 'of its own 1-thread speed on an idle machine', axis: { format: '%' } }, y, color: { field: 'engine', type: 'nominal', legend: null, scale: scaleFor(engines) } } }, // prettier-ignore
        { mark: { type: 'rule', color: '#333' }, encoding: { x: { field: 'min', type: 'quantitative' }, x2: { field: 'max' }, y } },
        { mark: { type: 'rule', color: '#d55e00', strokeDash: [4, 3] }, encoding: { x: { datum: 1 } } },
      ],
    },
  });
}

/** Kernels under the two ceilings that were measured beside them: reading memory, and int8 products in registers. One thread. */
function roofline(results) {
  const chosen = results.lines.find(({ type }) => type === 'machine')?.isa;
  // One roof, so the kernels of one table: the one that the engine chooses here.
  const kernels = results
    .kernels()
    .filter(({ isa }) => isa === chosen)
    .flatMap(point);
  const memory = best(kernels.filter(({ unit }) => unit === 'GB/s'));
  const compute = best(kernels.filter(({ unit }) => unit === 'GOPS'));
  if (memory === undefined || compute === undefined) return undefined;
  const furthest = Math.max(...kernels.map(({ intensity }) => intensity), compute / memory);
  const roof = [1, compute / memory, 2 * furthest].map((intensity) => ({ intensity, rate: Math.min(memory * intensity, compute) }));
  return chart(`Kernels under the roof of one core: ${memory.toFixed(0)} GB/s read, ${compute.toFixed(0)} GOPS int8`, {
    width: 560,
    height: 320,
    layer: [
      { data: { values: roof }, mark: { type: 'line', color: '#333' }, encoding: axes() },
      {
        data: { values: kernels },
        mark: { type: 'point', filled: true, size: 60, opacity: 0.85 },
        encoding: {
          ...axes(),
          color: { field: 'format', type: 'nominal', title: 'weights' },
          shape: { field: 'what', type: 'nominal', title: null },
        },
      },
    ],
  });
}

const axes = () => ({
  x: { field: 'intensity', type: 'quantitative', scale: { type: 'log', base: 2 }, title: 'operations per byte read and written' },
  y: { field: 'rate', type: 'quantitative', scale: { type: 'log' }, title: 'GOPS' },
});

/** Where a kernel stands: operations and bytes follow from its shape. */
function point(kernel) {
  const problem = parseProblem(kernel.problem);
  if (problem?.bitsPerWeight === undefined || !['gemv', 'gemm'].includes(problem.what) || !Number.isFinite(kernel.ceiling)) return [];
  const { what, format, m, n, k, bitsPerWeight } = problem;
  const operations = 2 * m * n * k;
  const weights = (n * k * bitsPerWeight) / 8;
  const intensity = operations / (weights + m * k + 4 * m * n);
  // A GEMV is reported in bytes of weights per second.
  const rate = kernel.unit === 'GB/s' ? kernel.rate * (operations / weights) : kernel.rate;
  return [{ what: m === 1 ? `${what}, 1 row` : `${what}, ${m} rows`, format, intensity, rate, unit: kernel.unit, ceiling: kernel.ceiling }];
}

function best(points) {
  return points.length === 0 ? undefined : Math.max(...points.map(({ ceiling }) => ceiling));
}

/** By file name; without those that have no data. */
function charts(results) {
  const made = {
    ratios: ratioBars(results),
    threads: threadLines(results),
    context: contextLines(results),
    shared: sharedBars(results),
    roofline: roofline(results),
  };
  return Object.fromEntries(Object.entries(made).filter(([, specification]) => specification !== undefined));
}

module.exports = { charts };
