/** bench/engines: llama.cpp's own tools: llama-bench for time, llama-perplexity for what it computes, llama-quantize for files. */
import { existsSync } from 'node:fs';
import path from 'node:path';
import process from 'node:process';
import parse from '../pure/parse.cjs';
import { EngineFailure, runProgram } from '../run/child.mjs';

export class Llama {
  name = 'llama.cpp';

  /** @param {string} folder with the programs */
  constructor(folder) {
    this.folder = folder;
  }

  tool(name) {
    return path.join(this.folder, process.platform === 'win32' ? `${name}.exe` : name);
  }

  /** Why it cannot run here; undefined when it can. */
  get missing() {
    const absent = ['llama-bench', 'llama-quantize', 'llama-perplexity'].filter((name) => !existsSync(this.tool(name)));
    return absent.length === 0 ? undefined : `no ${absent.join(', ')}: run "npm run bench -- setup" or give their folder with --llama`;
  }

  async #bench(args) {
    return parse.parseLlamaBench(await runProgram(this.tool('llama-bench'), [...args, '-o', 'json']));
  }

  /** As lowbit's speed(): a prompt alone and a generation alone, one warm-up and one measured run of each. */
  async speed(model, { threads, prompt = 0, generate = 0, depth = 0 }) {
    const sizes = ['-p', String(prompt), '-n', String(generate), '-d', String(depth)];
    const tests = await this.#bench(['-m', model, ...sizes, '-t', String(threads), '-r', '1']);
    const rate = (found, what) => {
      if (found === undefined) throw new EngineFailure(`llama-bench measured no ${what}`);
      return found.tokensPerSecond;
    };
    const answer = { weight_bytes: tests[0].modelBytes };
    if (prompt > 0) answer.prefill_tokens_per_second = rate(tests.find((test) => test.prompt > 0 && test.generate === 0), 'prompt'); // prettier-ignore
    if (generate > 0)
      answer.decode_tokens_per_second = rate(
        tests.find((test) => test.generate > 0),
        'generation',
      );
    return answer;
  }

  /** Log-probabilities of the second half of two chunks of `context` tokens; see pure/agreement.cjs. */
  logProbabilities(model, text, output, context, threads) {
    const args = ['-m', model, '-f', text, '-c', String(context), '-b', String(context), '--chunks', '2', '-t', String(threads)];
    return runProgram(this.tool('llama-perplexity'), [...args, '--kl-divergence-base', output]);
  }

  /** @param {string} type F16, BF16, Q4_0, ... */
  quantize(input, output, type) {
    return runProgram(this.tool('llama-quantize'), ['--allow-requantize', input, output, type]);
  }
}
