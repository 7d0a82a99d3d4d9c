/** Options of loadModel that change what lies in memory: the packed-weight cache and the width of the head, through the public API. */
import { copyFileSync, existsSync, mkdirSync, readFileSync, readdirSync, truncateSync, utimesSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { type LoadModelOptions, type Model, evaluate, loadModel } from '../../lib';
import { temporaryDirectory } from '../checkpoint/support';
import { storyModel } from '../generate/fixture';
import { fixtures } from './fixtures';

const scratch = temporaryDirectory();
const prompt = Int32Array.from([1, 17, 42, 5, 99]);

function copyOf(source: string, name: string): string {
  const directory = path.join(scratch, name);
  mkdirSync(directory);
  for (const file of readdirSync(source)) copyFileSync(path.join(source, file), path.join(directory, file));
  return directory;
}

async function inspectLoad(model: string, options: LoadModelOptions): Promise<{ info: Model['info']; logits: Float32Array }> {
  await using loaded = await loadModel(model, { threads: 2, ...options });
  return { info: loaded.info, logits: await evaluate.logits(loaded, prompt) };
}

describe('packedCache', () => {
  test('is written, then read, with the same logits; damage and staleness are noticed', async () => {
    const model = copyOf(storyModel, 'states');
    const plain = await inspectLoad(model, {});
    expect(plain.info).toMatchObject({ packedCache: 'off', lmHeadBits: 16 });
    expect(plain.info.packedCacheNote).toBeUndefined();
    const cache = path.join(model, 'model.lowbit-packed');
    const load = async (): Promise<string> => {
      const { info, logits: received } = await inspectLoad(model, { packedCache: true });
      expect(received).toEqual(plain.logits);
      expect(info.packedCacheNote === undefined).toBe(info.packedCache === 'written' || info.packedCache === 'hit');
      return `${info.packedCache}: ${info.packedCacheNote ?? ''}`;
    };
    expect(await load()).toBe('written: ');
    expect(await load()).toBe('hit: ');
    expect(readdirSync(model).filter((file) => file.includes('lowbit-packed'))).toEqual(['model.lowbit-packed']);
    const bytes = readFileSync(cache);
    bytes[bytes.length - 1000] = (bytes[bytes.length - 1000] as number) ^ 4;
    writeFileSync(cache, bytes);
    expect(await load()).toMatch(/^stale: .*model\.lowbit-packed is damaged at or after the start of /);
    expect(await load()).toBe('hit: ');
    truncateSync(cache, 5000);
    expect(await load()).toMatch(/^stale: .*is cut short/);
    utimesSync(path.join(model, 'model.safetensors'), 1, 1);
    expect(await load()).toBe('hit: ');
  });

  test('a folder is made and takes caches of several models and heads', async () => {
    const folder = path.join(scratch, 'deep', 'folder');
    const states = [];
    for (const [model, lmHeadBits] of [
      [storyModel, 16],
      [storyModel, 8],
      [path.join(fixtures, 'interop', 'gptq-v1-4bit-g128-sym'), 16],
      [storyModel, 8],
      [storyModel, 16],
    ] as const) {
      states.push((await inspectLoad(model, { packedCache: folder, lmHeadBits })).info.packedCache);
    }
    expect(states).toEqual(['written', 'written', 'written', 'hit', 'hit']);
    expect(readdirSync(folder)).toHaveLength(3);
  });

  test('a folder that cannot be written to does not fail the load', async () => {
    const file = path.join(scratch, 'file');
    writeFileSync(file, '');
    const { info } = await inspectLoad(storyModel, { packedCache: path.join(file, 'folder') });
    expect(info.packedCache).toBe('failed');
    expect(info.packedCacheNote).toMatch(/^Cannot write .*Not a directory$/);
  });

  test('loads at the same time agree', async () => {
    const folder = path.join(scratch, 'together');
    const loads = await Promise.all(Array.from({ length: 4 }, () => inspectLoad(storyModel, { packedCache: folder })));
    for (const { info, logits: received } of loads) {
      expect(['written', 'hit', 'failed']).toContain(info.packedCache); // failed: another one is writing it
      expect(received).toEqual(loads[0]?.logits);
    }
    expect((await inspectLoad(storyModel, { packedCache: folder })).info.packedCache).toBe('hit');
    expect(readdirSync(folder)).toHaveLength(1);
  });

  test('an aborted load leaves no file behind', async () => {
    const folder = path.join(scratch, 'aborted');
    const abort = new AbortController();
    const onLoadProgress = (): void => abort.abort();
    await loadModel(storyModel, { packedCache: folder, onLoadProgress, signal: abort.signal }).then(
      (model) => model.dispose(),
      (error: unknown) => expect(error).toMatchObject({ code: 'CANCELLED' }),
    );
    if (existsSync(folder)) expect(readdirSync(folder).filter((file) => file.endsWith('.tmp'))).toEqual([]);
  });

  test.each([[''], [3], ['a\0b']])('refuses %j', async (packedCache) => {
    await expect(loadModel(storyModel, { packedCache: packedCache as never })).rejects.toMatchObject({
      code: 'INVALID_ARGUMENT',
      message: expect.stringContaining('Expected boolean or non-empty path for packedCache') as string,
    });
  });
});

describe('lmHeadBits', () => {
  /** Root mean square of the difference over that of the reference. */
  const distance = (a: Float32Array, b: Float32Array): number => {
    let difference = 0;
    let size = 0;
    for (let i = 0; i < a.length; i++) {
      difference += ((a[i] as number) - (b[i] as number)) ** 2;
      size += (b[i] as number) ** 2;
    }
    return Math.sqrt(difference / size);
  };

  test('rounds the head, tied or not, and leaves the embedding alone', async () => {
    const stored = await inspectLoad(storyModel, { precision: 'exact' });
    const { weightBytes, parameters } = stored.info;
    let last = 0;
    for (const lmHeadBits of [8, 6, 5, 4] as const) {
      const { info, logits: received } = await inspectLoad(storyModel, { precision: 'exact', lmHeadBits });
      expect(info.lmHeadBits).toBe(lmHeadBits);
      expect(info.parameters).toBe(parameters);
      expect(info.weightBytes).not.toBe(weightBytes);
      // Uniform error of a step over sqrt(12), a step being at most 2 max / 2^bits with max about 3 sigma of a group of 32.
      const error = distance(received, stored.logits);
      expect(error).toBeGreaterThan(last);
      expect(error).toBeLessThan(3.5 / Math.sqrt(3) / 2 ** lmHeadBits);
      last = error;
    }
  });

  test('on the fast path a dense head behind quantised linears takes 8 bits', async () => {
    const model = path.join(fixtures, 'interop', 'gptq-v1-4bit-g128-sym');
    const heads = async (options: LoadModelOptions): Promise<number> => (await inspectLoad(model, options)).info.lmHeadBits;
    expect(await heads({})).toBe(8);
    expect(await heads({ lmHeadBits: 16 })).toBe(16);
    expect(await heads({ precision: 'exact' })).toBe(16);
    expect(await heads({ precision: 'exact', lmHeadBits: 4 })).toBe(4);
    expect((await inspectLoad(storyModel, {})).info.lmHeadBits).toBe(16); // nothing is quantised there
  });

  test.each([[3], [7], [32], ['8']])('refuses %j', async (lmHeadBits) => {
    await expect(loadModel(storyModel, { lmHeadBits: lmHeadBits as never })).rejects.toMatchObject({
      code: 'INVALID_ARGUMENT',
      message: expect.stringContaining('Expected one of 4, 5, 6, 8, 16 for lmHeadBits') as string,
    });
  });
});
