/**
 * bench/pure: whether two engines compute the same model. Reads the file that `llama-perplexity --kl-divergence-base` writes and
 * compares probability distributions. Pure.
 *
 * Layout (little endian): "_logits_" | u32 context | i32 vocabulary | i32 chunks | i32 tokens[chunks * context] | then per chunk, for the
 * positions floor(context / 2) to context - 2: f32 scale | f32 smallest log-probability | u16 code[vocabulary, padded to even];
 * log-probability = smallest + scale * code. What lies more than 16 below the best token is stored with code 0.
 * (llama.cpp, tools/perplexity)
 */
'use strict';

const HEADER_BYTES = 20;
/** In nats below the best token. */
const CUT_OFF = 16;
const MAX_VOCABULARY = 1 << 24;

/**
 * @param {Buffer} bytes
 * @returns {{contextSize: number, vocabulary: number, tokens: Int32Array[], first: number, rows(chunk: number, row: number): Float32Array}}
 *   `rows(chunk, i)` are the log-probabilities after position first + i
 */
function readLogProbabilities(bytes) {
  if (bytes.length < HEADER_BYTES || bytes.toString('latin1', 0, 8) !== '_logits_') {
    throw new Error('The file does not start with "_logits_": llama-perplexity did not write it');
  }
  const contextSize = bytes.readUInt32LE(8);
  const vocabulary = bytes.readInt32LE(12);
  const chunks = bytes.readInt32LE(16);
  const first = contextSize >> 1;
  const scored = contextSize - 1 - first;
  const rowBytes = 2 * (2 * ((vocabulary + 1) >> 1) + 4);
  const dataStart = HEADER_BYTES + 4 * chunks * contextSize;
  if (vocabulary < 1 || vocabulary > MAX_VOCABULARY || chunks < 1 || dataStart + chunks * scored * rowBytes > bytes.length) {
    throw new Error(
      `The file of log-probabilities has ${bytes.length} bytes, too few for ${chunks} chunks of ${contextSize} tokens and ${vocabulary} words`,
    );
  }
  const tokens = Array.from({ length: chunks }, (_, chunk) =>
    Int32Array.from({ length: contextSize }, (_, i) => bytes.readInt32LE(HEADER_BYTES + 4 * (chunk * contextSize + i))),
  );
  const rows = (chunk, row) => {
    const at = dataStart + (chunk * scored + row) * rowBytes;
    const scale = bytes.readFloatLE(at);
    const smallest = bytes.readFloatLE(at + 4);
    // Cut-off tokens are less probable than code 0 says: ten thousands of them would add up to half a percent. They count as impossible.
    const cutOff = scale * 65_535 > CUT_OFF * 0.999;
    return Float32Array.from({ length: vocabulary }, (_, id) => {
      const code = bytes.readUInt16LE(at + 8 + 2 * id);
      return cutOff && code === 0 ? -Infinity : smallest + scale * code;
    });
  };
  return { contextSize, vocabulary, tokens, first, scored, rows };
}

/** log softmax of one row of logits. */
function logProbabilities(logits) {
  let best = -Infinity;
  for (const value of logits) best = Math.max(best, value);
  let sum = 0;
  for (const value of logits) sum += Math.exp(value - best);
  const shift = best + Math.log(sum);
  return Float32Array.from(logits, (value) => value - shift);
}

/**
 * Kullback-Leibler divergence sum p * (log p - log q) of two distributions given as log-probabilities, in nats, and whether both
 * have the same most probable token. What p holds for impossible adds nothing; NaN gives NaN.
 */
function divergence(p, q) {
  if (p.length !== q.length || p.length === 0)
    throw new RangeError(`Expected two rows of one length but received ${p.length} and ${q.length}`);
  let sum = 0;
  let bestP = 0;
  let bestQ = 0;
  for (let i = 0; i < p.length; i++) {
    if (p[i] !== -Infinity) sum += Math.exp(p[i]) * (p[i] - q[i]);
    if (p[i] > p[bestP]) bestP = i;
    if (q[i] > q[bestQ]) bestQ = i;
  }
  return { nats: sum, sameBest: bestP === bestQ };
}

/** Mean of what divergence() returned for several rows. */
function meanAgreement(rows) {
  if (rows.length === 0) throw new RangeError('Expected at least one pair of rows but received none');
  const nats = rows.reduce((sum, row) => sum + row.nats, 0);
  const same = rows.filter((row) => row.sameBest).length;
  return { kl_nats: nats / rows.length, same_best: same / rows.length, rows: rows.length };
}

/** Why the two engines do not compute the same model; undefined when they do. NaN is a disagreement. */
function disagreement({ kl_nats, same_best }, limits) {
  if (!(Math.abs(kl_nats) <= limits.klNats)) return `the distributions differ by ${kl_nats} nats on average, more than ${limits.klNats}`;
  if (!(same_best >= limits.sameBest)) return `the best token is the same for ${same_best} of the positions, fewer than ${limits.sameBest}`;
  return undefined;
}

module.exports = { readLogProbabilities, logProbabilities, divergence, meanAgreement, disagreement };
