/** What the tests of generation, chat, evaluation and the command line share: the story model and variants of it. */
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { LowbitError } from '../../lib/errors';
import type { GenerationResult, GenerationStream } from '../../lib/generate';

export const storyModel = path.join(__dirname, '..', 'fixtures', 'tiny-stories');
export const storyText = readFileSync(path.join(storyModel, 'text.txt'), 'utf8');
export const prompt = 'Once upon a time, there was a little girl named Molly.';

const variants: string[] = [];

/** A copy of the story model with files changed: JSON files are merged with an object, others replaced by a text. */
export function storyVariant(changes: Readonly<Record<string, string | Record<string, unknown>>>): string {
  const directory = mkdtempSync(path.join(os.tmpdir(), 'lowbit-test-'));
  variants.push(directory);
  cpSync(storyModel, directory, { recursive: true });
  for (const [name, change] of Object.entries(changes)) {
    const file = path.join(directory, name);
    writeFileSync(file, typeof change === 'string' ? change : JSON.stringify({ ...JSON.parse(readFileSync(file, 'utf8')), ...change }));
  }
  return directory;
}

/** To be called after all tests of a file that made variants. */
export function removeVariants(): void {
  for (const directory of variants.splice(0)) rmSync(directory, { recursive: true, force: true });
}

/** Reads a stream to its end. */
export async function readAll<T>(stream: GenerationStream<T>): Promise<{ items: T[]; result: GenerationResult }> {
  const items: T[] = [];
  for (;;) {
    const next = await stream.next();
    if (next.done) return { items, result: next.value };
    items.push(next.value);
  }
}

/** Reads at most `count` items, then leaves the loop, which calls return(). */
export async function readSome<T>(stream: AsyncIterable<T>, count: number): Promise<T[]> {
  const items: T[] = [];
  for await (const item of stream) {
    items.push(item);
    if (items.length === count) break;
  }
  return items;
}

/** Code and message of what a call throws or rejects with. */
export async function failure(call: () => unknown): Promise<{ code: string; message: string }> {
  try {
    await call();
  } catch (error) {
    if (!(error instanceof LowbitError)) throw error;
    return { code: error.code, message: error.message };
  }
  throw new Error('nothing was thrown');
}

/** Largest index, lowest on ties. */
export function argmax(values: ArrayLike<number>): number {
  let best = 0;
  for (let i = 1; i < values.length; i++) if ((values[i] as number) > (values[best] as number)) best = i;
  return best;
}
