/** lowbit multiple-choice: accuracy on questions from a JSON Lines file. */
import { type Command, Option } from 'commander';
import { type ChoiceNormalization, evaluate } from '../../index';
import type { Io } from '../io';
import { defined, parseNumber, toSnakeCase } from '../parse';
import { type RunOptions, addRunOptions, examples, modelKeys, withModel } from '../runtime';

interface Flags extends RunOptions {
  readonly file: string;
  readonly normalization?: ChoiceNormalization;
  readonly delimiter?: string;
  readonly bos?: boolean;
  readonly limit?: number;
}

export function multipleChoiceCommand(command: Command, io: () => Io): void {
  addRunOptions(
    command
      .description('Measure accuracy on multiple-choice questions, in the manner of lm-evaluation-harness')
      .argument('<model>', 'model directory, .gguf file or hf:owner/name')
      .requiredOption(
        '-f, --file <file>',
        'questions, a JSON object a line: {"context" or "question", "choices": [...], "answer": index, letter or text}',
      )
      .addOption(
        new Option('--normalization <unit>', 'length that normalised scores divide by (default: characters)').choices([
          'characters',
          'bytes',
          'tokens',
        ]),
      )
      .option('--delimiter <text>', 'between context and choice (default: one space)')
      .option('--bos', 'put BOS before the context (default: as the tokenizer does)')
      .option('--no-bos', 'do not, as lm-evaluation-harness by default')
      .option('--limit <n>', 'questions to evaluate, from the first (default: all)', parseNumber),
  )
    .addHelpText(
      'after',
      examples(
        'lowbit multiple-choice ./model-4bit --file arc_easy.jsonl',
        'lowbit multiple-choice ./model --file tasks.jsonl --no-bos --limit 500 --json',
      ),
    )
    .action((model: string, flags: Flags) => run(io(), model, flags));
}

async function run(io: Io, path: string, flags: Flags): Promise<void> {
  await withModel(io, path, flags, async (model, loadMs) => {
    const progress = io.progress('questions');
    const { normalization, delimiter, bos: addBos, limit } = flags;
    const result = await evaluate
      .multipleChoice(model, {
        file: flags.file,
        ...defined({ normalization, delimiter, addBos, limit }),
        onProgress: ({ done, total, accuracy }) => progress.update(done / total, `${(100 * accuracy).toFixed(1)} %`),
        signal: io.signal,
      })
      .finally(() => progress.end());
    const percent = (share: number, error: number): string => `${(100 * share).toFixed(2)} +/- ${(100 * error).toFixed(2)} %`;
    io.out(
      `Accuracy ${percent(result.accuracy, result.standardError)}\n` +
        `Normalised by ${result.normalization} ${percent(result.normalizedAccuracy, result.normalizedStandardError)}\n` +
        `${result.items} questions (BOS ${result.addBos ? 'before each' : 'not added'}, ${flags.precision} path), ${result.seconds.toFixed(1)} s\n`,
    );
    if (result.truncated > 0)
      io.note(`warning: ${result.truncated} choices did not fit the model's context; the beginning of their contexts was left out`);
    io.result({ ...(toSnakeCase(result) as Record<string, unknown>), ...modelKeys(model, loadMs) });
  });
}
