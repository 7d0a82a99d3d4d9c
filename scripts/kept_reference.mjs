/**
 * A reference model's logits, kept in memory and compared with one model after the other: what `lowbit compare` computes, without running the reference
 * again for every row of a table. Built on parts of dist/ that are not public.
 */
import { createRequire } from 'node:module';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const dist = path.join(path.dirname(fileURLToPath(import.meta.url)), '..', 'dist');
const load = createRequire(import.meta.url);
const { loadModel } = load(path.join(dist, 'index.js'));
const { StepRunner, defaultKvType } = load(path.join(dist, 'generate'));
const { modelState } = load(path.join(dist, 'model'));
const { chunksOf, addedBos } = load(path.join(dist, 'evaluate', 'chunks.js'));
const { LossSum, firstScoredRow } = load(path.join(dist, 'evaluate', 'loss_sum.js'));

async function withModel(directory, work) {
  const model = await loadModel(directory, { precision: 'exact' });
  try {
    const state = modelState(model);
    const runner = await StepRunner.create(state, { contextSize: 512, sequences: 1, kvType: defaultKvType(state.precision) });
    try {
      return await work(state, runner);
    } finally {
      await runner.dispose();
    }
  } finally {
    await model.dispose();
  }
}

export class KeptReference {
  chunks = [];
  logits = [];

  /** The first `count` chunks of 512 tokens of a text. */
  static async of(directory, text, count) {
    const kept = new KeptReference();
    await withModel(directory, async (state, runner) => {
      const { tokens, total } = chunksOf('compare', state, { text, contextSize: 512, chunks: count });
      const bos = addedBos(state);
      for (let i = 0; i < total; i++) {
        const chunk = tokens.slice(i * 512, (i + 1) * 512);
        if (bos !== undefined) chunk[0] = bos;
        const from = firstScoredRow(512);
        const out = new Float32Array((511 - from) * state.vocabSize);
        await runner.truncate(0, 0);
        await runner.step({ sequence: 0, tokens: chunk.slice(0, 511), logits: { from, out } });
        kept.chunks.push(chunk);
        kept.logits.push(out);
      }
    });
    return kept;
  }

  /** Perplexity, mean divergence with its standard error, and agreement of the likeliest token, all over the second halves of the chunks. */
  async compare(directory) {
    return withModel(directory, async (_state, runner) => {
      const loss = new LossSum();
      const divergences = [];
      let agreeing = 0;
      const from = firstScoredRow(512);
      const rows = 511 - from;
      for (const [i, chunk] of this.chunks.entries()) {
        const score = { from, targets: chunk.slice(from + 1), out: new Float64Array(rows) };
        const out = new Float64Array(2 * rows);
        await runner.truncate(0, 0);
        await runner.step({ sequence: 0, tokens: chunk.slice(0, 511), score, compare: { from, rows, reference: this.logits[i], out } });
        loss.add(score.out);
        for (let r = 0; r < rows; r++) divergences.push(out[2 * r]);
        for (let r = 0; r < rows; r++) agreeing += out[2 * r + 1];
      }
      const mean = divergences.reduce((sum, value) => sum + value, 0) / divergences.length;
      const variance = divergences.reduce((sum, value) => sum + (value - mean) ** 2, 0) / (divergences.length - 1);
      return {
        perplexity: loss.perplexity,
        kl_divergence: mean,
        kl_standard_error: Math.sqrt(variance / divergences.length),
        top_agreement: agreeing / divergences.length,
      };
    });
  }
}
