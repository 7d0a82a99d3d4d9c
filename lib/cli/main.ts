#!/usr/bin/env node
/**
 * The `lowbit` command: runs a command, and turns what happens into messages and exit codes. 0: done. 1: failed, with the reason on
 * stderr, and on stdout as {"error": {"code", "message"}} with --json. 130, 143: ended by Ctrl-C or SIGTERM, after cleaning up.
 */
import { CommanderError } from 'commander';
import { LowbitError } from '../index';
import { createIo } from './io';
import { createProgram } from './program';

const signalExitCodes = { SIGINT: 130, SIGTERM: 143 } as const;

async function main(argv: readonly string[]): Promise<number> {
  const controller = new AbortController();
  let interrupted: keyof typeof signalExitCodes | undefined;
  let exitCode = 0;
  const interrupt = (signal: keyof typeof signalExitCodes): void => {
    if (interrupted !== undefined) process.exit(signalExitCodes[signal]); // asked twice: do not wait for the cleanup
    interrupted = signal;
    controller.abort();
  };
  process.on('SIGINT', interrupt);
  process.on('SIGTERM', interrupt);
  let outputError: NodeJS.ErrnoException | undefined;
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    outputError ??= error; // nobody can read the result any more: stop working
    controller.abort();
  });

  let json = argv.includes('--json'); // before parsing: a parse error must be JSON, too
  const program = createProgram({
    io: (wanted) => createIo(process, (json = wanted), controller.signal, () => (exitCode = 1)),
    interrupt: () => interrupt('SIGINT'),
    write: { out: (text) => process.stdout.write(text), error: (text) => process.stderr.write(text) },
  });
  try {
    await program.parseAsync(argv);
  } catch (error) {
    if (error instanceof CommanderError && error.exitCode === 0) return 0; // --help, --version
    exitCode = 1;
    if (interrupted !== undefined) report(interruption(error), json);
    else if (outputError === undefined) report(error, json);
  }
  // The handlers stay: a signal between here and the end of the process must not turn a finished command into a killed one.
  if (interrupted !== undefined) return signalExitCodes[interrupted];
  if (outputError === undefined) return exitCode;
  if (outputError.code === 'EPIPE') return 0; // `lowbit generate ... | head` has what it wanted
  process.stderr.write(`lowbit: cannot write the output: ${outputError.message}\n`);
  return 1;
}

/** What ended on request says so in one word, unless there is something to go on with. */
function interruption(error: unknown): LowbitError {
  if (error instanceof LowbitError && typeof error.details['work'] === 'string') return error;
  return new LowbitError('CANCELLED', 'interrupted', {}, { cause: error });
}

function report(error: unknown, json: boolean): void {
  const code = error instanceof LowbitError ? error.code : error instanceof CommanderError ? 'INVALID_ARGUMENT' : 'INTERNAL';
  const message = (error instanceof Error ? error.message : String(error)).replace(/^error: /, '');
  if (message !== '(outputHelp)') process.stderr.write(`lowbit: ${message}\n`);
  if (process.env['LOWBIT_DEBUG'] === '1' && error instanceof Error) process.stderr.write(`${error.stack}\n`);
  if (json) process.stdout.write(`${JSON.stringify({ error: { code, message } })}\n`);
}

void main(process.argv).then((code) => {
  process.exitCode = code;
});
