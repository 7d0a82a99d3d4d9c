/**
 * bench/pure: reads what other programs print. Pure: text in, values out; a text that is not understood is an error that shows it.
 */
'use strict';

/**
 * Output of `llama-bench -o json`: one entry per test.
 *
 * @returns {{prompt: number, generate: number, depth: number, threads: number, tokensPerSecond: number, modelBytes: number}[]}
 */
function parseLlamaBench(text) {
  const begin = text.indexOf('[');
  let entries;
  try {
    entries = JSON.parse(text.slice(begin));
  } catch {
    entries = undefined;
  }
  if (begin < 0 || !Array.isArray(entries) || entries.length === 0) throw unreadable('llama-bench -o json', text);
  return entries.map((entry) => {
    const found = {
      prompt: entry.n_prompt,
      generate: entry.n_gen,
      depth: entry.n_depth ?? 0,
      threads: entry.n_threads,
      tokensPerSecond: entry.avg_ts,
      modelBytes: entry.model_size,
    };
    if (!Object.values(found).every(Number.isFinite)) throw unreadable('llama-bench -o json', JSON.stringify(entry));
    return found;
  });
}

/** The last line of a worker's output that is a JSON object; what libraries print before it is skipped. */
function parseLastJson(text) {
  const lines = text.trimEnd().split('\n');
  for (let i = lines.length - 1; i >= 0; i--) {
    if (!lines[i].startsWith('{')) continue;
    try {
      return JSON.parse(lines[i]);
    } catch {
      continue;
    }
  }
  throw unreadable('a line of JSON', text);
}

/** A list of processors as Linux prints it: "0-3,8". @returns {number[]} in ascending order */
function parseCpuList(text) {
  const cpus = new Set();
  for (const range of text.trim().split(',')) {
    const match = /^(\d+)(?:-(\d+))?$/.exec(range.trim());
    if (match === null) throw unreadable('a list of processors', text);
    const first = Number(match[1]);
    const last = Number(match[2] ?? match[1]);
    if (last < first || last > 65_535) throw unreadable('a list of processors', text);
    for (let cpu = first; cpu <= last; cpu++) cpus.add(cpu);
  }
  return [...cpus].sort((a, b) => a - b);
}

/**
 * Output of bench/native: one JSON line per kernel and shape, `{isa, problem, unit, median, best, ceiling_best?, ratio?, ...}`.
 * Other lines are skipped.
 */
function parseKernelLines(text) {
  const kernels = [];
  for (const line of text.split('\n')) {
    if (!line.startsWith('{')) continue;
    const value = JSON.parse(line);
    if (typeof value.problem !== 'string' || typeof value.isa !== 'string' || !Number.isFinite(value.median)) continue;
    kernels.push(value);
  }
  return kernels;
}

/**
 * "gemv q4_0 m=1 4096x4096" -> what, format, m, n, k and, where the format's name says them, bits per weight with scales.
 *
 * @returns undefined for other problems
 */
function parseProblem(problem) {
  const match = /^(\w+) (.+?) m=(\d+) (\d+)x(\d+)\b/.exec(problem);
  if (match === null) return undefined;
  const [, what, format, m, n, k] = match;
  return { what, format, m: Number(m), n: Number(n), k: Number(k), bitsPerWeight: bitsPerWeight(format) };
}

/** Codes, an f16 scale per group and, where the format has one, a minimum or zero point. */
function bitsPerWeight(format) {
  const known = { q4_0: 4.5, q4_1: 5, q5_0: 5.5, q5_1: 6, q8_0: 8.5, f16: 16, bf16: 16, f32: 32 };
  if (known[format.toLowerCase()] !== undefined) return known[format.toLowerCase()];
  const match = /^(?:(\d) ?bit )?g(\d+)/.exec(format);
  if (match === null) return undefined;
  const bits = Number(match[1] ?? 4);
  return bits + (16 + bits) / Number(match[2]);
}

function unreadable(what, text) {
  return new Error(`Expected ${what} but received ${JSON.stringify(text.slice(0, 200))}`);
}

module.exports = { parseLlamaBench, parseLastJson, parseCpuList, parseKernelLines, parseProblem };
