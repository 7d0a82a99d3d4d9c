/** bench/pure: the tables of docs/benchmarks.md and of the terminal, as Markdown. Pure. */
'use strict';
const { comparison, depths, shared, DECODE } = require('./summary.cjs');
const { judge } = require('./goals.cjs');

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
