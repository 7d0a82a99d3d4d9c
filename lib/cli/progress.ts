/**
 * How far a piece of work is, on stderr: a bar in one line of a terminal, single lines elsewhere. The texts are pure functions of numbers; when
 * something is printed is decided here, what it says by the commands.
 */
import { SingleBar } from 'cli-progress';
import { formatDuration } from '../units';

/** Progress of one piece of work on stderr. */
export interface Progress {
  /**
   * @param fraction from 0 to 1
   * @param detail a short remark, such as the perplexity so far
   * @param secondsLeft when it will be done, if that can be said
   */
  update(fraction: number, detail?: string, secondsLeft?: number): void;
  end(): void;
}

/** A log stays short: a line per tenth of the work, or when so much time went by without one. */
const quietSeconds = 60;
/** Work that is done in a second needs no lines. */
const firstSeconds = 1;
/** Columns that the words of a bar need beside it. */
const widestBar = 30;

/** `now`: seconds of a clock that never goes back. */
export function createProgress(stream: NodeJS.WriteStream, label: string, now: () => number = () => performance.now() / 1000): Progress {
  return stream.isTTY ? barProgress(stream, label) : lineProgress(stream, label, now);
}

function barProgress(stream: NodeJS.WriteStream, label: string): Progress {
  // Some terminals do not say how wide they are.
  const width = (): number => (stream.columns > 0 ? stream.columns : 80);
  const barsize = Math.max(5, Math.min(widestBar, Math.floor(width() / 4)));
  const bar = new SingleBar({
    stream,
    format: `${label} {bar} {percentage}%{detail}`,
    barsize,
    hideCursor: true,
    clearOnComplete: true,
  });
  // The bar must keep to one line, or every update would leave one behind. 1 column stays free: terminals wrap when the last is filled.
  const room = (): number => width() - label.length - barsize - 8;
  let running = false;
  return {
    update(fraction, detail, secondsLeft) {
      const text = fitted(details(detail, secondsLeft), room());
      const done = Math.round(clamp(fraction) * 1000);
      if (running) bar.update(done, { detail: text });
      else bar.start(1000, done, { detail: text });
      running = true;
    },
    end() {
      if (running) bar.stop();
      running = false;
    },
  };
}

function lineProgress(stream: NodeJS.WriteStream, label: string, now: () => number): Progress {
  const start = now();
  let tenths = 0;
  let last = start;
  return {
    update(fraction, detail, secondsLeft) {
      const reached = Math.floor(clamp(fraction) * 10);
      const at = now();
      if (at - start < firstSeconds || (reached <= tenths && at - last < quietSeconds)) return;
      tenths = Math.max(tenths, reached);
      last = at;
      stream.write(`${label} ${Math.floor(clamp(fraction) * 100)}%${details(detail, secondsLeft)}\n`);
    },
    end() {},
  };
}

function details(detail: string | undefined, secondsLeft: number | undefined): string {
  const parts = [detail ?? '', secondsLeft === undefined ? '' : `${formatDuration(secondsLeft)} left`].filter((part) => part !== '');
  return parts.length === 0 ? '' : ` ${parts.join(', ')}`;
}

/** Cut in the middle, so that what stands at the end (the time left) stays. */
function fitted(text: string, room: number): string {
  if (text.length <= room) return text;
  if (room < 12) return '';
  const end = Math.min(text.length - text.lastIndexOf(',') - 1, Math.floor(room / 2));
  return `${text.slice(0, room - end - 1)}…${text.slice(text.length - end)}`;
}

const clamp = (fraction: number): number => Math.min(1, Math.max(0, fraction));
