/**
 * lib/report: axes. Positions are percentages of the plot, so that a chart keeps its text sizes at every width.
 */

export interface Scale {
  /** 0 to 100 along the axis. */
  readonly at: (value: number) => number;
  readonly ticks: readonly number[];
}

/**
 * Logarithmic, from the largest 1, 2 or 5 times a power of ten below the values to the smallest above them; `most` ticks at most. Values that are
 * not positive lie on the lower end. A linear scale from 0 to 1 when there is no positive value.
 */
export function logScale(values: readonly number[], most: number): Scale {
  const positive = values.filter((value) => value > 0);
  if (positive.length === 0) return { at: () => 0, ticks: [] };
  const least = positive.reduce((a, b) => Math.min(a, b));
  const greatest = positive.reduce((a, b) => Math.max(a, b));
  const steps = [1, 2, 5];
  const nice: number[] = [];
  for (let power = Math.floor(Math.log10(least)) - 1; power <= Math.ceil(Math.log10(greatest)) + 1; power++) {
    for (const step of steps) nice.push(Number(`${step}e${power}`));
  }
  const low = nice.filter((value) => value > 0 && value <= least).at(-1) ?? least;
  const high = nice.find((value) => value >= greatest && value > low) ?? greatest;
  const inside = nice.filter((value) => value >= low && value <= high);
  const decades = inside.filter((value) => /^1(0*|e[+-]\d+)$|^0\.0*1$/.test(String(value)));
  const ticks = inside.length <= most || decades.length < 2 ? thinned(inside, most) : thinned(decades, most);
  const width = Math.log(high / low);
  return { at: (value) => (value > low ? (100 * Math.log(value / low)) / width : 0), ticks };
}

/** Linear, a little wider than the values, with ticks at round numbers; about `most` of them. */
export function linearScale(values: readonly number[], most: number): Scale {
  const least = values.reduce((a, b) => Math.min(a, b), Infinity);
  const greatest = values.reduce((a, b) => Math.max(a, b), -Infinity);
  const margin = greatest > least ? (greatest - least) / 20 : Math.max(Math.abs(greatest) / 20, 1);
  const low = least - margin;
  const width = greatest + margin - low;
  const rough = width / most;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * ([1, 2, 5, 10].find((factor) => factor * power >= rough) ?? 10);
  const first = Math.ceil(low / step);
  const count = Math.min(most + 1, Math.max(0, Math.floor((low + width) / step) - first + 1));
  return {
    at: (value) => (100 * (value - low)) / width,
    ticks: Array.from({ length: Number.isFinite(count) ? count : 0 }, (_, i) => (first + i) * step),
  };
}

/** Every so-manieth, the first one included. */
function thinned(values: readonly number[], most: number): readonly number[] {
  const every = Math.ceil(values.length / most);
  return values.filter((_, i) => i % every === 0);
}
