/** lowbit perplexity: how well a model predicts a text, in llama.cpp's or Hugging Face's protocol. */
import { type Command, Option } from 'commander';
import { evaluate } from '../../index';
import type { Io } from '../io';
import { defined, parseNumber, readText } from '../parse';
import { type RunOptions, addRunOptions, examples, modelKeys, withModel } from '../runtime';

interface Flags extends RunOptions {
  readonly text: string;
  readonly protocol?: 'llama.cpp' | 'huggingface';
  readonly context?: number;
  readonly stride?: number;
  readonly chunks?: number;
}

export function perplexityCommand(command: Command, io: () => Io): void {
  addRunOptions(
    command
      .description(
        'Measure perplexity as llama.cpp does (chunks of --context tokens, the second half of each scored) or as Hugging Face does',
      )
      .argument('<model>', 'model directory, .gguf file or hf:owner/name')
      .requiredOption('-f, --text <file>', 'text in UTF-8, read byte for byte; at least 2 x --context tokens')
      .addOption(
        new Option('--protocol <name>', 'llama.cpp (default); huggingface: overlapping windows, everything scored once').choices([
          'llama.cpp',
          'huggingface',
        ]),
      )
      .option('-c, --context <tokens>', 'tokens per chunk or window (default: 512; huggingface: 1024)', parseNumber)
      .option('--stride <tokens>', 'huggingface: tokens from one window to the next (default: half of --context)', parseNumber)
      .option('--chunks <n>', 'chunks to evaluate, from the start (default: all)', parseNumber),
  )
    .addHelpText(
      'after',
      examples(
        'lowbit perplexity ./model --text wiki.test.raw',
        'lowbit perplexity ./model --text wiki.test.raw --context 512 --chunks 24 --precision exact --json',
        'lowbit perplexity ./model --text wiki.test.raw --protocol huggingface --context 1024 --stride 512',
      ),
    )
    .action((model: string, flags: Flags) => run(io(), model, flags));
}

async function run(io: Io, path: string, flags: Flags): Promise<void> {
  const text = await readText(flags.text);
  await withModel(io, path, flags, async (model, loadMs) => {
    const progress = io.progress('perplexity');
    const result = await evaluate
      .perplexity(model, {
        text,
        ...defined({ protocol: flags.protocol, contextSize: flags.context, stride: flags.stride, chunks: flags.chunks }),
        onProgress: ({ done, total, perplexity }) => progress.update(done / total, perplexity.toFixed(4)),
        signal: io.signal,
      })
      .finally(() => progress.end());
    io.out(
      `Perplexity ${result.perplexity.toFixed(4)} +/- ${result.standardError.toFixed(4)}\n` +
        `${result.tokens} tokens scored in ${result.chunks} chunks of ${result.contextSize} (protocol ${result.protocol}, ` +
        (result.stride === undefined ? '' : `stride ${result.stride}, `) +
        `BOS ${!result.addBos ? 'not added' : result.protocol === 'llama.cpp' ? 'at the start of each' : 'at the start'}, ${flags.precision} path), ${result.seconds.toFixed(1)} s\n`,
    );
    io.result({
      perplexity: result.perplexity,
      standard_error: result.standardError,
      tokens: result.tokens,
      chunks: result.chunks,
      protocol: result.protocol,
      context_size: result.contextSize,
      ...(result.stride === undefined ? {} : { stride: result.stride }),
      add_bos: result.addBos,
      seconds: result.seconds,
      ...modelKeys(model, loadMs),
    });
  });
}
