/**
 * What a command may do to the outside world: text and one JSON object on stdout, progress and notes on stderr, and a
 * signal that Ctrl-C aborts. Commands know nothing else of the process, so they can be tested without one.
 */
import { SingleBar } from 'cli-progress';

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

/** Progress of one piece of work on stderr. */
export interface Progress {
  /** `fraction` from 0 to 1; `detail` is a short remark such as the perplexity so far. */
  update(fraction: number, detail?: string): void;
  end(): void;
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
    progress: (label) => (stderr.isTTY ? barProgress(stderr, label) : lineProgress(stderr, label)),
  };
}

function barProgress(stream: NodeJS.WriteStream, label: string): Progress {
  const bar = new SingleBar({
    stream,
    format: `${label} {bar} {percentage}% {detail}`,
    barsize: 30,
    hideCursor: true,
    clearOnComplete: true,
    etaBuffer: 50,
  });
  let running = false;
  return {
    update(fraction, detail = '') {
      if (!running) bar.start(1000, 0, { detail });
      running = true;
      bar.update(Math.round(clamp(fraction) * 1000), { detail });
    },
    end() {
      if (running) bar.stop();
      running = false;
    },
  };
}

/** Without a terminal: one line per tenth, and none in the first second, so that a log stays short. */
function lineProgress(stream: NodeJS.WriteStream, label: string): Progress {
  const start = performance.now();
  let tenths = 0;
  return {
    update(fraction, detail = '') {
      const now = Math.floor(clamp(fraction) * 10);
      if (now <= tenths || performance.now() - start < 1000) return;
      tenths = now;
      stream.write(`${label} ${now * 10}%${detail === '' ? '' : ` ${detail}`}\n`);
    },
    end() {},
  };
}

const clamp = (fraction: number): number => Math.min(1, Math.max(0, fraction));

/** Most memory this process ever held, in bytes. */
export const peakRssBytes = (): number => process.resourceUsage().maxRSS * 1024;
