/** lowbit compare: how far a model's predictions are from those of another, usually its uncompressed original. */
import type { Command } from 'commander';
import { evaluate } from '../../index';
import type { Io } from '../io';
import { defined, parseNumber, readText, toSnakeCase } from '../parse';
import { type RunOptions, addRunOptions, examples, modelKeys, withModel } from '../runtime';

interface Flags extends RunOptions {
  readonly text: string;
  readonly context?: number;
  readonly chunks?: number;
}

export function compareCommand(command: Command, io: () => Io): void {
  addRunOptions(
    command
      .description('Compare the predictions of a model with those of a reference: Kullback-Leibler divergence, agreement, perplexities')
      .argument('<model>', 'model directory, .gguf file or hf:owner/name')
      .argument('<reference>', 'the model it is compared with, of the same vocabulary; both are loaded')
      .requiredOption('-f, --text <file>', 'text in UTF-8, read byte for byte; at least 2 x --context tokens')
      .option('-c, --context <tokens>', 'tokens per chunk (default: 512)', parseNumber)
      .option('--chunks <n>', 'chunks to evaluate, from the start (default: all)', parseNumber),
  )
    .addHelpText('after', examples('lowbit compare ./model-4bit ./model --text wiki.test.raw --chunks 24 --precision exact'))
    .action((model: string, reference: string, flags: Flags) => run(io(), model, reference, flags));
}

async function run(io: Io, path: string, referencePath: string, flags: Flags): Promise<void> {
  const text = await readText(flags.text);
  await withModel(io, referencePath, flags, (reference) =>
    withModel(io, path, flags, async (model, loadMs) => {
      const progress = io.progress('compare');
      const result = await evaluate
        .compare(model, reference, {
          text,
          ...defined({ contextSize: flags.context, chunks: flags.chunks }),
          onProgress: ({ done, total, klDivergence }) => progress.update(done / total, klDivergence.toFixed(5)),
          signal: io.signal,
        })
        .finally(() => progress.end());
      io.out(
        `KL divergence ${result.klDivergence.toFixed(5)} +/- ${result.klStandardError.toFixed(5)} nats ` +
          `(median ${result.klMedian.toFixed(5)}, 90 % below ${result.kl90.toFixed(4)}, 99 % below ${result.kl99.toFixed(3)}, 99.9 % below ${result.kl999.toFixed(3)}, at most ${result.klMaximum.toFixed(2)})\n` +
          `Same likeliest token at ${(100 * result.topAgreement).toFixed(2)} % of ${result.tokens} positions; probability of the text's token changes by ${(100 * result.deltaPMean).toFixed(3)} % on average, ${(100 * result.deltaPRms).toFixed(3)} % RMS\n` +
          `Perplexity ${result.perplexity.toFixed(4)}, of the reference ${result.referencePerplexity.toFixed(4)} ` +
          `(${result.chunks} chunks of ${result.contextSize}, ${flags.precision} path), ${result.seconds.toFixed(1)} s\n`,
      );
      io.result({ ...(toSnakeCase(result) as Record<string, unknown>), reference: referencePath, ...modelKeys(model, loadMs) });
    }),
  );
}
