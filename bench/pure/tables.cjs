/** bench/pure: the tables of docs/benchmarks.md and of the terminal, as Markdown. Pure. */
'use strict';
const { comparison, depths, plain, shared, DECODE } = require('./summary.cjs');
const { judge } = require('./goals.cjs');
const { median } = require('./stats.cjs');

/** Above this mean number of running processes, the bench's own included, something else ran beside the samples of two cores. */
const IDLE_LOAD = 2.5;

const number = (value) => (value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(2));
const range = ({ median, min, max }) => `${number(median)} (${number(min)}-${number(max)})`;

function table(head, rows) {
  const line = (cells) => `| ${cells.join(' | ')} |`;
  return [line(head), `|${head.map(() => '---|').join('')}`, ...rows.map(line)].join('\n');
}

/** One row per weight type and thread count: both engines' medians and the ratio of alternating samples with its range. */
function comparisonTable(results, scenario, peer) {
  const found = comparison(results, scenario, peer);
  const keys = [...new Set(found.map(({ case: name, threads }) => JSON.stringify([name, threads])))];
  const rows = keys.map((key) => {
    const [name, threads] = JSON.parse(key);
    const cells = ['prefill_tokens_per_second', DECODE].flatMap((metric) => {
      const row = found.find((other) => other.case === name && other.threads === threads && other.metric === metric);
      return row === undefined ? ['', '', ''] : [number(row.ours.median), number(row.theirs.median), `**${number(row.ratio.median)}** (${number(row.ratio.min)}-${number(row.ratio.max)})`]; // prettier-ignore
    });
    return [name, threads, ...cells];
  });
  const head = ['weights', 'threads', 'prefill: lowbit', peer, 'ratio', 'decode: lowbit', peer, 'ratio'];
  return rows.length === 0 ? undefined : table(head, rows);
}

function sharedTable(results) {
  const found = shared(results);
  const rows = found.map(({ case: name, engine, metric, busy, idle, ratio }) => [
    name,
    engine,
    metric === DECODE ? 'decode' : 'prefill',
    number(idle.median),
    number(busy.median),
    `**${number(100 * ratio.median)} %** (${number(100 * ratio.min)}-${number(100 * ratio.max)})`,
  ]);
  const head = ['weights', 'engine', '', '1 thread, idle', '2 threads, a core busy', 'of its 1 thread'];
  return rows.length === 0 ? undefined : table(head, rows);
}

function depthTable(results) {
  const rows = depths(results).map(({ case: name, engine, threads, depth, rate, ratio }) => [
    name,
    engine,
    threads,
    depth,
    range(rate),
    ratio === undefined ? '' : `${number(100 * ratio.median)} %`,
  ]);
  return rows.length === 0 ? undefined : table(['weights', 'engine', 'threads', 'tokens before', 'decode', 'of an empty context'], rows);
}

/** Metrics of lowbit alone: the words, the factor and the unit they are shown in. */
const PLAIN = {
  batch: ['alone_tokens_per_second', 'decode_tokens_per_second'],
  lookup: ['decode_tokens_per_second'],
  load: ['load_seconds', 'first_token_seconds', 'load_bytes_per_second', 'weight_bytes', 'kv_bytes', 'peak_rss_bytes'],
  events: ['idle_p99_milliseconds', 'p99_milliseconds', 'max_milliseconds'],
  perplexity: ['perplexity'],
  gptq: ['seconds', 'peak_rss_bytes'],
};
const SHOWN = {
  alone_tokens_per_second: ['one sequence alone', 1, 'tokens/s'],
  decode_tokens_per_second: ['decode', 1, 'tokens/s'],
  load_seconds: ['load', 1, 's'],
  first_token_seconds: ['load to first token', 1, 's'],
  load_bytes_per_second: ['stored bytes loaded', 1e-9, 'GB/s'],
  weight_bytes: ['packed weights', 1e-6, 'MB'],
  kv_bytes: ['KV store', 1e-6, 'MB'],
  peak_rss_bytes: ['peak memory of the process', 1e-6, 'MB'],
  idle_p99_milliseconds: ['event loop delay, idle, 99th percentile', 1, 'ms'],
  p99_milliseconds: ['event loop delay, generating, 99th percentile', 1, 'ms'],
  max_milliseconds: ['event loop delay, generating, longest', 1, 'ms'],
  perplexity: ['perplexity, WikiText-2, 96 chunks of 512', 1, '', 3],
  seconds: ['run', 1, 's'],
};

function plainTable(results) {
  const rows = plain(results, PLAIN).map(({ scenario, case: name, engine, threads, variant = '', metric, figure }) => {
    const [words, factor, unit, digits] = SHOWN[metric];
    const scaled = { median: figure.median * factor, min: figure.min * factor, max: figure.max * factor };
    return [
      scenario,
      engine === 'lowbit' ? name : `${name} (${engine})`,
      variant,
      threads,
      words,
      digits === undefined ? `${range(scaled)} ${unit}` : scaled.median.toFixed(digits),
    ];
  });
  return rows.length === 0 ? undefined : table(['scenario', 'case', '', 'threads', 'what', 'median (range)'], rows);
}

function kernelTable(results) {
  const percent = (value) => number(100 * value);
  const rows = results
    .kernels()
    .map(({ isa, problem, unit, rate, ceiling, ratio: { median, min, max } }) => [
      isa,
      problem,
      `${number(rate)} ${unit}`,
      `${number(ceiling)} ${unit}`,
      `**${percent(median)} %** (${percent(min)}-${percent(max)})`,
    ]);
  return rows.length === 0 ? undefined : table(['kernels', 'problem', 'median', 'its loop, best', 'of its loop'], rows);
}

function goalTable(results) {
  const rows = judge(results).map(({ what, aim, figure, unit, reached }) => [
    what,
    `${aim} ${unit}`,
    figure === undefined ? 'not measured' : `${range(figure)} ${unit}`,
    reached === undefined ? '' : reached ? 'yes' : 'no',
  ]);
  return table(['what', 'aim', 'measured: median (range)', 'reached'], rows);
}

function machineText(results) {
  const machines = results.lines.filter(({ type }) => type === 'machine');
  const read = results.readBandwidth();
  const text = machines.map(
    (m) =>
      `${m.cpu}, ${m.processors} processors, ${m.memory_gib} GiB, ${m.platform}, ${m.isa} kernels, Node ${m.node}, ${m.time.slice(0, 10)}`,
  );
  const lines = [...new Set(text)].map((line) => `Machine: ${line}.`);
  if (read !== undefined) {
    const [median, min, max] = [read.median, read.min, read.max].map((value) => (value / 1e9).toFixed(0));
    lines.push(`Read bandwidth beside the samples: median ${median} GB/s, ${min} to ${max}.`);
  }
  if (machines.some(({ quick }) => quick))
    lines.push('Measured with `--quick`: prompts, texts and rounds are shorter than this page says.');
  const loads = results.lines.filter(({ type }) => type === 'sample').map((line) => line.load_average ?? 0);
  if (loads.length > 0 && median(loads) > IDLE_LOAD) {
    lines.push(
      `**Other work ran on the machine** (load average ${number(median(loads))} before the samples): these figures are disturbed.`,
    );
  }
  const skipped = results.count('skip');
  lines.push(
    `${results.count('sample')} samples, ${results.count('check')} checks of agreement, ${skipped} skipped, ${results.count('failure')} failed.`,
  );
  return lines.join('\n');
}

/** The text between two markers of a document, by name. @returns {Record<string, string>} */
function sections(results) {
  const made = {
    machine: machineText(results),
    goals: goalTable(results),
    speed: comparisonTable(results, 'speed', 'llama.cpp'),
    gptq: comparisonTable(results, 'speed', 'lowbit Q4_0'),
    node: comparisonTable(results, 'node', 'node-llama-cpp'),
    shared: sharedTable(results),
    context: depthTable(results),
    layers: comparisonTable(results, 'layers', 'llama.cpp'),
    kernels: kernelTable(results),
    more: plainTable(results),
    torch: comparisonTable(results, 'torch', 'torch f32'),
  };
  return Object.fromEntries(Object.entries(made).map(([name, text]) => [name, text ?? 'Not measured.']));
}

/** Puts sections between their markers. @throws {Error} when the document lacks one or has one that nothing fills */
function fillMarkers(document, texts) {
  const missing = new Set(Object.keys(texts));
  const filled = document.replace(/<!-- bench:(\w+) -->\n[\s\S]*?<!-- \/bench -->/g, (_, name) => {
    if (texts[name] === undefined) throw new Error(`The document asks for the table "${name}", which does not exist`);
    missing.delete(name);
    return `<!-- bench:${name} -->\n\n${texts[name]}\n\n<!-- /bench -->`;
  });
  if (missing.size > 0) throw new Error(`The document has no place for ${[...missing].join(', ')}: add <!-- bench:${[...missing][0]} -->`);
  return filled;
}

module.exports = { sections, fillMarkers, table };
