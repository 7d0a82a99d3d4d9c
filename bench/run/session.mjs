/**
 * bench/run: what scenarios share: alternating samples with the read bandwidth beside each, skips with reasons, and the check that comes
 * before time. Knows no scenario.
 */
import { rm } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { lowbit } from '../engines/lowbit.mjs';
import agree from '../pure/agreement.cjs';
import { EngineFailure, WrongAnswer } from './child.mjs';

/**
 * How far two engines may be apart that compute one model: measured 2e-6 nats in F16 and, since both round activations to 8 bit in groups and
 * at places of their own choice, 0.003 to 0.007 nats and 92 to 97 % equal best tokens in the other types. What is too much: the same
 * model in F16 instead of Q4_0 is 0.28 nats and 69 % away.
 */
const LIMITS = { klNats: 0.02, sameBest: 0.85 };
const CHECKED_CONTEXT = 256;

export class Session {
  #agreed = new Set();

  constructor({ options, recorder, bandwidth, files, llama, nodeLlama, torch, cpus }) {
    Object.assign(this, { options, recorder, bandwidth, files, llama, nodeLlama, torch, cpus });
  }

  /** Thread counts asked for that this machine has processors for. */
  get threads() {
    return this.options.threads.filter((count) => count <= this.cpus.length);
  }

  get allThreads() {
    return this.cpus.length;
  }

  get rounds() {
    return this.options.rounds;
  }

  /** `full`, or `quick` under --quick. */
  either(full, quick) {
    return this.options.quick ? quick : full;
  }

  skip(where, engine, reason) {
    this.recorder.add({ type: 'skip', ...where, engine, reason });
  }

  /** Runs `work`; what is missing or fails here becomes a skip of a peer and a failure of lowbit. */
  async attempt(where, engine, work) {
    try {
      return await work();
    } catch (error) {
      if (!(error instanceof EngineFailure)) throw error;
      const type = engine.startsWith('lowbit') ? 'failure' : 'skip';
      this.recorder.add({ type, ...where, engine, reason: error.message.slice(0, 1000) });
      return undefined;
    }
  }

  /** A model file, or undefined after a skip. */
  async file(where, make) {
    return this.attempt(where, 'file', make);
  }

  /**
   * Samples of all contenders in turn, round after round: A B C A B C ... A contender that fails is left out of later rounds.
   *
   * @param {{scenario: string, case: string}} where
   * @param {readonly {engine: string, threads: number, variant?: string, missing?: string, run: (round: number) => Promise<object>}[]} contenders
   *   `run` returns metrics; values that are no numbers are not recorded
   */
  async alternate(where, contenders, rounds = this.rounds) {
    const running = contenders.filter(({ missing }) => missing === undefined);
    const absent = new Map(contenders.filter(({ missing }) => missing !== undefined).map(({ engine, missing }) => [engine, missing]));
    for (const [engine, missing] of absent) this.skip(where, engine, missing);
    const out = new Set();
    for (let round = 0; round < rounds; round++) {
      for (const contender of running) {
        if (out.has(contender)) continue;
        const line = await this.attempt(where, contender.engine, () => this.#sample(where, contender, round));
        if (line === undefined) out.add(contender);
        else this.recorder.add(line);
      }
    }
  }

  async #sample(where, { engine, threads, variant, run }, round) {
    const read = await this.bandwidth.measure(Math.min(threads, this.cpus.length));
    const load = os.loadavg()[0];
    const metrics = Object.fromEntries(Object.entries(await run(round)).filter(([, value]) => typeof value === 'number'));
    return { type: 'sample', ...where, engine, threads, variant, round, metrics, read_bytes_per_second: read, load_average: load };
  }

  /** The fast path of lowbit computes what llama.cpp computes, or, without llama.cpp or for a directory, what its own exact path does. */
  async checkAgreement(where, model) {
    if (this.#agreed.has(model)) return true;
    const gguf = model.endsWith('.gguf') && this.llama.missing === undefined;
    const reference = path.join(this.files.cache, 'reference.logits');
    const found = await this.attempt(where, 'lowbit', async () => {
      if (!gguf) return lowbit.call('compare', { model, text: this.files.text });
      const text = await this.files.shortText(8192);
      await this.llama.logProbabilities(model, text, reference, CHECKED_CONTEXT, this.allThreads);
      return lowbit.call('compare', { model, reference });
    });
    await rm(reference, { force: true });
    if (found === undefined) return false;
    const problem = agree.disagreement(found, LIMITS);
    const other = gguf ? 'llama.cpp' : "lowbit's exact path";
    if (problem !== undefined) throw new WrongAnswer(`${path.basename(model)}: lowbit and ${other}: ${problem}`);
    const what = `${found.rows} distributions against ${other}: ${found.kl_nats.toFixed(5)} nats, best token ${(100 * found.same_best).toFixed(1)} %`;
    this.recorder.add({ type: 'check', ...where, engine: 'lowbit', what, ...found });
    this.#agreed.add(model);
    return true;
  }

  /** Two texts of one model begin alike. @throws {WrongAnswer} */
  sameTokens(where, engine, ours, theirs, count) {
    const different = ours.slice(0, count).findIndex((id, i) => id !== theirs[i]);
    if (different >= 0 || ours.length < count) {
      throw new WrongAnswer(
        `${where.scenario} ${where.case}: token ${different} of lowbit's text is ${ours[different]}, of ${engine}'s ${theirs[different]}`,
      );
    }
    const what = `first ${count} tokens of the text as ${engine}`;
    const key = JSON.stringify([where, what]);
    if (!this.#agreed.has(key)) this.recorder.add({ type: 'check', ...where, engine: 'lowbit', what });
    this.#agreed.add(key);
  }
}
