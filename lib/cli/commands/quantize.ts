/** lowbit quantize: compresses a model and reports what was done. */
import { type Command, Option } from 'commander';
import { type QuantizeMethod, type QuantizeOptions, type QuantizeProgress, type QuantizeReport, dryRun, quantize } from '../../index';
import { type Io, cpuSeconds, peakRssBytes } from '../io';
import { camelCaseRules, defined, parseJsonObject, parseNumber, toSnakeCase } from '../parse';
import { dryRunTables } from '../dry_run';
import { addHubOptions, examples, hubOptions, type HubFlags } from '../runtime';
import { formatBytes } from '../../units';

interface Flags extends HubFlags {
  readonly output: string;
  readonly method: QuantizeMethod;
  readonly preset?: 'quality' | 'fast' | 'compat';
  readonly format?: 'gptq' | 'gptq_v2' | 'gguf' | 'lowbit';
  readonly ggufType?: string;
  readonly targetSize?: string;
  readonly bitsPerWeight?: number;
  readonly generations?: number;
  readonly bits?: number;
  readonly groupSize?: number;
  readonly sym?: boolean;
  readonly descAct?: boolean;
  readonly staticGroups?: boolean;
  readonly actGroupAware: boolean;
  readonly mse?: number;
  readonly hessianMse?: boolean;
  readonly refitScales?: boolean;
  readonly sweeps?: number;
  readonly rowGuard?: boolean;
  readonly eoraRank?: number;
  readonly smoothAlpha?: number;
  readonly spqrOutlierThreshold?: number;
  readonly mixllmFraction?: number;
  readonly dampPercent?: number;
  readonly calibration?: string;
  readonly calibrationSamples?: number;
  readonly calibrationLength?: number;
  readonly calibrationPrecision?: 'fast' | 'exact';
  readonly tokenWeights?: 'magnitude' | 'equal';
  readonly calibrationMemory?: string;
  readonly dynamic?: Record<string, unknown>;
  readonly threads?: number;
  readonly overwrite?: boolean;
  readonly report?: 'full' | 'json' | 'none';
  readonly resume?: boolean;
  readonly dryRun?: boolean;
  readonly json?: boolean;
}

export function quantizeCommand(command: Command, io: () => Io): void {
  addHubOptions(command)
    .description('Compress a model; the result is a Hugging Face GPTQ checkpoint that vLLM, transformers and lowbit load')
    .argument('<model>', 'model directory, .gguf file or hf:owner/name')
    .requiredOption('-o, --output <dir>', 'directory to create; nothing appears there unless the run succeeds')
    .addOption(
      new Option('--method <name>', 'gptq, awq, spqr, mixllm: calibrated; rtn, hqq, finequant: no data')
        .choices(['gptq', 'rtn', 'awq', 'hqq', 'spqr', 'mixllm', 'finequant'])
        .default('gptq'),
    )
    .addOption(
      new Option(
        '--preset <name>',
        'gptq: quality, the best codes (default); fast, in three quarters of the time; compat, as published',
      ).choices(['quality', 'fast', 'compat']),
    )
    .addOption(
      new Option(
        '--format <name>',
        'gptq (default); gptq_v2: zero points without offset; gguf: model.gguf for llama.cpp; lowbit: own container, holds what the others cannot',
      ).choices(['gptq', 'gptq_v2', 'gguf', 'lowbit']),
    )
    .option('--gguf-type <name>', 'gguf: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, Q6_K or a mixture, Q4_K_S to Q5_K_M (default: Q4_K_M)')
    .option(
      '--target-size <size>',
      'bytes that all weight files may take, such as 60MB or 57.2MiB: width, group and rank are chosen for each linear, embedding and head',
    )
    .option('--bits-per-weight <f>', 'the same as bits of all weight files per parameter, such as 3.5', parseNumber)
    .option('--generations <n>', 'with these: search by trial behind the choice, about ten passes each (default: 0)', parseNumber)
    .option('--bits <n>', 'bits per weight: 2, 3, 4 or 8, with format lowbit also 5 or 6 (default: 4)', parseNumber)
    .option('--group-size <n>', 'columns that share a scale: 32, 64, 128, or -1 for the whole row (default: 128)', parseNumber)
    .option('--no-sym', 'grids with their own zero point instead of symmetric ones')
    .option('--desc-act', 'gptq: solve columns by falling importance; without static groups the file stores the order')
    .option('--static-groups', 'gptq: group grids from the original column order')
    .option('--no-act-group-aware', 'gptq: keep groups in file order instead of by importance')
    .option('--mse <exponent>', 'search a smaller range per group; 0 = off, 2.4 = the published choice', parseNumber)
    .option('--hessian-mse', 'gptq: that search weighs columns by importance')
    .option('--sweeps <n>', 'gptq: passes that improve one code after the other', parseNumber)
    .option('--row-guard', 'gptq: rows that plain rounding serves better take its codes')
    .option('--refit-scales', 'gptq: the best scales for the codes that were found')
    .option('--eora-rank <n>', 'a low-rank correction behind the method, 1 to 256; 0 = off', parseNumber)
    .option('--smooth-alpha <f>', "SmoothQuant's scaling of inputs in front of the method, 0 to 1; 0 = off", parseNumber)
    .option('--spqr-outlier-threshold <f>', 'spqr: what makes a weight an outlier (default: 0.2)', parseNumber)
    .option('--mixllm-fraction <f>', 'mixllm: share of the rows in 8 bits (default: 0.1)', parseNumber)
    .option('--damp-percent <f>', 'gptq: fraction of the mean Hessian diagonal added to it', parseNumber)
    .option(
      '--calibration <file>',
      'gptq: text in UTF-8, or .jsonl with a sample per line, like what the model will see (default: a small built-in text)',
    )
    .option('--calibration-samples <n>', 'samples at most (default: 128)', parseNumber)
    .option('--calibration-length <n>', 'tokens per sample (default: 512)', parseNumber)
    .addOption(
      new Option('--calibration-precision <name>', 'gptq: fast (default), or exact: f32 throughout, slower').choices(['fast', 'exact']),
    )
    .addOption(
      new Option('--token-weights <name>', 'gptq: what tokens count for, by magnitude or equal (default: of the preset)').choices([
        'magnitude',
        'equal',
      ]),
    )
    .option(
      '--calibration-memory <size>',
      'what it may keep in memory, "4GB"; no result depends on it (default: a quarter of what is free, at most 1 GiB)',
    )
    .option('--dynamic <json>', 'settings for single linears by regular expression, as GPTQModel writes them', parseJsonObject)
    .option('-t, --threads <n>', 'threads, the main one included (default: usable physical cores)', parseNumber)
    .option('--overwrite', 'replace an existing output directory')
    .option('--resume', 'go on with a run that was interrupted or died; same options, same result')
    .option('--dry-run', 'check everything, write nothing, and say what would happen: sizes, memory, time')
    .addOption(
      new Option('--report <files>', 'report beside the weights: full (JSON, CSV, HTML; default), json or none').choices([
        'full',
        'json',
        'none',
      ]),
    )
    .addHelpText(
      'after',
      examples(
        'lowbit quantize ./model --output ./model-4bit --calibration text.txt',
        'lowbit quantize ./model -o ./model-60mb --target-size 60MB --calibration text.txt',
        'lowbit quantize ./model -o ./model-3bit --bits 3 --group-size 64 --desc-act --calibration text.txt --calibration-samples 256',
        'lowbit quantize ./model -o ./model-rtn --method rtn --no-sym --json',
        `lowbit quantize ./model -o ./mixed --calibration text.txt --dynamic '{"-:.*down_proj": {}, ".*v_proj": {"bits": 8}}'`,
      ),
    )
    .action((model: string, flags: Flags) => run(io(), model, flags));
}

async function run(io: Io, model: string, flags: Flags): Promise<void> {
  const { calibration, dynamic, sym, generations, dryRun: dry, json: _json, offline: _offline, ...rest } = flags;
  const hub = hubOptions(io, flags);
  const progress = io.progress(flags.method);
  const options = {
    model,
    ...defined(rest as Record<string, unknown>),
    ...(sym === false ? { sym } : {}), // --no-sym sets a default, which is no wish
    ...(calibration === undefined ? {} : { calibration: { file: calibration } }),
    ...(generations === undefined ? {} : { allocation: { generations } }),
    ...(dynamic === undefined ? {} : { dynamic: camelCaseRules(dynamic) }),
    hub: hub.options,
    signal: io.signal,
    onProgress: (event) => {
      hub.end();
      progress.update(event.fraction, progressDetail(event), event.secondsLeft);
    },
  } as QuantizeOptions; // quantize() checks every value
  if (dry === true) {
    const plan = await dryRun(options).finally(() => {
      hub.end();
      progress.end();
    });
    io.out(`${dryRunTables(plan)}\n`);
    for (const line of plan.warnings) io.note(`warning: ${line}`);
    io.result({ dry_run: true, ...(toSnakeCase(plan, ['dynamic']) as Record<string, unknown>) });
    return;
  }
  const report = await quantize(options).finally(() => {
    hub.end();
    progress.end();
  });
  const { totals, calibration: data } = report;
  io.out(
    `${report.output}: ${formatBytes(totals.bytesBefore)} -> ${formatBytes(totals.bytesAfter)}, ${totals.bitsPerWeightModel.toFixed(2)} bits per weight ` +
      `(${report.linears.length} linears at ${totals.bitsPerWeight.toFixed(2)})\n` +
      `mean relative error ${totals.error.toExponential(2)}${data ? ` on ${data.tokens} calibration tokens` : ''}, ${totals.seconds.toFixed(1)} s\n`,
  );
  if (report.allocation) io.out(`${chosenForms(report)}\n`);
  for (const line of report.warnings) io.note(`warning: ${line}`);
  for (const line of report.fallbacks) io.note(`fallback: ${line}`);
  io.result({
    output: report.output,
    method: flags.method,
    bits: flags.bits,
    bits_per_weight: totals.bitsPerWeightModel,
    bits_per_weight_quantized: totals.bitsPerWeight,
    bytes_before: totals.bytesBefore,
    bytes_after: totals.bytesAfter,
    seconds: totals.seconds,
    cpu_seconds: cpuSeconds(),
    peak_rss_bytes: peakRssBytes(),
    report: toSnakeCase(report, ['dynamic']),
  });
}

/** What was chosen for how many linears, and what it costs. */
function chosenForms({ linears, allocation, curve = [] }: QuantizeReport): string {
  const counts = new Map<number, number>();
  for (const { bits } of linears) counts.set(bits, (counts.get(bits) ?? 0) + 1);
  const widths = [...counts].sort(([a], [b]) => a - b).map(([bits, count]) => `${count} of ${bits} bit`);
  const chosen = curve.find((point) => point.chosen);
  const smaller = curve
    .filter((point) => !point.chosen && chosen && point.bytes <= chosen.bytes)
    .sort((a, b) => a.klDivergence - b.klDivergence)[0];
  const against = smaller ? `, against ${smaller.klDivergence.toPrecision(3)} for ${smaller.label} everywhere` : '';
  return `chosen: ${widths.join(', ')}; divergence on ${allocation?.probeSamples} calibration samples ${allocation?.measuredDivergence.toPrecision(3)}${against}`;
}

/** What a run is at: "block 3 of 30, q_proj, error 2.1e-3". */
export function progressDetail({ phase, block, blocks, linear, error }: QuantizeProgress): string {
  if (block < 0) return phase;
  const parts = [`block ${block + 1} of ${blocks}`, linear === undefined ? phase : linear.slice(linear.lastIndexOf('.') + 1)];
  return [...parts, ...(error === undefined ? [] : [`error ${error.toExponential(1)}`])].join(', ');
}
