/** lowbit generate: continues a prompt and streams the text. */
import type { Command } from 'commander';
import { LowbitError } from '../../index';
import type { Io } from '../io';
import { collect, defined, parseNumber, readText } from '../parse';
import {
  type RunOptions,
  type SamplingFlags,
  addRunOptions,
  addSamplingOptions,
  examples,
  modelKeys,
  samplingOptions,
  withModel,
} from '../runtime';

interface Flags extends RunOptions, SamplingFlags {
  readonly prompt?: string;
  readonly file?: string;
  readonly context?: number;
  readonly stop?: readonly string[];
}

/** Without --max-tokens; a model that never ends its text must not run for the whole context. */
const defaultMaxTokens = 128;

export function generateCommand(command: Command, io: () => Io): void {
  addRunOptions(
    addSamplingOptions(
      command
        .description('Continue a prompt; the text goes to stdout as it comes')
        .argument('<model>', 'model directory, .gguf file or hf:owner/name')
        .option('-p, --prompt <text>', 'the prompt')
        .option('-f, --file <file>', 'read the prompt from a file, byte for byte')
        .option('-c, --context <tokens>', 'context size (default: what the model was made for, at most 4096)', parseNumber)
        .option('--stop <text>', 'end before this text; may be given several times', collect),
      String(defaultMaxTokens),
    ),
  )
    .addHelpText(
      'after',
      examples(
        'lowbit generate ./model --prompt "Once upon a time" --max-tokens 64',
        'lowbit generate ./model -p "Dear" --temperature 0.8 --top-p 0.95 --seed 1 --stop "." --json',
      ),
    )
    .action((model: string, flags: Flags) => run(io(), model, flags));
}

async function run(io: Io, path: string, flags: Flags): Promise<void> {
  if ((flags.prompt === undefined) === (flags.file === undefined)) {
    throw new LowbitError('INVALID_ARGUMENT', 'Expected exactly one of --prompt and --file', { option: 'prompt' });
  }
  const prompt = flags.prompt ?? (await readText(flags.file as string));
  await withModel(io, path, flags, async (model, loadMs) => {
    const context = await model.createContext(defined({ contextSize: flags.context }));
    const start = performance.now();
    const stream = context.generate(prompt, {
      maxTokens: defaultMaxTokens,
      ...samplingOptions(flags),
      ...defined({ stop: flags.stop }),
      signal: io.signal,
    });
    let text = '';
    for await (const piece of stream) {
      text += piece;
      io.out(piece);
    }
    const { finishReason, tokens, seed, timing } = stream.result!;
    io.out('\n');
    io.note(
      `${timing.promptTokens} prompt tokens at ${timing.prefillTokensPerSecond.toFixed(0)} tok/s, ${tokens.length} generated at ` +
        `${timing.decodeTokensPerSecond.toFixed(1)} tok/s, ended by ${finishReason}, seed ${seed}` +
        (flags.promptLookup === true ? `, ${timing.acceptedTokens} of ${timing.guessedTokens} guesses right` : ''),
    );
    io.result({
      text,
      finish_reason: finishReason,
      seed,
      prompt_tokens: timing.promptTokens,
      tokens: tokens.length,
      prefill_tokens_per_second: timing.prefillTokensPerSecond,
      decode_tokens_per_second: timing.decodeTokensPerSecond,
      guessed_tokens: timing.guessedTokens,
      accepted_tokens: timing.acceptedTokens,
      seconds: (performance.now() - start) / 1000,
      ...modelKeys(model, loadMs),
    });
  });
}
