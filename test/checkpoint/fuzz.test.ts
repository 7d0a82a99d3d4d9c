/**
 * Mutated headers: parsing ends with a result or a LowbitError, never with another error, and a result is consistent. The seeds are
 * fixed; a failure prints the mutant's number, from which it can be made again.
 */
import fs from 'node:fs';
import path from 'node:path';
import { openCheckpoint } from '../../lib/checkpoint';
import { NeedMoreBytes, parseGgufHeader } from '../../lib/checkpoint/gguf_header';
import { parseSafetensorsHeader } from '../../lib/checkpoint/safetensors';
import type { TensorEntry } from '../../lib/checkpoint/types';
import { LowbitError } from '../../lib/errors';
import { type GgufSpec, f32, ggufFile, randomNumbers, temporaryDirectory, tinyGguf } from './support';

const directory = temporaryDirectory();

const INTERESTING = [0, 1, 2, 7, 8, 9, 0x7f, 0x80, 0xff, 0x22, 0x2c, 0x30, 0x39, 0x5b, 0x7b, 0x7d];

/** One to four changes: bytes replaced, bits flipped, pieces removed, repeated or filled. */
function mutate(original: Buffer, random: () => number): Buffer {
  let bytes = Buffer.from(original);
  const below = (limit: number): number => Math.floor(random() * limit);
  for (let change = below(4); change >= 0; change--) {
    const at = below(bytes.length);
    const length = 1 + below(8);
    switch (below(6)) {
      case 0:
        bytes[at] = below(256);
        break;
      case 1:
        bytes[at] = (bytes[at] as number) ^ (1 << below(8));
        break;
      case 2:
        bytes[at] = INTERESTING[below(INTERESTING.length)] as number;
        break;
      case 3:
        bytes = Buffer.concat([bytes.subarray(0, at), bytes.subarray(at + length)]);
        break;
      case 4:
        bytes = Buffer.concat([bytes.subarray(0, at + length), bytes.subarray(at)]);
        break;
      default:
        bytes.fill(random() < 0.5 ? 0xff : 0, at, Math.min(bytes.length, at + length));
    }
    if (bytes.length === 0) return Buffer.from(original);
  }
  return bytes;
}

/** Runs `parse` on mutants; returns how many were accepted. */
function fuzz(
  original: Buffer,
  count: number,
  seed: number,
  parse: (mutant: Buffer) => readonly TensorEntry[] | undefined,
  size: (mutant: Buffer) => number,
): number {
  const random = randomNumbers(seed);
  let accepted = 0;
  for (let i = 0; i < count; i++) {
    const mutant = mutate(original, random);
    try {
      const tensors = parse(mutant);
      if (tensors === undefined) continue;
      accepted++;
      for (const { offset, bytes, shape } of tensors) {
        if (
          !Number.isSafeInteger(offset) ||
          offset < 0 ||
          !(offset + bytes <= size(mutant)) ||
          !shape.every((n) => Number.isSafeInteger(n) && n >= 0)
        ) {
          throw new Error(`inconsistent tensor ${JSON.stringify({ offset, bytes, shape })}`);
        }
      }
    } catch (error) {
      if (!(error instanceof LowbitError)) throw new Error(`mutant ${i} of seed ${seed}: ${String(error)}`, { cause: error });
    }
  }
  return accepted;
}

test('4,000 safetensors headers', () => {
  const json = Buffer.from(
    JSON.stringify({
      __metadata__: { format: 'pt' },
      'model.embed_tokens.weight': { dtype: 'BF16', shape: [4, 8], data_offsets: [0, 64] },
      'model.norm.weight': { dtype: 'F32', shape: [8], data_offsets: [64, 96] },
      'a.qweight': { dtype: 'I32', shape: [2, 2], data_offsets: [96, 112] },
    }),
  );
  const parse = (mutant: Buffer): readonly TensorEntry[] => parseSafetensorsHeader(mutant, 8 + mutant.length + 112, 'x').tensors;
  const accepted = fuzz(json, 4000, 1, parse, (mutant) => 8 + mutant.length + 112);
  expect(accepted).toBeGreaterThan(20); // changes of names are harmless
  expect(accepted).toBeLessThan(3000);
});

const spec: GgufSpec = tinyGguf({
  keys: [
    ['llama.rope.freq_base', 'f32', 10000],
    ['general.alignment', 'u32', 32],
    ['some.floats', 'f32s', [1, 2, 3]],
  ],
  tokenizer: [
    ['tokenizer.ggml.model', 'string', 'gpt2'],
    ['tokenizer.ggml.pre', 'string', 'gpt-2'],
    ['tokenizer.ggml.tokens', 'strings', ['a', 'b', 'ab', '<s>']],
    ['tokenizer.ggml.token_type', 'i32s', [1, 1, 1, 3]],
    ['tokenizer.ggml.merges', 'strings', ['a b']],
    ['tokenizer.ggml.bos_token_id', 'u32', 3],
  ],
  tensors: [
    { name: 'rope_freqs.weight', dims: [2], type: 0, data: f32([1, 8]) },
    { name: 'output_norm.weight', dims: [8], type: 0, data: f32([1, 1, 1, 1, 1, 1, 1, 1]) },
    { name: 'blk.0.attn_q.weight', dims: [32, 2], type: 3, data: Buffer.alloc(40) },
  ],
});

test('4,000 GGUF headers', () => {
  const parse = (mutant: Buffer): readonly TensorEntry[] | undefined => {
    const parsed = parseGgufHeader(mutant, mutant.length, 2 ** 20, 'x');
    return parsed instanceof NeedMoreBytes ? undefined : parsed.tensors;
  };
  const accepted = fuzz(ggufFile(spec), 4000, 2, parse, (mutant) => mutant.length);
  expect(accepted).toBeGreaterThan(20);
  expect(accepted).toBeLessThan(3900);
});

test('600 GGUF files, opened whole', async () => {
  const file = path.join(directory, 'x.gguf');
  const original = ggufFile(spec);
  const random = randomNumbers(3);
  let opened = 0;
  for (let i = 0; i < 600; i++) {
    fs.writeFileSync(file, mutate(original, random));
    try {
      await openCheckpoint(file);
      opened++;
    } catch (error) {
      if (!(error instanceof LowbitError)) throw new Error(`mutant ${i}: ${String(error)}`, { cause: error });
    }
  }
  expect(opened).toBeGreaterThan(5);
});

test('the checker notices another error', () => {
  const broken = (): never => {
    throw new RangeError('x');
  };
  expect(() => fuzz(Buffer.from('{}'), 1, 1, broken, () => 0)).toThrow(/mutant 0 of seed 1: RangeError/);
  const outside = (): readonly TensorEntry[] => [{ name: 'a', file: 0, dtype: 'U8', shape: [1], offset: 5, bytes: 6 }];
  expect(() => fuzz(Buffer.from('{}'), 1, 1, outside, () => 10)).toThrow(/inconsistent tensor/);
});
