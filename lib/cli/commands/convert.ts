/** lowbit convert: moves a model to another format without calibration and lists what is lost. */
import { type Command, Option } from 'commander';
import { convert, type ConvertOptions } from '../../index';
import type { Io } from '../io';
import { defined, parseNumber, toSnakeCase } from '../parse';
import { addHubOptions, examples, hubOptions, type HubFlags } from '../runtime';
import { formatBytes } from '../../units';

interface Flags extends HubFlags {
  readonly to: string;
  readonly type?: string;
  readonly allowDense?: boolean;
  readonly maxShardBytes?: number;
  readonly threads?: number;
  readonly overwrite?: boolean;
  readonly json?: boolean;
}

export function convertCommand(command: Command, io: () => Io): void {
  addHubOptions(command)
    .description(
      'Move a model to another format without calibration: codes that the format holds are carried over bit for bit, what is rounded or lost is listed',
    )
    .argument('<model>', 'model directory, dense or quantised (GPTQ, AWQ, compressed-tensors, lowbit), .gguf file or hf:owner/name')
    .argument('<output>', 'directory to create')
    .addOption(
      new Option(
        '--to <format>',
        'gguf: one file model.gguf with tokenizer and chat template, for llama.cpp; hf: dense safetensors; gptq: GPTQ checkpoint, version 1 where it holds all zero points, else 2; gptq_v2; lowbit: own container',
      )
        .choices(['gguf', 'hf', 'gptq', 'gptq_v2', 'lowbit'])
        .default('gguf'),
    )
    .option(
      '--type <name>',
      'of matrices that are not carried over: F32, F16, BF16, with gguf also Q4_0 to Q8_0, Q4_K, Q5_K, Q6_K or a mixture, Q4_K_S to Q5_K_M (default: what holds the source best)',
    )
    .option('--allow-dense', 'gptq, gptq_v2, lowbit: store linears that the format cannot hold exactly dense, in place of refusing')
    .option('--max-shard-bytes <n>', 'largest size of one .safetensors file (default: 4 GiB)', parseNumber)
    .option('-t, --threads <n>', 'threads, the main one included (default: usable physical cores)', parseNumber)
    .option('--overwrite', 'replace an existing output directory')
    .addHelpText(
      'after',
      examples(
        'lowbit convert ./model ./model-gguf --type Q8_0',
        'lowbit convert ./model-awq ./model-gptq --to gptq',
        'lowbit convert hf:owner/name ./model-lowbit --to lowbit',
        'lowbit convert ./model.gguf ./model-hf --to hf --type F16 --json',
      ),
    )
    .action((model: string, output: string, flags: Flags) => run(io(), model, output, flags, flags));
}

async function run(
  io: Io,
  model: string,
  output: string,
  { json: _json, offline: _offline, ...flags }: Flags,
  named: HubFlags,
): Promise<void> {
  const hub = hubOptions(io, named);
  const progress = io.progress('convert');
  const options = {
    model,
    output,
    ...defined(flags as unknown as Record<string, unknown>),
    hub: hub.options,
    signal: io.signal,
    onProgress: (fraction) => {
      hub.end();
      progress.update(fraction, 'convert');
    },
  } as ConvertOptions; // convert() checks every value
  const report = await convert(options).finally(() => {
    hub.end();
    progress.end();
  });
  hub.note(report.hub);
  const rounded = report.tensors.filter(({ exact }) => !exact);
  const groups = new Map<string, { count: number; error: number }>();
  for (const { from, to, error } of rounded) {
    const group = groups.get(`${from} -> ${to}`) ?? { count: 0, error: 0 };
    groups.set(`${from} -> ${to}`, { count: group.count + 1, error: Math.max(group.error, error) });
  }
  const lines = [
    `${report.output} (${report.format}): ${formatBytes(report.bytesBefore)} -> ${formatBytes(report.bytesAfter)}, ${report.tensors.length - rounded.length} of ${report.tensors.length} tensors exact`,
    ...[...groups].map(
      ([types, { count, error }]) => `  rounded: ${count} tensors, ${types}, relative squared error up to ${error.toExponential(1)}`,
    ),
    ...report.dropped.map((what) => `  dropped: ${what}`),
  ];
  io.out(`${lines.join('\n')}\n`);
  io.result(toSnakeCase(report) as Record<string, unknown>);
}
