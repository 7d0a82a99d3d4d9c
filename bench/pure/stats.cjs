/**
 * bench/pure: medians, spreads and ratios of samples. Pure functions; CommonJS, so that the project's jest can load them.
 * Measures nothing.
 */
'use strict';

/** @param {readonly number[]} values at least one, all finite */
function median(values) {
  check(values);
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

/** What is reported of a set of samples: the median and the whole range, since few samples have no meaningful variance. */
function spread(values) {
  return { median: median(values), min: Math.min(...values), max: Math.max(...values), samples: values.length };
}

/**
 * Ratios of samples that were taken one after the other. A busy neighbour slows both samples of a pair, so the ratio of the pair is
 * steadier than the ratio of two medians.
 *
 * @param {ReadonlyMap<number, number>} ours samples by round
 * @param {ReadonlyMap<number, number>} theirs
 * @returns {{median: number, min: number, max: number, samples: number} | undefined} over the rounds that both have; undefined without any
 */
function pairedRatio(ours, theirs) {
  const ratios = [];
  for (const [round, value] of ours) {
    const other = theirs.get(round);
    if (other === undefined) continue;
    check([value, other]);
    if (!(other > 0)) throw new RangeError(`Expected a positive number as divisor of a ratio but received ${other}`);
    ratios.push(value / other);
  }
  return ratios.length === 0 ? undefined : spread(ratios);
}

/** Per round the best of several: what the peer reaches with the better of its thread counts. */
function bestByRound(series) {
  const best = new Map();
  for (const samples of series) {
    for (const [round, value] of samples) best.set(round, Math.max(value, best.get(round) ?? -Infinity));
  }
  return best;
}

/** NaN would sort anywhere and vanish in a median. */
function check(values) {
  if (values.length === 0) throw new RangeError('Expected at least one sample but received none');
  for (const value of values) {
    if (!Number.isFinite(value)) throw new RangeError(`Expected finite samples but received ${value}`);
  }
}

module.exports = { median, spread, pairedRatio, bestByRound };
