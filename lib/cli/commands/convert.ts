/** lowbit convert: moves a model to another format without calibration and lists what is lost. */
import { type Command, Option } from 'commander';
import { convert, type ConvertOptions } from '../../index';
import type { Io } from '../io';
import { defined, parseNumber, toSnakeCase } from '../parse';
import { examples } from '../runtime';
import { formatBytes } from '../../units';

interface Flags {
  readonly to: 'gguf';
  readonly type?: string;
  readonly threads?: number;
  readonly overwrite?: boolean;
  readonly json?: boolean;
}

export function convertCommand(command: Command, io: () => Io): void {
  command
    .description('Move a model to another format without calibration; what the format cannot hold exactly is rounded and listed')
    .argument('<model>', 'model directory, dense or GPTQ, or .gguf file')
    .argument('<output>', 'directory to create; it will hold model.gguf')
    .addOption(
      new Option('--to <format>', 'gguf: one file with tokenizer and chat template, for llama.cpp').choices(['gguf']).default('gguf'),
    )
    .option(
      '--type <name>',
      'F32, F16, BF16, Q4_0 to Q8_0, Q4_K, Q5_K, Q6_K or a mixture, Q4_K_S to Q5_K_M (default: what holds the source best)',
    )
    .option('-t, --threads <n>', 'threads, the main one included (default: usable physical cores)', parseNumber)
    .option('--overwrite', 'replace an existing output directory')
    .addHelpText('after', examples('lowbit convert ./model ./model-gguf --type Q8_0', 'lowbit convert ./model-4bit ./model-gguf --json'))
    .action((model: string, output: string, flags: Flags) => run(io(), model, output, flags));
}

async function run(io: Io, model: string, output: string, { json: _json, ...flags }: Flags): Promise<void> {
  const progress = io.progress('convert');
  const options = {
    model,
    output,
    ...defined(flags as unknown as Record<string, unknown>),
    signal: io.signal,
    onProgress: (fraction) => progress.update(fraction, 'convert'),
  } as ConvertOptions; // convert() checks every value
  const report = await convert(options).finally(() => progress.end());
  const rounded = report.tensors.filter(({ exact }) => !exact);
  const groups = new Map<string, { count: number; error: number }>();
  for (const { from, to, error } of rounded) {
    const group = groups.get(`${from} -> ${to}`) ?? { count: 0, error: 0 };
    groups.set(`${from} -> ${to}`, { count: group.count + 1, error: Math.max(group.error, error) });
  }
  const lines = [
    `${report.output}: ${formatBytes(report.bytesBefore)} -> ${formatBytes(report.bytesAfter)}, ${report.tensors.length - rounded.length} of ${report.tensors.length} tensors exact`,
    ...[...groups].map(
      ([types, { count, error }]) => `  rounded: ${count} tensors, ${types}, relative squared error up to ${error.toExponential(1)}`,
    ),
    ...report.dropped.map((what) => `  dropped: ${what}`),
  ];
  io.out(`${lines.join('\n')}\n`);
  io.result(toSnakeCase(report) as Record<string, unknown>);
}
