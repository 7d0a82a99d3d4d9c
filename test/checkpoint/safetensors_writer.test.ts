/** SafetensorsWriter: what is written is read back equal, aligned, in one or several shards. */
import fs from 'node:fs';
import path from 'node:path';
import { SafetensorsWriter, openCheckpoint } from '../../lib/checkpoint';
import { DTYPES } from '../../lib/checkpoint/dtype';
import { readSafetensorsHeader } from '../../lib/checkpoint/safetensors';
import { errorOf, randomNumbers, temporaryDirectory } from './support';

const root = temporaryDirectory();
let count = 0;
function newDirectory(): string {
  const directory = path.join(root, String(count++));
  fs.mkdirSync(directory);
  return directory;
}

async function contents(file: string): Promise<Map<string, { dtype: string; shape: readonly number[]; bytes: Buffer }>> {
  const whole = fs.readFileSync(file);
  const { tensors } = await readSafetensorsHeader(file);
  return new Map(
    tensors.map(({ name, dtype, shape, offset, bytes }) => [name, { dtype, shape, bytes: whole.subarray(offset, offset + bytes) }]),
  );
}

test('tensors of all types and odd sizes come back, aligned to their elements', async () => {
  const directory = newDirectory();
  const writer = new SafetensorsWriter(directory);
  const random = randomNumbers(3);
  const written = new Map<string, { dtype: string; shape: readonly number[]; bytes: Buffer }>();
  const plain = [...DTYPES].filter(([, { values }]) => values === 1);
  for (let i = 0; i < 60; i++) {
    const [dtype, { bytes }] = plain[i % plain.length] as (typeof plain)[number];
    const shape = [[], [0], [3], [5, 7], [2, 4]][i % 5] as number[];
    const data = Buffer.from(Array.from({ length: shape.reduce((a, b) => a * b, 1) * bytes }, () => Math.floor(random() * 256)));
    written.set(`t${i}`, { dtype, shape, bytes: Buffer.from(data) });
    await writer.add(`t${i}`, dtype, shape, data);
    data.fill(0); // the caller may reuse it
  }
  expect(await writer.finish()).toEqual(['model.safetensors']);
  const file = path.join(directory, 'model.safetensors');
  expect(await contents(file)).toEqual(written);
  const { tensors, metadata } = await readSafetensorsHeader(file);
  expect(Object.fromEntries(metadata)).toEqual({ format: 'pt' });
  for (const { dtype, offset, bytes } of tensors) if (bytes > 0) expect(offset % (DTYPES.get(dtype)?.bytes ?? 0)).toBe(0);
  expect(Number(fs.readFileSync(file).readBigUInt64LE()) % 8).toBe(0);
  expect(fs.readdirSync(directory)).toEqual(['model.safetensors']);
});

test('typed arrays are written as their bytes', async () => {
  const directory = newDirectory();
  const writer = new SafetensorsWriter(directory, { metadata: { tool: 'lowbit' } });
  const words = new Int32Array([9, 1, -2, 3]).subarray(1); // a view that does not start at its buffer
  await writer.add('w', 'I32', [3], words);
  await writer.finish();
  expect((await contents(path.join(directory, 'model.safetensors'))).get('w')?.bytes).toEqual(
    Buffer.from([1, 0, 0, 0, 254, 255, 255, 255, 3, 0, 0, 0]),
  );
});

test('shards, their index, and opening them as a checkpoint', async () => {
  const directory = newDirectory();
  const writer = new SafetensorsWriter(directory, { maxShardBytes: 100 });
  for (const [name, length] of [
    ['a', 60],
    ['b', 40],
    ['c', 4],
    ['d', 300],
    ['e', 7],
  ] as const)
    await writer.add(name, 'U8', [length], new Uint8Array(length).fill(length));
  const names = await writer.finish();
  expect(names).toEqual([1, 2, 3, 4].map((i) => `model-0000${i}-of-00004.safetensors`));
  expect(fs.readdirSync(directory).sort()).toEqual([...names, 'model.safetensors.index.json']);
  const index = JSON.parse(fs.readFileSync(path.join(directory, 'model.safetensors.index.json'), 'utf8')) as unknown;
  expect(index).toEqual({ metadata: { total_size: 411 }, weight_map: { a: names[0], b: names[0], c: names[1], d: names[2], e: names[3] } });
  fs.writeFileSync(path.join(directory, 'config.json'), '{}');
  const checkpoint = await openCheckpoint(directory);
  expect(['a', 'b', 'c', 'd', 'e'].map((name) => checkpoint.tensors[checkpoint.find(name) ?? -1]?.bytes)).toEqual([60, 40, 4, 300, 7]);
  expect(checkpoint.files.map((file) => path.basename(file))).toEqual(names);
});

test('a large shard keeps its reserved room as padding, and more tensors than fit there are moved behind a longer header', async () => {
  const large = newDirectory();
  const writer = new SafetensorsWriter(large);
  const data = new Uint8Array(65 * 1024 * 1024);
  data[data.length - 1] = 7;
  await writer.add('big', 'U8', [data.length], data);
  await writer.finish();
  const file = path.join(large, 'model.safetensors');
  expect(fs.statSync(file).size).toBe(512 * 1024 + data.length);
  expect((await contents(file)).get('big')?.bytes.at(-1)).toBe(7);

  const many = newDirectory();
  const second = new SafetensorsWriter(many);
  for (let i = 0; i < 6000; i++)
    await second.add(`model.layers.${i}.a.name.of.some.length.that.fills.the.header`, 'U8', [8], new Uint8Array(8).fill(i % 251));
  await second.finish();
  const read = await contents(path.join(many, 'model.safetensors'));
  expect(read.size).toBe(6000);
  expect(read.get('model.layers.5999.a.name.of.some.length.that.fills.the.header')?.bytes[0]).toBe(5999 % 251);
});

test('no tensors at all is a valid file', async () => {
  const directory = newDirectory();
  await new SafetensorsWriter(directory).finish();
  expect((await readSafetensorsHeader(path.join(directory, 'model.safetensors'))).tensors).toEqual([]);
});

test.each<[string, Parameters<SafetensorsWriter['add']>, string]>([
  ['a GGUF type', ['b', 'Q4_0', [32], new Uint8Array(18)], 'dtype of "b"'],
  ['an unknown type', ['b', 'F33', [1], new Uint8Array(4)], 'dtype of "b"'],
  ['too few bytes', ['b', 'F32', [2], new Uint8Array(4)], '8 bytes (F32 [2])'],
  ['a name twice', ['a', 'U8', [1], new Uint8Array(1)], '"a" was written already'],
  ['the reserved name', ['__metadata__', 'U8', [1], new Uint8Array(1)], 'name of a tensor'],
  ['no name', ['', 'U8', [1], new Uint8Array(1)], 'name of a tensor'],
])('refuses %s and stays usable', async (_, args, text) => {
  const directory = newDirectory();
  const writer = new SafetensorsWriter(directory);
  await writer.add('a', 'U8', [1], Uint8Array.of(1));
  const error = await errorOf(() => writer.add(...args));
  expect(error.code).toBe('INVALID_ARGUMENT');
  expect(error.message).toContain(text);
  await writer.finish();
  expect([...(await contents(path.join(directory, 'model.safetensors'))).keys()]).toEqual(['a']);
});

test('maxShardBytes', async () => {
  for (const maxShardBytes of [0, -1, 1.5, NaN, 2 ** 60, '5GB' as never]) {
    const error = await errorOf(() => new SafetensorsWriter(root, { maxShardBytes }));
    expect(error.message).toMatch(/^Expected integer between 1 and 9007199254740991 for maxShardBytes but received/);
  }
});

test('calls in the wrong order', async () => {
  const writer = new SafetensorsWriter(newDirectory());
  const first = writer.add('a', 'U8', [8], new Uint8Array(8));
  expect((await errorOf(() => writer.add('b', 'U8', [8], new Uint8Array(8)))).message).toContain('wait for the promise');
  await first;
  await writer.finish();
  expect((await errorOf(() => writer.finish())).message).toContain('has finished');
});

test('a disk that refuses: IO names the file and what to do, and nothing is left', async () => {
  const directory = newDirectory();
  const writer = new SafetensorsWriter(directory);
  await writer.add('a', 'U8', [8], new Uint8Array(8));
  const full = Object.assign(new Error('no space'), { code: 'ENOSPC' });
  const { handle } = (writer as unknown as { shard: { handle: fs.promises.FileHandle } }).shard;
  jest.spyOn(handle, 'write').mockRejectedValue(full);
  const error = await errorOf(() => writer.add('b', 'U8', [8], new Uint8Array(8)));
  expect(error.code).toBe('IO');
  expect(error.message).toContain(path.join(directory, 'model-00001.partial'));
  expect(error.message).toContain('the disk is full: free space or choose an output on another disk');
  expect(fs.readdirSync(directory)).toEqual([]);
  expect((await errorOf(() => writer.finish())).message).toContain('has failed');
});

test('a directory that is not there', async () => {
  const writer = new SafetensorsWriter(path.join(root, 'missing'));
  expect((await errorOf(() => writer.add('a', 'U8', [1], new Uint8Array(1)))).code).toBe('IO');
});

test('abort removes what was written', async () => {
  const directory = newDirectory();
  const writer = new SafetensorsWriter(directory, { maxShardBytes: 8 });
  for (const name of ['a', 'b', 'c']) await writer.add(name, 'U8', [8], new Uint8Array(8));
  await writer.abort();
  expect(fs.readdirSync(directory)).toEqual([]);
});

test('a tensor comes in pieces, of even and of odd size; too few or too many bytes are an error', async () => {
  const directory = newDirectory();
  const writer = new SafetensorsWriter(directory);
  const even = Buffer.from(Array.from({ length: 64 }, (_, i) => i));
  const odd = even.subarray(0, 51);
  const inPieces = async function* (bytes: Buffer) {
    const piece = Buffer.alloc(7); // reused, as a reader's buffer may be
    for (let at = 0; at < bytes.length; at += 7) yield piece.subarray(0, bytes.copy(piece, 0, at));
  };
  await writer.addPieces('even', 'U8', [64], inPieces(even));
  await writer.addPieces('odd', 'U8', [51], inPieces(odd));
  await writer.add('last', 'U8', [8], even.subarray(0, 8));
  await writer.finish();
  const read = await contents(path.join(directory, 'model.safetensors'));
  expect([...read].map(([name, { bytes }]) => [name, [...bytes]])).toEqual([
    ['even', [...even]],
    ['last', [...even.subarray(0, 8)]],
    ['odd', [...odd]],
  ]);
  for (const size of [63, 65]) {
    const failing = new SafetensorsWriter(newDirectory());
    const error = await errorOf(() => failing.addPieces('x', 'U8', [size], inPieces(even)));
    expect(error.message).toContain(`Expected ${size} bytes (U8 [${size}]) for data of "x" but received 64`);
  }
});
