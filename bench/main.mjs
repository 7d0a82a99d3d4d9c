/**
 * npm run bench: lowbit through its Node API against llama.cpp, node-llama-cpp and torch. Correctness first, then alternating samples with
 * the read bandwidth beside each, as JSON lines. This file reads the command line and runs scenarios; docs/benchmarks.md explains.
 */
import { existsSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import process from 'node:process';
import { Llama } from './engines/llama.mjs';
import { lowbit } from './engines/lowbit.mjs';
import { nodeLlama } from './engines/node_llama.mjs';
import { torchEngine } from './engines/python.mjs';
import cli from './pure/options.cjs';
import { Bandwidth } from './run/bandwidth.mjs';
import { EngineFailure, WrongAnswer } from './run/child.mjs';
import { Files } from './run/files.mjs';
import { allowedCpus, machineLine, root } from './run/machine.mjs';
import { Recorder } from './run/recorder.mjs';
import { Session } from './run/session.mjs';
import { setup } from './run/setup.mjs';
import { scenarios } from './scenarios/index.mjs';
import { printSummary, writeReport } from './report.mjs';

/** With more waiting processes than this the figures say more about the neighbours. */
const IDLE_LOAD = 0.5;

function readOptions() {
  const options = cli.parseOptions(
    process.argv.slice(2),
    process.env,
    scenarios.map(({ name }) => name),
  );
  const cache = path.resolve(options.cache ?? path.join(import.meta.dirname, 'cache'));
  const stamp = new Date().toISOString().replace(/\D/g, '').slice(0, 14);
  return {
    ...options,
    cache,
    models: path.resolve(options.models ?? path.join(root, '.models')),
    llama: path.resolve(options.llama ?? path.join(cache, 'llama', 'bin')),
    texts: path.resolve(options.texts ?? path.join(root, '..', 'shared', 'data')),
    native: path.resolve(options.native ?? path.join(root, 'build', 'native-bench', 'lowbit_bench')),
    out: path.resolve(options.out ?? path.join(import.meta.dirname, 'results', `${stamp}.jsonl`)),
  };
}

async function run(options) {
  if (!existsSync(path.join(root, 'dist', 'index.js'))) throw new EngineFailure('dist/ is missing: run "npm run compile"');
  const llama = new Llama(options.llama);
  const recorder = new Recorder(options.out);
  const engine = await lowbit.call('info');
  recorder.add(machineLine(engine, options.quick));
  if (os.loadavg()[0] > IDLE_LOAD) console.log(`this machine is busy (load ${os.loadavg()[0].toFixed(2)}): figures are disturbed`);
  const bandwidth = await Bandwidth.start(options.cache);
  if (bandwidth.missing !== undefined) recorder.add({ type: 'skip', scenario: 'all', reason: bandwidth.missing });
  const files = new Files({ models: options.models, cache: options.cache, llama });
  const torch = torchEngine(options.python);
  const session = new Session({ options, recorder, bandwidth, files, llama, nodeLlama, torch, cpus: allowedCpus() });
  const wanted = scenarios.filter(
    ({ name, optional }) => (options.only ? options.only.includes(name) : !optional) && !options.skip.includes(name),
  );
  try {
    for (const scenario of wanted) {
      console.log(`\n== ${scenario.name}: ${scenario.about}`);
      await session.attempt({ scenario: scenario.name }, 'lowbit', () => scenario.run(session));
    }
  } finally {
    await bandwidth.stop();
  }
  printSummary(recorder.lines);
  console.log(`\n${path.relative(process.cwd(), recorder.file)}`);
  return recorder.lines.filter(({ type }) => type === 'failure').length;
}

async function main() {
  const options = readOptions();
  if (options.help) return console.log(cli.USAGE);
  switch (options.command) {
    case 'setup':
      return (process.exitCode = (await setup(options)) === 0 ? 0 : 1);
    case 'report':
      return writeReport(options.inputs);
    case 'list':
      for (const { name, about } of scenarios) console.log(`${name.padEnd(10)}${about}`);
      return undefined;
    default:
      return (process.exitCode = (await run(options)) === 0 ? 0 : 1);
  }
}

try {
  await main();
} catch (error) {
  console.error(`bench: ${error instanceof WrongAnswer ? 'WRONG ANSWER, no time is worth measuring: ' : ''}${error.message}`);
  process.exitCode = 1;
}
