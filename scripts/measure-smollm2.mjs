/**
 * npm run measure: the figures of docs/results.md, measured through the command line on the real SmolLM2-135M (npm run model:smollm2).
 * Needs WikiText-2's wiki.test.raw and a calibration text, cal_wiki.utf8, in LOWBIT_TEXTS or ../shared/data. Run it on an idle machine;
 * about 5 hours on 2 cores, nearly all of it the rows table_* and size_* of docs/quality.md. Prints one JSON line per figure and, at the end, the table.
 *
 * npm run measure -- [name ...] runs only the named rows (and what they need); 'table_*' those whose names begin so.
 */
import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import os from 'node:os';
import path from 'node:path';
import process from 'node:process';
import { fileURLToPath } from 'node:url';
import { KeptReference } from './kept_reference.mjs';

const { quantize } = createRequire(import.meta.url)('../dist/index.js');

const root = path.join(path.dirname(fileURLToPath(import.meta.url)), '..');
const cli = path.join(root, 'dist', 'cli', 'main.js');
const models = process.env.LOWBIT_MODELS ?? path.join(root, '.models');
const texts = process.env.LOWBIT_TEXTS ?? path.join(root, '..', 'shared', 'data');
const checkpoint = path.join(models, 'smollm2-135m-hf');
const gguf = path.join(models, 'SmolLM2-135M-Instruct.Q4_1.gguf');
const wiki = path.join(texts, 'wiki.test.raw');
const calibration = path.join(texts, 'cal_wiki.utf8');
const scratch = mkdtempSync(path.join(os.tmpdir(), 'lowbit-measure-'));
process.on('exit', () => rmSync(scratch, { recursive: true, force: true }));

for (const file of [cli, checkpoint, gguf, wiki, calibration]) {
  if (existsSync(file)) continue;
  console.error(`missing ${file}; see the first lines of scripts/measure-smollm2.mjs`);
  process.exit(1);
}

function lowbit(...args) {
  const { status, stdout, stderr } = spawnSync(process.execPath, [cli, ...args, '--json'], { encoding: 'utf8', maxBuffer: 2 ** 28 });
  if (status !== 0) throw new Error(`lowbit ${args.join(' ')} failed: ${stderr}`);
  return JSON.parse(stdout);
}

const perplexity = (model, precision) =>
  lowbit('perplexity', model, '--text', wiki, '--context', '512', '--chunks', '24', '--precision', precision).perplexity;

const gptqFrom = (text, output, ...flags) =>
  lowbit('quantize', checkpoint, '--output', output, '--method', 'gptq', '--group-size', '128', ...flags, '--calibration',
    text, '--calibration-samples', '128', '--calibration-length', '512'); // prettier-ignore
const gptq = (output, ...flags) => gptqFrom(calibration, output, ...flags);

/** Perplexities of GPTQ runs that differ only in where the calibration text begins: what a run's figure is worth. */
function noise(precision, preset) {
  const text = path.join(scratch, 'calibration.txt');
  const output = path.join(scratch, 'noise');
  return [0, 300_000, 600_000, 900_000].map((from) => {
    const all = readFileSync(calibration);
    writeFileSync(text, all.subarray(from === 0 ? 0 : all.indexOf(10, from)));
    rmSync(output, { recursive: true, force: true });
    gptqFrom(text, output, '--preset', preset, '--calibration-precision', precision);
    return perplexity(output, 'exact');
  });
}

const rtn = (output, ...flags) => lowbit('quantize', checkpoint, '--output', output, '--method', 'rtn', '--bits', '4', ...flags);

function compressed(name, make) {
  const output = path.join(scratch, name);
  const { seconds, peak_rss_bytes, bits_per_weight_quantized } = make(output);
  const exact = perplexity(output, 'exact');
  const fast = perplexity(output, 'fast');
  rmSync(output, { recursive: true });
  return { exact, fast, bits_per_weight_quantized, seconds, peak_rss_bytes };
}

let kept;
/** Against the checkpoint, on the exact path: what `lowbit compare --context 512 --chunks 24 --precision exact` prints. */
async function compared(name, make) {
  const output = path.join(scratch, name);
  const { seconds, cpu_seconds, peak_rss_bytes, bits_per_weight, bits_per_weight_quantized, report } = await make(output);
  kept ??= await KeptReference.of(checkpoint, readFileSync(wiki, 'utf8'), 24);
  const found = await kept.compare(output);
  rmSync(output, { recursive: true });
  return {
    exact: found.perplexity,
    kl: found.kl_divergence,
    kl_error: found.kl_standard_error,
    agreement: found.top_agreement,
    error: report.totals.error.toExponential(3),
    bits_per_weight,
    bits_per_weight_quantized,
    bytes: report.totals.bytesAfter,
    seconds,
    cpu_seconds,
    peak_rss_bytes,
  };
}

const bench = (model, threads) => {
  const { prefill_tokens_per_second, decode_tokens_per_second } = lowbit(
    'bench', model, '--prompt-tokens', '512', '--generate-tokens', '64', '--threads', String(threads)); // prettier-ignore
  return { prefill_tokens_per_second, decode_tokens_per_second };
};

/** docs/quality.md: from the published algorithm to the preset "quality", one step after the other. */
const ladder = [
  ['compat', '--preset', 'compat'],
  ['gptq', '--preset', 'fast'],
  ['act_static', '--preset', 'fast', '--desc-act', '--static-groups'],
  ['weighted_search', '--preset', 'fast', '--desc-act', '--static-groups', '--mse', '2', '--hessian-mse'],
  ['refit', '--preset', 'fast', '--desc-act', '--static-groups', '--mse', '2', '--hessian-mse', '--refit-scales'],
  ['guard', '--preset', 'fast', '--desc-act', '--static-groups', '--mse', '2', '--hessian-mse', '--row-guard', '--refit-scales'],
  ['sweeps', '--preset', 'quality', '--token-weights', 'magnitude'],
  ['quality', '--preset', 'quality'],
];

/**
 * docs/quality.md, the table of methods. Symmetric grids where a method leaves the choice: this checkpoint was made from a file of asymmetric groups of 32,
 * which such a grid of 4 bit would meet exactly. SpQR has groups of 16 of its own.
 */
const tableMethods = {
  rtn: ['--method', 'rtn'],
  awq: ['--method', 'awq', '--format', 'lowbit'],
  hqq: ['--method', 'hqq', '--format', 'lowbit'],
  compat: ['--preset', 'compat'],
  quality: [],
  eora: ['--format', 'lowbit', '--eora-rank', '16'],
  mixllm: ['--method', 'mixllm', '--format', 'lowbit'],
  spqr: ['--method', 'spqr', '--format', 'lowbit'],
};
const calibrationFlags = ['--calibration', calibration, '--calibration-samples', '128', '--calibration-length', '512'];
const tableRow = (name, bits, group) => {
  const grid = group === undefined ? [] : ['--group-size', String(group)];
  const data = ['rtn', 'hqq'].includes(name) ? [] : calibrationFlags;
  return compared('table', (output) =>
    lowbit('quantize', checkpoint, '--output', output, ...tableMethods[name], '--bits', String(bits), ...grid, ...data),
  );
};
const table = Object.fromEntries(
  [128, 64, 32].flatMap((group) =>
    [4, 3, 2].flatMap((bits) =>
      Object.keys(tableMethods).flatMap((name) => {
        if (name !== 'spqr') return [[`table_${name}_${bits}bit_g${group}`, () => tableRow(name, bits, group)]];
        return group === 128 ? [[`table_${name}_${bits}bit`, () => tableRow(name, bits)]] : [];
      }),
    ),
  ),
);

/**
 * docs/quality.md, sizes: an automatic allocation against uniform settings of linears and embedding that take no more. [bits, group] of the linears, then of
 * the embedding; every combination of the same methods that is nearly as large as the target.
 */
const sizes = {
  '54.5MB': [[3, 64, 3, 128], [3, 128, 3, 32], [3, 128, 3, 128]], // prettier-ignore
  '60MB': [[3, 64, 4, 32], [3, 32, 3, 32], [3, 128, 4, 32]], // prettier-ignore
  '76.5MB': [[4, 64, 5, 64], [4, 32, 4, 32], [4, 128, 5, 64]], // prettier-ignore
};
const sized = (targetSize, allocation, dynamic) => (output) => {
  const options = { allocation, ...(dynamic && { dynamic }), calibration: { file: calibration }, report: 'none' };
  return quantize({ model: checkpoint, output, targetSize, ...options }).then((report) => ({
    report,
    seconds: report.totals.seconds,
    bits_per_weight: report.totals.bitsPerWeightModel,
    bits_per_weight_quantized: report.totals.bitsPerWeight,
  }));
};
const sizeRows = Object.fromEntries(
  Object.entries(sizes).flatMap(([size, uniform]) => [
    [`size_${size}_auto`, () => compared('size', sized(size, {}))],
    [`size_${size}_search`, () => compared('size', sized(size, { generations: 20 }))],
    ...uniform.map(([bits, groupSize, outerBits, outerGroup]) => [
      `size_${size}_${bits}bit_g${groupSize}_embedding_${outerBits}bit_g${outerGroup}`,
      () =>
        compared(
          'size',
          sized(
            size,
            { bits: [bits], groupSizes: [groupSize], errorSamples: 1, probeSamples: 1 },
            {
              'model.embed_tokens': { bits: outerBits, groupSize: outerGroup },
            },
          ),
        ),
    ]),
  ]),
);

const rows = {
  checkpoint: () => ({ exact: perplexity(checkpoint, 'exact'), fast: perplexity(checkpoint, 'fast') }),
  gguf_q4_1: () => ({ exact: perplexity(gguf, 'exact'), fast: perplexity(gguf, 'fast') }),
  gptq_4bit_g128_paths: () => compressed('gptq', (output) => gptq(output)),
  rtn_4bit_g128: () => compressed('rtn', (output) => rtn(output, '--group-size', '128')),
  rtn_4bit_g32_asym: () => compressed('grid', (output) => rtn(output, '--group-size', '32', '--no-sym')),
  ...Object.fromEntries(
    ladder.flatMap(([step, ...flags]) =>
      [4, 3, 2].map((bits) => [
        `${step}_${bits}bit_g128`,
        () => compared(`${step}-${bits}`, (output) => gptq(output, ...flags, '--bits', String(bits))),
      ]),
    ),
  ),
  ...table,
  ...sizeRows,
  gptq_noise_fast: () => ({ exact: noise('fast', 'fast') }),
  gptq_noise_exact: () => ({ exact: noise('exact', 'fast') }),
  quality_noise: () => ({ exact: noise('fast', 'quality') }),
  speed_gguf_q4_1_1_thread: () => bench(gguf, 1),
  speed_gguf_q4_1_2_threads: () => bench(gguf, 2),
  speed_gptq_4bit_g128_2_threads: () => {
    const output = path.join(scratch, 'speed');
    rtn(output, '--group-size', '128'); // speed does not depend on how the codes were chosen
    return bench(output, 2);
  },
};

const wanted = process.argv.slice(2);
const results = [];
for (const [name, measure] of Object.entries(rows)) {
  const asked = wanted.some((word) => word === name || (word.endsWith('*') && name.startsWith(word.slice(0, -1))));
  if (wanted.length > 0 && !asked) continue;
  const result = { name, ...(await measure()) };
  results.push(result);
  console.log(JSON.stringify(result));
}

const columns = [...new Set(results.flatMap((result) => Object.keys(result)))];
const show = (value) =>
  Array.isArray(value)
    ? value.map(show).join(' ')
    : typeof value === 'number'
      ? value >= 1e6
        ? `${(value / 1e6).toFixed(0)} M`
        : value.toFixed(value < 100 ? 3 : 1)
      : (value ?? '');
console.log(`\n| ${columns.join(' | ')} |\n|${columns.map(() => '---|').join('')}`);
for (const result of results) console.log(`| ${columns.map((column) => show(result[column])).join(' | ')} |`);
