/**
 * 10,000 damaged copies of small checkpoints: every one loads and runs, or fails with a LowbitError; the process never crashes, and the
 * engine works afterwards. CI runs this under AddressSanitizer and UndefinedBehaviorSanitizer. LOWBIT_FUZZ_MUTANTS changes the number,
 * LOWBIT_FUZZ_SEED the sequence; a failure names the mutant, which the same seed makes again.
 */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { LowbitError, loadModel, quantize } from '../../lib';
import { f32, type GgufTensor, ggufFile, temporaryDirectory } from '../checkpoint/support';
import { type RepackOptions, repack } from '../checkpoint/repack';
import { integers, tinyCheckpoint, writeTinyCheckpoint } from '../checkpoint/tiny';

const mutants = Number(process.env['LOWBIT_FUZZ_MUTANTS'] ?? 10_000);
const seed = Number(process.env['LOWBIT_FUZZ_SEED'] ?? 20261122);

/** A complete checkpoint as files in a directory; `model` is what loadModel gets. */
interface Base {
  readonly name: string;
  readonly files: Map<string, Buffer>;
  readonly model: string;
}

async function gptq(scratch: string, bits: 2 | 3 | 4 | 8): Promise<Base> {
  const source = writeTinyCheckpoint(path.join(scratch, 'source'));
  const output = path.join(scratch, `gptq-${bits}`);
  await quantize({ model: source, output, method: 'rtn', bits, groupSize: 32, sym: bits !== 2 });
  const files = new Map(['model.safetensors', 'config.json'].map((name) => [name, readFileSync(path.join(output, name))]));
  return { name: `gptq-${bits}`, files, model: '.' };
}

/** The GPTQ checkpoint as another tool would write it. */
function repacked(scratch: string, from: string, name: string, options: RepackOptions): Base {
  const output = path.join(scratch, name);
  repack(path.join(scratch, from), output, options);
  const files = new Map(['model.safetensors', 'config.json'].map((file) => [file, readFileSync(path.join(output, file))]));
  return { name, files, model: '.' };
}

/** Block types by their rows: [type id, values, bytes]. */
const rows32 = [
  [2, 32, 18],
  [3, 32, 20],
  [6, 32, 22],
  [7, 32, 24],
  [8, 32, 34],
  [1, 1, 2],
] as const;
const rows256 = [
  [10, 256, 84],
  [11, 256, 110],
  [12, 256, 144],
  [13, 256, 176],
  [14, 256, 210],
  [30, 1, 2],
] as const;

/** A one-block Llama whose matrices take the block types in turn. */
function gguf(name: string, width: number, types: readonly (readonly [id: number, values: number, bytes: number])[]): Base {
  const random = integers(2);
  let next = 0;
  const matrix = (tensor: string, n: number): GgufTensor => {
    const [type, values, bytes] = types[next++ % types.length] as readonly [number, number, number];
    // Bytes below 0x3c keep every f16 in them finite and small.
    return {
      name: tensor,
      dims: [width, n],
      type,
      data: Uint8Array.from({ length: ((width * n) / values) * bytes }, () => random() % 0x3c),
    };
  };
  const norm = (tensor: string): GgufTensor => ({ name: tensor, dims: [width], type: 0, data: f32(Array<number>(width).fill(1)) });
  const file = ggufFile({
    keys: [
      ['general.architecture', 'string', 'llama'],
      ['llama.embedding_length', 'u32', width],
      ['llama.block_count', 'u32', 1],
      ['llama.feed_forward_length', 'u32', width],
      ['llama.attention.head_count', 'u32', 2],
      ['llama.attention.head_count_kv', 'u32', 2],
      ['llama.context_length', 'u32', 64],
      ['llama.attention.layer_norm_rms_epsilon', 'f32', 2 ** -20],
    ],
    tensors: [
      matrix('token_embd.weight', 48),
      ...['attn_q', 'attn_k', 'attn_v', 'attn_output', 'ffn_gate', 'ffn_up', 'ffn_down'].map((part) =>
        matrix(`blk.0.${part}.weight`, width),
      ),
      ...['blk.0.attn_norm.weight', 'blk.0.ffn_norm.weight', 'output_norm.weight'].map(norm),
    ],
  });
  return { name, files: new Map([['model.gguf', file]]), model: 'model.gguf' };
}

/** One damage, chosen by the generator: bytes, bits, numbers in headers, truncation, growth, swapped ranges. */
function damage(file: Buffer, random: () => number): Buffer {
  const headerEnd = Math.min(file.length, 4096);
  const at = (limit: number): number => random() % Math.max(1, limit);
  const copy = Buffer.from(file);
  switch (random() % 9) {
    case 0: // a byte of the header
      copy[at(headerEnd)] = random() % 256;
      return copy;
    case 1: // a bit anywhere
      copy[at(copy.length)]! ^= 1 << (random() % 8);
      return copy;
    case 2: // the first eight bytes: header length, magic and version
      copy[at(8)] = random() % 256;
      return copy;
    case 3: // truncated
      return copy.subarray(0, at(copy.length));
    case 4: // longer
      return Buffer.concat([copy, Buffer.alloc(1 + at(64), random() % 256)]);
    case 5: {
      // a run of bytes
      const begin = at(copy.length);
      copy.fill([0, 0xff, 0x7f, 0x80][random() % 4] as number, begin, Math.min(copy.length, begin + 1 + at(16)));
      return copy;
    }
    case 6: {
      // a 64-bit number
      const begin = at(Math.max(1, headerEnd - 8));
      if (begin + 8 <= copy.length)
        copy.writeBigUInt64LE([0n, 1n, 2n ** 31n, 2n ** 60n, 2n ** 63n, 2n ** 64n - 1n][random() % 6] as bigint, begin);
      return copy;
    }
    case 7: {
      // a decimal number of a JSON header
      const text = file.toString('latin1', 0, headerEnd);
      const numbers = [...text.matchAll(/\d+/g)];
      const found = numbers[at(numbers.length)];
      if (!found) return copy;
      const value = ['0', '1', '-1', '7', '4294967296', '9007199254740993', '1e30', '0.5', 'null', '"x"', '[]'][random() % 11] as string;
      return Buffer.concat([file.subarray(0, found.index), Buffer.from(value), file.subarray(found.index + found[0].length)]);
    }
    default: {
      // a piece of the file over another
      const length = 1 + at(64);
      copy.copy(copy, at(copy.length - length), at(copy.length - length), at(copy.length));
      return copy;
    }
  }
}

async function run(model: string, precision: 'exact' | 'fast'): Promise<'ran' | LowbitError> {
  try {
    const loaded = await loadModel(model, { precision, threads: 1 });
    try {
      const context = await loaded.createContext({ contextSize: 8 });
      try {
        const generated: number[] = [];
        for await (const id of context.generateTokens([1, 2, 3], { maxTokens: 2, ignoreEos: true })) generated.push(id);
      } finally {
        await context.dispose();
      }
    } finally {
      await loaded.dispose();
    }
    return 'ran';
  } catch (error) {
    if (error instanceof LowbitError) return error;
    throw error;
  }
}

describe('damaged checkpoints', () => {
  const scratch = temporaryDirectory();

  test(`${mutants} mutants give a result or a LowbitError`, async () => {
    const bases: Base[] = [
      { name: 'dense', files: tinyCheckpoint(), model: '.' },
      await gptq(scratch, 4),
      await gptq(scratch, 3),
      await gptq(scratch, 2),
      repacked(scratch, 'gptq-4', 'awq', { layout: 'awq' }),
      repacked(scratch, 'gptq-3', 'compressed-tensors', { layout: 'stream' }),
      repacked(scratch, 'gptq-3', 'compressed-tensors-padded', { layout: 'padded' }),
      gguf('gguf', 32, rows32),
      gguf('gguf-k', 256, rows256),
    ];
    const random = integers(seed);
    const outcomes = new Map<string, number>();
    const codes = new Set(['INVALID_ARGUMENT', 'UNSUPPORTED', 'CORRUPT_FILE', 'IO', 'OUT_OF_MEMORY']);

    for (const [index, base] of bases.entries()) {
      const directory = path.join(scratch, `base-${index}`);
      mkdirSync(directory);
      for (const [name, bytes] of base.files) writeFileSync(path.join(directory, name), bytes);
      expect([base.name, await run(path.join(directory, base.model), 'fast')]).toEqual([base.name, 'ran']);
    }
    for (let mutant = 0; mutant < mutants; mutant++) {
      const index = random() % bases.length;
      const base = bases[index] as Base;
      const directory = path.join(scratch, `base-${index}`);
      const names = [...base.files.keys()];
      const name = names[random() % names.length] as string;
      const original = base.files.get(name) as Buffer;
      let bytes = original;
      for (let times = 1 + (random() % 3); times > 0; times--) bytes = damage(bytes, random);
      writeFileSync(path.join(directory, name), bytes);
      const outcome = await run(path.join(directory, base.model), random() % 2 === 0 ? 'fast' : 'exact').catch((error: unknown) => {
        throw new Error(`mutant ${mutant} of seed ${seed} (${base.name}, ${name}) failed with ${String(error)}`, { cause: error });
      });
      const kind = outcome === 'ran' ? 'ran' : outcome.code;
      if (outcome !== 'ran' && !(codes.has(outcome.code) && outcome.message.length > 10))
        throw new Error(`mutant ${mutant} of seed ${seed} (${base.name}, ${name}) gave ${outcome.code}: ${outcome.message}`, {
          cause: outcome,
        });
      outcomes.set(kind, (outcomes.get(kind) ?? 0) + 1);
      writeFileSync(path.join(directory, name), original);
    }
    for (const [index, base] of bases.entries())
      expect([base.name, await run(path.join(scratch, `base-${index}`, base.model), 'exact')]).toEqual([base.name, 'ran']);
    // The damage must reach the engine and the readers alike, or this test would prove nothing.
    expect(outcomes.get('ran') ?? 0).toBeGreaterThan(mutants / 20);
    expect(outcomes.get('CORRUPT_FILE') ?? 0).toBeGreaterThan(mutants / 20);
  }, 1_500_000);
});
