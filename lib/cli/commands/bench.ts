/** lowbit bench: prompt and generation speed, separately. */
import type { Command } from 'commander';
import { type Context, LowbitError } from '../../index';
import type { Io } from '../io';
import { parseNumber } from '../parse';
import { type RunOptions, addRunOptions, examples, modelKeys, withModel } from '../runtime';

interface Flags extends RunOptions {
  readonly promptTokens: number;
  readonly generateTokens: number;
  readonly repeats: number;
}

export function benchCommand(command: Command, io: () => Io): void {
  addRunOptions(
    command
      .description('Measure prompt and generation speed; medians after one warm-up run')
      .argument('<model>', 'model directory, .gguf file or hf:owner/name')
      .option('--prompt-tokens <n>', 'tokens read per run', parseNumber, 512)
      .option('--generate-tokens <n>', 'tokens generated per run', parseNumber, 64)
      .option('-r, --repeats <n>', 'measured runs', parseNumber, 5),
  )
    .addHelpText(
      'after',
      examples('lowbit bench ./model', 'lowbit bench ./model --prompt-tokens 128 --generate-tokens 32 --threads 1 --repeats 10 --json'),
    )
    .action((model: string, flags: Flags) => run(io(), model, flags));
}

async function run(io: Io, path: string, flags: Flags): Promise<void> {
  const { promptTokens, generateTokens, repeats } = flags;
  within('--repeats', repeats, 1000);
  within('--prompt-tokens', promptTokens, 2 ** 24);
  within('--generate-tokens', generateTokens, 2 ** 24);
  await withModel(io, path, flags, async (model, loadMs) => {
    if (promptTokens + generateTokens > model.contextLength) {
      throw new LowbitError(
        'INVALID_ARGUMENT',
        `This model holds ${model.contextLength} tokens, fewer than ${promptTokens} + ${generateTokens}: lower --prompt-tokens or --generate-tokens`,
        { contextLength: model.contextLength },
      );
    }
    const context = await model.createContext({ contextSize: promptTokens + generateTokens });
    const prompt = Int32Array.from({ length: promptTokens }, (_, i) => (i * 7919 + 13) % model.vocabSize); // any ids will do; a prime step spreads them
    const progress = io.progress('measuring');
    const start = performance.now();
    const runs: { readonly prefill: number; readonly decode: number }[] = [];
    try {
      for (let i = 0; i <= repeats; i++) {
        const run = await measure(context, prompt, generateTokens, io.signal);
        if (i > 0) runs.push(run); // the first run warms caches and clocks up
        progress.update((i + 1) / (repeats + 1));
      }
    } finally {
      progress.end();
    }
    const prefill = runs.map((run) => run.prefill);
    const decode = runs.map((run) => run.decode);
    const { isa, threads } = model.info;
    const line = (name: string, tokens: number, rates: readonly number[]): string =>
      `${name.padEnd(10)} ${String(tokens).padStart(6)} tokens ${median(rates).toFixed(1).padStart(10)} tok/s  (${Math.min(...rates).toFixed(1)} to ${Math.max(...rates).toFixed(1)})\n`;
    io.out(
      `${path}: ${model.architecture}, ${model.info.bitsPerWeight.toFixed(2)} bits per weight, ${isa}, ${threads} threads, ${flags.precision} path\n`,
    );
    io.out(line('prompt', promptTokens, prefill) + line('generation', generateTokens, decode));
    io.result({
      prompt_tokens: promptTokens,
      generate_tokens: generateTokens,
      repeats,
      prefill_tokens_per_second: median(prefill),
      decode_tokens_per_second: median(decode),
      prefill_runs: prefill,
      decode_runs: decode,
      seconds: (performance.now() - start) / 1000,
      ...modelKeys(model, loadMs),
    });
  });
}

/** One run from an empty context. The first token belongs to the prompt's time, so one more than measured is generated. */
async function measure(
  context: Context,
  prompt: Int32Array,
  generate: number,
  signal: AbortSignal,
): Promise<{ prefill: number; decode: number }> {
  await context.reset();
  const stream = context.generateTokens(prompt, { maxTokens: generate + 1, ignoreEos: true, signal });
  for await (const _token of stream); // only the timing counts
  const { prefillTokensPerSecond, decodeTokensPerSecond } = stream.result!.timing;
  return { prefill: prefillTokensPerSecond, decode: decodeTokensPerSecond };
}

function within(option: string, value: number, max: number): void {
  if (Number.isInteger(value) && value >= 1 && value <= max) return;
  throw new LowbitError('INVALID_ARGUMENT', `Expected integer between 1 and ${max} for ${option} but received ${value} of type number`, {
    option,
  });
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? (sorted[middle] as number) : ((sorted[middle - 1] as number) + (sorted[middle] as number)) / 2;
}
