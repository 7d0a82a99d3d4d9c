// lib/cli progress: one line that stays one in a terminal, few lines elsewhere; what they say about a compression.
import { progressDetail } from '../../lib/cli/commands/quantize';
import { createProgress } from '../../lib/cli/progress';
import { formatDuration } from '../../lib/units';

/** A stream that remembers, and a clock that stands still until it is set. */
function recorder(terminal?: { readonly columns: number }) {
  const written: string[] = [];
  const state = { now: 100 };
  const stream = {
    ...(terminal && { isTTY: true, ...terminal }),
    write: (text: string) => written.push(text),
    clearLine: () => true,
    cursorTo: () => true,
    moveCursor: () => true,
  };
  return { written, state, stream, progress: createProgress(stream as never, 'gptq', () => state.now) };
}

test('durations are short and never more exact than they are', () => {
  expect([0, 0.4, 59.4, 59.6, 61, 3569, 3571, 3600, 7500, 360_000].map(formatDuration)).toEqual([
    '0 s',
    '0 s',
    '59 s',
    '1 min',
    '1 min',
    '59 min',
    '1 h 00 min',
    '1 h 00 min',
    '2 h 05 min',
    '100 h 00 min',
  ]);
});

test('what a run is at', () => {
  const event = { blocks: 30, weights: [], fraction: 0, secondsElapsed: 0, secondsLeft: undefined };
  const name = 'model.layers.2.self_attn.q_proj';
  expect(progressDetail({ ...event, phase: 'load', block: -1, linear: undefined, error: undefined })).toBe('load');
  expect(progressDetail({ ...event, phase: 'calibrate', block: 0, linear: undefined, error: undefined })).toBe('block 1 of 30, calibrate');
  expect(progressDetail({ ...event, phase: 'solve', block: 2, linear: name, error: 0.00213 })).toBe('block 3 of 30, q_proj, error 2.1e-3');
});

test('without a terminal: nothing in the first second, then a line per tenth', () => {
  const { written, state, progress } = recorder();
  progress.update(0.35, 'early');
  state.now += 1;
  for (const fraction of [0.36, 0.39, 0.4, 0.41, 0.49, 0.72, 1]) progress.update(fraction, 'block 1 of 2', 90);
  progress.end();
  expect(written).toEqual([
    'gptq 36% block 1 of 2, 2 min left\n',
    'gptq 40% block 1 of 2, 2 min left\n',
    'gptq 72% block 1 of 2, 2 min left\n',
    'gptq 100% block 1 of 2, 2 min left\n',
  ]);
});

test('without a terminal: a slow tenth says every minute that it is alive', () => {
  const { written, state, progress } = recorder();
  for (let second = 0; second < 200; second++) {
    state.now += 1;
    progress.update(0.01 + second / 1e5);
  }
  expect(written).toEqual(['gptq 1%\n', 'gptq 1%\n', 'gptq 1%\n']);
});

test.each([200, 80, 40, 20])('in a terminal of %d columns the bar keeps to one line and the time left is seen', (columns) => {
  const { written, progress } = recorder({ columns });
  progress.update(0.5, 'block 12 of 30, a_linear_with_a_very_long_name_indeed, error 2.1e-3', 200);
  progress.update(0.6, 'block 14 of 30, a_linear_with_a_very_long_name_indeed, error 2.1e-3', 100);
  progress.end();
  // What moves the cursor takes no room.
  const lines = written.map((text) => text.replace(/\u001b\[[?0-9;]*[a-zA-Z]/g, '')).filter((text) => text.includes('gptq'));
  expect(lines.length).toBeGreaterThan(0);
  for (const line of lines) expect(line.replace(/[\r\n]/g, '').length).toBeLessThan(columns);
  if (columns >= 40) expect(lines.join('')).toContain('left');
  if (columns >= 200)
    expect(lines.join('')).toContain('50% block 12 of 30, a_linear_with_a_very_long_name_indeed, error 2.1e-3, 3 min left');
});
