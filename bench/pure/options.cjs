/** bench/pure: the command line of `npm run bench`. Pure: arguments and environment in, options out; every value is checked here. */
'use strict';
const { parseArgs } = require('node:util');

const USAGE = `npm run bench -- [command] [options]

commands
  run              measure (default); prints a summary and appends JSON lines to bench/results/
  setup            fetch and build what the comparison needs: llama.cpp's tools, node-llama-cpp, the plotting library
  report [file..]  write docs/benchmarks/ and the tables of docs/benchmarks.md from result files (default: the committed results)
  list             name the scenarios

options
  --only a,b       scenarios to run; also those that are off by default (gptq)
  --skip a,b       scenarios to leave out
  --files A,B      weight types: Q4_0,Q4_1,Q8_0,Q4_K_M,F16,BF16,GPTQ
  --threads 1,2    thread counts (default 1 and 2)
  --rounds N       samples per contender, 1 to 100 (default 7; 2 with --quick)
  --quick          fewer rounds, shorter runs, one synthetic model: shows that all works
  --models DIR     folder with SmolLM2 (default .models; LOWBIT_MODELS)
  --cache DIR      folder for files made here (default bench/cache; LOWBIT_BENCH_CACHE)
  --llama DIR      folder with llama-bench and the other tools of llama.cpp (default bench/cache/llama/bin; LOWBIT_BENCH_LLAMA)
  --python FILE    interpreter with torch and transformers (LOWBIT_PYTHON)
  --texts DIR      folder with cal_wiki.utf8, for the gptq scenario (default ../shared/data; LOWBIT_TEXTS)
  --native FILE    lowbit_bench, for the kernels scenario (default build/native-bench/lowbit_bench)
  --out FILE       JSON lines (default bench/results/<time>.jsonl)
`;

const FILES = ['Q4_0', 'Q4_1', 'Q8_0', 'Q4_K_M', 'F16', 'BF16', 'GPTQ'];
const COMMANDS = ['run', 'setup', 'report', 'list'];
const string = { type: 'string' };

/**
 * @param {readonly string[]} argv
 * @param {Readonly<Record<string, string | undefined>>} env
 * @param {readonly string[]} scenarios names that --only and --skip may hold
 * @throws {Error} for unknown options and values out of range, naming them
 */
function parseOptions(argv, env, scenarios) {
  const { values, positionals } = parseArgs({
    args: [...argv],
    allowPositionals: true,
    options: {
      help: { type: 'boolean', short: 'h' },
      only: string,
      skip: string,
      files: string,
      threads: string,
      rounds: string,
      quick: { type: 'boolean' },
      models: string,
      cache: string,
      llama: string,
      python: string,
      texts: string,
      native: string,
      out: string,
    },
  });
  const [command = 'run', ...rest] = positionals;
  oneOf('the command', command, COMMANDS);
  if (rest.length > 0 && command !== 'report') throw new Error(`Expected no argument after "${command}" but received "${rest[0]}"`);
  const quick = values.quick ?? false;
  return {
    command,
    help: values.help ?? false,
    inputs: rest,
    quick,
    only: list('--only', values.only, scenarios),
    skip: list('--skip', values.skip, scenarios) ?? [],
    files: list('--files', values.files, FILES) ?? FILES,
    threads: threadList(values.threads ?? '1,2'),
    rounds: integer('--rounds', values.rounds ?? (quick ? '2' : '7'), 1, 100),
    models: given(values.models, env.LOWBIT_MODELS),
    cache: given(values.cache, env.LOWBIT_BENCH_CACHE),
    llama: given(values.llama, env.LOWBIT_BENCH_LLAMA),
    python: given(values.python, env.LOWBIT_PYTHON),
    texts: given(values.texts, env.LOWBIT_TEXTS),
    native: values.native,
    out: values.out,
  };
}

/** An empty variable counts as absent. */
const given = (...values) => values.find((value) => value !== undefined && value !== '');

function list(option, text, known) {
  if (text === undefined) return undefined;
  const items = text.split(',').filter((item) => item !== '');
  if (items.length === 0) throw new Error(`Expected one or more of ${known.join(', ')} for ${option} but received "${text}"`);
  for (const item of items) oneOf(option, item, known);
  return [...new Set(items)];
}

function threadList(text) {
  return [...new Set(text.split(',').map((item) => integer('--threads', item, 1, 256)))].sort((a, b) => a - b);
}

function integer(option, text, min, max) {
  const value = Number(text);
  if (!/^\d+$/.test(text) || value < min || value > max) {
    throw new Error(`Expected integer between ${min} and ${max} for ${option} but received "${text}"`);
  }
  return value;
}

function oneOf(option, value, known) {
  if (!known.includes(value)) throw new Error(`Expected one of ${known.join(', ')} for ${option} but received "${value}"`);
}

module.exports = { parseOptions, USAGE, FILES };
