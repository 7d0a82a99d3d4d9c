/** The command line: one command per file, shared flags, help. Knows no process; main.ts does. */
import { Command } from 'commander';
import { benchCommand } from './commands/bench';
import { chatCommand } from './commands/chat';
import { doctorCommand } from './commands/doctor';
import { generateCommand } from './commands/generate';
import { inspectCommand } from './commands/inspect';
import { compareCommand } from './commands/compare';
import { multipleChoiceCommand } from './commands/multiple_choice';
import { perplexityCommand } from './commands/perplexity';
import { pullCommand } from './commands/pull';
import { convertCommand } from './commands/convert';
import { quantizeCommand } from './commands/quantize';
import { reportCommand } from './commands/report';
import type { Io } from './io';
import { examples } from './runtime';
import { packageVersion } from './version';

export interface ProgramHooks {
  /** Makes the outside world of a command, once its flags are known. */
  readonly io: (json: boolean) => Io;
  /** What Ctrl-C does. */
  readonly interrupt: () => void;
  /** Where help and commander's messages go. */
  readonly write: { readonly out: (text: string) => void; readonly error: (text: string) => void };
}

/** Throws CommanderError instead of ending the process. */
export function createProgram(hooks: ProgramHooks): Command {
  const program = new Command('lowbit')
    .description('Compress large language models and run them natively from Node.js')
    .version(packageVersion)
    .showSuggestionAfterError()
    .exitOverride()
    .configureOutput({ writeOut: hooks.write.out, writeErr: hooks.write.error, outputError: () => {} }) // main.ts prints errors, all in one form
    .addHelpText(
      'after',
      examples(
        'lowbit quantize ./model --output ./model-4bit --calibration text.txt',
        'lowbit generate ./model-4bit --prompt "Once upon a time"',
        'lowbit help quantize',
      ),
    );

  const add = (name: string, define: (command: Command, io: () => Io) => void): void => {
    const command = program.command(name);
    define(command, () => hooks.io(command.opts<{ json?: boolean }>().json === true));
    command.option('--json', 'print one JSON object on stdout; progress stays on stderr');
  };
  add('quantize', quantizeCommand);
  add('report', reportCommand);
  add('convert', convertCommand);
  add('perplexity', perplexityCommand);
  add('compare', compareCommand);
  add('multiple-choice', multipleChoiceCommand);
  add('generate', generateCommand);
  add('chat', (command, io) => chatCommand(command, io, hooks.interrupt));
  add('inspect', inspectCommand);
  add('pull', pullCommand);
  add('bench', benchCommand);
  add('doctor', doctorCommand);
  return program;
}
