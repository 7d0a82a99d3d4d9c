// lib/quantize progress: a fraction that never falls, and a time left that is right when phases run at different speeds.
import type { QuantizeProgress } from '../../lib/quantize';
import { ProgressTracker, type Step } from '../../lib/quantize/progress';

const block = (index: number): readonly Step[] => [
  { phase: 'calibrate', block: index, weights: [], work: 100 },
  { phase: 'solve', block: index, weights: ['a', 'b'], work: 10 },
];
/** Seconds of a step: solutions are 20 times slower per operation than calibration. */
const seconds = (step: Step): number => (step.phase === 'calibrate' ? step.work / 100 : step.work / 5);

function run(blocks: number, skipped = 0) {
  const state = { now: 1000 };
  const events: QuantizeProgress[] = [];
  const work = { calibrate: 100 * blocks, solve: 10 * blocks };
  const tracker = new ProgressTracker(
    work,
    blocks,
    (event) => events.push(event),
    () => 0.5,
    () => state.now,
  );
  tracker.load(0);
  state.now += 4;
  tracker.load(1);
  const starts: number[] = [];
  for (let index = 0; index < blocks; index++) {
    for (const step of block(index)) {
      if (index < skipped) {
        tracker.skip(step);
        continue;
      }
      starts.push(events.length);
      tracker.begin(step);
      for (const part of [1, 2]) {
        state.now += seconds(step) / 2;
        tracker.within(step, part / 2);
      }
      tracker.finish(step);
    }
  }
  const solved = state.now;
  tracker.write(0);
  state.now += 4;
  tracker.write(1);
  return { events, end: state.now, solved };
}

test('the fraction never falls and ends at one', () => {
  const { events } = run(10);
  expect(events[0]).toMatchObject({ phase: 'load', fraction: 0, linear: undefined, secondsLeft: undefined, secondsElapsed: 0 });
  events.reduce((last, { fraction }) => {
    expect(fraction >= last && fraction <= 1).toBe(true);
    return fraction;
  }, 0);
  expect(events.at(-1)).toMatchObject({ phase: 'write', fraction: 1, secondsLeft: 0, secondsElapsed: 4 + 10 * 3 + 4 });
});

test('after the first block the time left is what it turns out to be', () => {
  const { events, end } = run(10);
  const started = end - (events.at(-1)?.secondsElapsed ?? NaN);
  const later = events.filter((event) => event.block >= 1);
  expect(later.length).toBeGreaterThan(50);
  for (const { secondsElapsed, secondsLeft } of later) {
    const truth = end - started - secondsElapsed;
    expect(Math.abs((secondsLeft ?? NaN) - truth) <= 1e-6).toBe(true);
  }
});

test('before there is a measurement nothing is told', () => {
  const { events } = run(1000);
  const first = events.filter((event) => event.block >= 0).slice(0, 2);
  expect(first.map(({ secondsLeft }) => secondsLeft)).toEqual([undefined, undefined]);
});

test('skipped steps count as done and do not look fast', () => {
  const { events, end } = run(10, 5);
  const first = events.find((event) => event.block >= 0);
  expect(first).toMatchObject({ block: 5 });
  expect((first?.fraction ?? 0) > 0.45).toBe(true);
  const last = events.filter((event) => event.block === 6).at(0);
  const started = end - (events.at(-1)?.secondsElapsed ?? NaN);
  expect(Math.abs((last?.secondsLeft ?? NaN) - (end - started - (last?.secondsElapsed ?? NaN))) <= 1e-6).toBe(true);
});

test('the linear named is the one being solved', () => {
  const { events } = run(1);
  const solve = events.filter(({ phase }) => phase === 'solve');
  expect(solve.map(({ linear }) => linear)).toEqual(['a', 'b', 'b', 'b']);
  expect(solve.every(({ weights }) => weights.join() === 'a,b')).toBe(true);
  expect(events.filter(({ phase }) => phase === 'calibrate').every(({ linear }) => linear === undefined)).toBe(true);
});
