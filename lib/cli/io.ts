/**
 * What a command may do to the outside world: text and one JSON object on stdout, progress and notes on stderr, and a
 * signal that Ctrl-C aborts. Commands know nothing else of the process, so they can be tested without one.
 */
import { createProgress, type Progress } from './progress';

export type { Progress } from './progress';

export interface Io {
  /** --json was given: stdout carries exactly one JSON object. */
  readonly json: boolean;
  readonly signal: AbortSignal;
  readonly stdin: NodeJS.ReadStream;
  /** Text for people; dropped with --json. */
  out(text: string): void;
  /** A line on stderr, with --json as without. */
  note(line: string): void;
  /** The command's result: printed as JSON with --json, dropped without. Once per run. */
  result(value: Record<string, unknown>): void;
  progress(label: string): Progress;
  /** The command did its work and found something wrong: exit code 1 without an error message. */
  fail(): void;
}

export interface IoStreams {
  readonly stdin: NodeJS.ReadStream;
  readonly stdout: NodeJS.WriteStream;
  readonly stderr: NodeJS.WriteStream;
}

export function createIo(streams: IoStreams, json: boolean, signal: AbortSignal, fail: () => void): Io {
  const { stdin, stdout, stderr } = streams;
  return {
    json,
    signal,
    stdin,
    fail,
    out(text) {
      if (!json) stdout.write(text);
    },
    note: (line) => void stderr.write(`${line}\n`),
    result(value) {
      if (json) stdout.write(`${JSON.stringify(value)}\n`);
    },
    progress: (label) => createProgress(stderr, label),
  };
}

/** Most memory this process ever held, in bytes. */
export const peakRssBytes = (): number => process.resourceUsage().maxRSS * 1024;

/** Processor time of all threads so far, in seconds: on a shared machine a steadier measure of work than the clock. */
export const cpuSeconds = (): number => {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1e6;
};
