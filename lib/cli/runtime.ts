/** What all commands that run a model share: its options, loading with progress, and disposal whatever happens. */
import { type Command, Option } from 'commander';
import { loadModel, type HubOptions, type LoadModelOptions, type Model, type PullResult } from '../index';
import { type Io, peakRssBytes } from './io';
import { defined, parseNumber } from './parse';

/** Flags of every command that takes a model. */
export interface HubFlags {
  readonly offline?: boolean;
}

export interface RunOptions extends HubFlags {
  readonly threads?: number;
  readonly precision: 'fast' | 'exact';
  readonly lmHeadBits?: number;
  readonly packedCache?: boolean;
  readonly packedCacheFolder?: string;
}

export function addHubOptions(command: Command): Command {
  return command.option('--offline', 'find hf:owner/name in the cache only (default: whether LOWBIT_OFFLINE or HF_HUB_OFFLINE is set)');
}

/** The library's option `hub`, with a progress bar while something is fetched; `end` takes it away. */
export function hubOptions(
  io: Io,
  { offline }: HubFlags,
): { readonly options: HubOptions; readonly end: () => void; readonly note: (pulled: PullResult | undefined) => void } {
  const progress = io.progress('fetching');
  return {
    options: {
      ...defined({ offline }),
      onProgress: ({ file, done, total }) => progress.update(total > 0 ? done / total : 1, file),
    },
    end: () => progress.end(),
    note(pulled) {
      if (pulled?.note !== undefined) io.note(`warning: ${pulled.note}`);
    },
  };
}

export function addRunOptions(command: Command): Command {
  return addHubOptions(command)
    .option('-t, --threads <n>', 'threads, the main one included (default: usable physical cores)', parseNumber)
    .addOption(
      new Option('--precision <path>', 'fast: int8 activations; exact: f32, the reference').choices(['fast', 'exact']).default('fast'),
    )
    .option('--lm-head-bits <n>', 'hold the head in 4, 5, 6 or 8 bits, 16 = as stored (default: 8 or as stored)', parseNumber)
    .option('--packed-cache', 'keep the packed weights in a file beside the model and load from it next time')
    .option('--packed-cache-folder <folder>', 'the same, in this folder');
}

export function addSamplingOptions(command: Command, defaultMaxTokens: string): Command {
  return command
    .option('-n, --max-tokens <n>', `most tokens to generate (default: ${defaultMaxTokens})`, parseNumber)
    .option('--temperature <t>', 'randomness, 0 = always the most probable token (default: 0)', parseNumber)
    .option('--top-k <k>', 'draw from the k most probable tokens, 0 = all (default: 0)', parseNumber)
    .option('--top-p <p>', 'draw from the most probable tokens up to this sum, 1 = all (default: 1)', parseNumber)
    .option('--min-p <p>', 'draw from tokens at least this probable relative to the best, 0 = all (default: 0)', parseNumber)
    .option('--repeat-penalty <r>', 'make recent tokens less likely, 1 = off (default: 1)', parseNumber)
    .option('--repeat-last-n <n>', 'how many tokens are recent, -1 = all (default: 64)', parseNumber)
    .option('--seed <n>', 'seed of the draws (default: random)', parseNumber)
    .option('--prompt-lookup', 'guess tokens from the text so far; same output, faster where it repeats itself');
}

export interface SamplingFlags {
  readonly maxTokens?: number;
  readonly temperature?: number;
  readonly topK?: number;
  readonly topP?: number;
  readonly minP?: number;
  readonly repeatPenalty?: number;
  readonly repeatLastN?: number;
  readonly seed?: number;
  readonly promptLookup?: boolean;
}

/** Flags, which are llama.cpp's words, to the library's options. */
export function samplingOptions(flags: SamplingFlags) {
  const { maxTokens, temperature, topK, topP, minP, seed, repeatPenalty, repeatLastN, promptLookup } = flags;
  const names = { repetitionPenalty: repeatPenalty, repetitionLastN: repeatLastN };
  return defined({ maxTokens, temperature, topK, topP, minP, seed, promptLookup, ...names });
}

/** Loads, runs `work`, disposes. */
export async function withModel<T>(
  io: Io,
  path: string,
  options: RunOptions,
  work: (model: Model, loadMs: number) => Promise<T>,
): Promise<T> {
  const progress = io.progress('loading');
  const hub = hubOptions(io, options);
  const start = performance.now();
  let model: Model;
  try {
    model = await loadModel(path, {
      precision: options.precision,
      ...defined({
        threads: options.threads,
        lmHeadBits: options.lmHeadBits as LoadModelOptions['lmHeadBits'],
        packedCache: options.packedCacheFolder ?? options.packedCache,
      }),
      hub: hub.options,
      onLoadProgress: (fraction) => {
        hub.end();
        progress.update(fraction);
      },
      signal: io.signal,
    });
  } finally {
    hub.end();
    progress.end();
  }
  hub.note(model.info.hub);
  const { packedCache, packedCacheNote } = model.info;
  if (packedCacheNote !== undefined)
    io.note(`warning: packed-weight cache ${packedCache === 'stale' ? 'replaced' : 'not written'}: ${packedCacheNote}`);
  try {
    return await work(model, performance.now() - start);
  } finally {
    await model.dispose();
  }
}

/** The keys that every command which ran a model reports. */
export function modelKeys(model: Model, loadMs: number) {
  const { path, architecture, isa, threads, precision, bitsPerWeight, weightBytes, lmHeadBits, packedCache } = model.info;
  return {
    model: path,
    architecture,
    isa,
    threads,
    precision,
    bits_per_weight: bitsPerWeight,
    weight_bytes: weightBytes,
    lm_head_bits: lmHeadBits,
    packed_cache: packedCache,
    load_ms: loadMs,
    peak_rss_bytes: peakRssBytes(),
  };
}

/** A group of help lines under the options. */
export const examples = (...lines: readonly string[]): string => `\nExamples:\n${lines.map((line) => `  $ ${line}`).join('\n')}\n`;
