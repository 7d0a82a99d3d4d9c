/** bench/pure: from result lines to the figures that are shown. Pure. */
'use strict';
const { bestByRound, pairedRatio, spread } = require('./stats.cjs');

/** Samples by what they measure. */
class Results {
  #series = new Map();

  /** @param {readonly object[]} lines of one or more runs; rounds of different runs are kept apart */
  constructor(lines) {
    this.lines = lines;
    let run = 0;
    for (const line of lines) {
      if (line.type === 'machine') run++;
      if (line.type !== 'sample') continue;
      for (const [metric, value] of Object.entries(line.metrics)) {
        const key = keyOf({ ...line, metric });
        if (!this.#series.has(key)) this.#series.set(key, new Map());
        this.#series.get(key).set(run * 1000 + line.round, value);
      }
    }
  }

  /** @returns {Map<number, number>} samples by round; empty when nothing was measured */
  series(where) {
    return this.#series.get(keyOf(where)) ?? new Map();
  }

  spread(where) {
    const values = [...this.series(where).values()];
    return values.length === 0 ? undefined : spread(values);
  }

  /** Ratio of one series to the best, round by round, of one or more others. */
  ratio(ours, ...theirs) {
    return pairedRatio(this.series(ours), bestByRound(theirs.map((where) => this.series(where))));
  }

  /** In the order in which they were measured. */
  cases(scenario) {
    return [...new Set(this.lines.filter((line) => line.type === 'sample' && line.scenario === scenario).map((line) => line.case))];
  }

  threads(scenario) {
    const found = this.lines.filter((line) => line.type === 'sample' && line.scenario === scenario).map((line) => line.threads);
    return [...new Set(found)].sort((a, b) => a - b);
  }

  /** Kernels by table and problem: medians over the runs of the bench, and the spread of the ratio. */
  kernels() {
    const groups = new Map();
    for (const line of this.lines) {
      if (line.type !== 'kernel' || !Number.isFinite(line.ratio)) continue;
      const key = `${line.isa} ${line.problem}`;
      groups.set(key, [...(groups.get(key) ?? []), line]);
    }
    return [...groups.values()].map((lines) => {
      const { isa, problem, unit } = lines[0];
      const middle = (name) => (lines.every((line) => Number.isFinite(line[name])) ? spread(lines.map((line) => line[name])).median : undefined); // prettier-ignore
      return {
        isa,
        problem,
        unit,
        rate: middle('median'),
        ceiling: middle('ceiling_best'),
        ratio: spread(lines.map(({ ratio }) => ratio)),
      };
    });
  }

  readBandwidth() {
    const found = this.lines.filter((line) => line.type === 'sample' && line.read_bytes_per_second !== undefined);
    return found.length === 0 ? undefined : spread(found.map((line) => line.read_bytes_per_second));
  }

  count(type) {
    return this.lines.filter((line) => line.type === type).length;
  }
}

/** Every series of some scenarios and metrics: what is shown as it is. */
function plain(results, wanted) {
  const rows = new Map();
  for (const line of results.lines) {
    if (line.type !== 'sample') continue;
    for (const metric of wanted[line.scenario] ?? []) {
      const where = { scenario: line.scenario, case: line.case, engine: line.engine, threads: line.threads, variant: line.variant, metric };
      const key = keyOf(where);
      const found = rows.has(key) ? undefined : results.spread(where);
      if (found !== undefined) rows.set(key, { ...where, figure: found });
    }
  }
  return [...rows.values()];
}

const keyOf = ({ scenario, case: name, engine, threads, variant = '', metric }) =>
  JSON.stringify([scenario, name, engine, threads, variant, metric]);

const DECODE = 'decode_tokens_per_second';
const PREFILL = 'prefill_tokens_per_second';

/** Rows of one comparison with a peer: medians of both engines and the ratio of alternating samples. */
function comparison(results, scenario, peer) {
  const rows = [];
  for (const name of results.cases(scenario)) {
    for (const threads of results.threads(scenario)) {
      for (const metric of [PREFILL, DECODE]) {
        const ours = { scenario, case: name, engine: 'lowbit', threads, metric };
        const theirs = { ...ours, engine: peer };
        const row = {
          case: name,
          threads,
          metric,
          ours: results.spread(ours),
          theirs: results.spread(theirs),
          ratio: results.ratio(ours, theirs),
        };
        if (row.ours !== undefined && row.ratio !== undefined) rows.push(row);
      }
    }
  }
  return rows;
}

/** Every engine on a shared machine, relative to its own single thread without the busy process. */
function shared(results) {
  const rows = [];
  for (const name of results.cases('busy')) {
    for (const engine of ['lowbit', 'llama.cpp', 'node-llama-cpp']) {
      for (const metric of [PREFILL, DECODE]) {
        const where = { scenario: 'busy', case: name, engine, metric };
        const busy = { ...where, threads: 2, variant: 'busy' };
        const idle = { ...where, threads: 1, variant: 'idle' };
        const ratio = results.ratio(busy, idle);
        if (ratio !== undefined) rows.push({ case: name, engine, metric, busy: results.spread(busy), idle: results.spread(idle), ratio });
      }
    }
  }
  return rows;
}

/** Decode speed behind a context, absolute and relative to an empty one. */
function depths(results) {
  const rows = [];
  for (const name of results.cases('context')) {
    for (const threads of results.threads('context')) {
      for (const engine of ['lowbit', 'llama.cpp']) {
        for (const depth of ['0', '128', '1024', '4096']) {
          const where = { scenario: 'context', case: name, engine, threads, variant: depth, metric: DECODE };
          const rate = results.spread(where);
          if (rate !== undefined) {
            rows.push({ case: name, engine, threads, depth: Number(depth), rate, ratio: results.ratio(where, { ...where, variant: '0' }) });
          }
        }
      }
    }
  }
  return rows;
}

module.exports = { Results, comparison, shared, depths, plain, DECODE, PREFILL };
