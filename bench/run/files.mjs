/**
 * bench/run: the model files that are measured. SmolLM2-135M as published (Q4_1) and, made from it by llama-quantize over F16, in the
 * other types; a GPTQ checkpoint, 4 bit, groups of 128, that lowbit rounds itself (speed does not depend on how codes were chosen); layers
 * of larger models with random weights. Made once, in the cache folder.
 */
import { existsSync, readFileSync } from 'node:fs';
import { mkdir, rename, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { lowbit } from '../engines/lowbit.mjs';
import { EngineFailure } from './child.mjs';
import { root } from './machine.mjs';
import { SHAPES, writeSynthetic } from './synthetic.mjs';

export class Files {
  constructor({ models, cache, llama }) {
    this.models = models;
    this.cache = cache;
    this.llama = llama;
  }

  /** The published Q4_1 file. */
  get published() {
    return path.join(this.models, 'SmolLM2-135M-Instruct.Q4_1.gguf');
  }

  /** The bf16 Hugging Face checkpoint. */
  get checkpoint() {
    return path.join(this.models, 'smollm2-135m-hf');
  }

  /** @param {string} type Q4_0, ..., GPTQ @returns {Promise<string>} its path @throws {EngineFailure} when it cannot be had here */
  async smollm2(type) {
    if (type === 'GPTQ') return this.#gptq();
    const published = this.#present(this.published);
    if (type === 'Q4_1') return published;
    const half = await this.#quantized('SmolLM2-135M.F16.gguf', 'F16', published);
    return type === 'F16' ? half : this.#quantized(`SmolLM2-135M.${type}.gguf`, type, half);
  }

  /** @param {keyof typeof SHAPES} size */
  async synthetic(size, type) {
    const half = path.join(this.cache, `random-${size.replaceAll(' ', '-')}.F16.gguf`);
    if (!existsSync(half)) {
      await mkdir(this.cache, { recursive: true });
      await writeSynthetic(half, SHAPES[size]);
    }
    return type === 'F16' ? half : this.#quantized(`random-${size.replaceAll(' ', '-')}.${type}.gguf`, type, half);
  }

  /** A text of our own for checks: a model of 0.85 million parameters wrote it. */
  get text() {
    return path.join(root, 'test', 'fixtures', 'tiny-stories', 'text.txt');
  }

  /** The start of that text, in a file. */
  async shortText(bytes) {
    const file = path.join(this.cache, `text-${bytes}.txt`);
    await mkdir(this.cache, { recursive: true });
    await writeFile(file, readFileSync(this.text).subarray(0, bytes));
    return file;
  }

  async #quantized(name, type, input) {
    const output = path.join(this.cache, name);
    if (existsSync(output)) return output;
    if (this.llama.missing !== undefined) throw new EngineFailure(`no ${type} file: ${this.llama.missing}`);
    await mkdir(this.cache, { recursive: true });
    const unfinished = `${output}.unfinished`;
    await this.llama.quantize(input, unfinished, type);
    await rename(unfinished, output);
    return output;
  }

  async #gptq() {
    const output = path.join(this.cache, 'SmolLM2-135M.gptq-4bit-g128');
    if (existsSync(output)) return output;
    await mkdir(this.cache, { recursive: true });
    await rm(output, { recursive: true, force: true });
    const options = { model: this.#present(this.checkpoint), output, method: 'rtn', bits: 4, groupSize: 128 };
    await lowbit.call('compress', { options });
    return output;
  }

  #present(file) {
    if (!existsSync(file)) throw new EngineFailure(`${file} is missing: run "npm run model:smollm2"`);
    return file;
  }
}
