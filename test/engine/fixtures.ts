/** Shared by the engine tests: fixtures as native model specs, and expected logits. */
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { openCheckpoint } from '../../lib/checkpoint';
import type { Plan } from '../../lib/graph/plan';
import { buildPlan } from '../../lib/models';
import { type ContextHandle, type ModelHandle, type ModelSpec, native } from '../../lib/native';

export const fixtures = path.join(__dirname, '..', 'fixtures');

export async function specOf(directory: string, precision: 'exact' | 'fast', change?: (plan: Plan) => Plan): Promise<ModelSpec> {
  const checkpoint = await openCheckpoint(path.join(fixtures, directory));
  const plan = buildPlan(checkpoint);
  return { files: checkpoint.files, tensors: checkpoint.tensors, plan: change ? change(plan) : plan, precision, threads: 2 };
}

/** tokens and logits of expected.safetensors. */
export function expectedOf(directory: string): { tokens: Int32Array; logits: Float32Array } {
  const file = readFileSync(path.join(fixtures, directory, 'expected.safetensors'));
  const length = Number(file.readBigUInt64LE(0));
  const header = JSON.parse(file.toString('utf8', 8, 8 + length)) as Record<string, { data_offsets: [number, number] }>;
  const bytes = (name: string): ArrayBuffer => {
    const [begin, end] = (header[name] as { data_offsets: [number, number] }).data_offsets;
    return new Uint8Array(file.subarray(8 + length + begin, 8 + length + end)).buffer;
  };
  return { tokens: new Int32Array(bytes('tokens')), logits: new Float32Array(bytes('logits')) };
}

export async function withModel<T>(spec: ModelSpec, use: (model: ModelHandle) => Promise<T>): Promise<T> {
  const model = await native().loadModel(spec, {});
  try {
    return await use(model);
  } finally {
    await native().disposeModel(model);
  }
}

export async function withContext<T>(
  model: ModelHandle,
  contextSize: number,
  kvType: 'f16' | 'f32',
  use: (context: ContextHandle) => Promise<T>,
): Promise<T> {
  const context = await native().createContext(model, { contextSize, sequences: 1, kvType });
  try {
    return await use(context);
  } finally {
    await native().disposeContext(context);
  }
}

/** Logits of all tokens, `batch` tokens a step. */
export async function logitsOf(context: ContextHandle, tokens: Int32Array, vocabSize: number, batch: number): Promise<Float32Array> {
  const all = new Float32Array(tokens.length * vocabSize);
  for (let begin = 0; begin < tokens.length; begin += batch) {
    const part = tokens.slice(begin, begin + batch);
    const out = new Float32Array(part.length * vocabSize);
    await native().step(context, { sequence: 0, tokens: part, logits: { from: 0, out } }, {});
    all.set(out, begin * vocabSize);
  }
  return all;
}

/** Largest absolute difference; NaN if any is. */
export function worstDifference(actual: Float32Array, expected: Float32Array): number {
  if (actual.length < expected.length) return NaN;
  let worst = 0;
  for (let i = 0; i < expected.length; i++) {
    const difference = Math.abs((actual[i] as number) - (expected[i] as number));
    if (!(difference <= worst)) worst = difference;
    if (Number.isNaN(difference)) return NaN;
  }
  return worst;
}

/** Rows whose expected top two differ by more than `margin` and whose top token differs. */
export function topMismatches(
  actual: Float32Array,
  expected: Float32Array,
  vocabSize: number,
  margin: number,
): { wrong: number; checked: number } {
  let wrong = 0;
  let checked = 0;
  for (let row = 0; row * vocabSize < expected.length; row++) {
    const want = expected.subarray(row * vocabSize, (row + 1) * vocabSize);
    const top = want.indexOf(Math.max(...want));
    const second = Math.max(...want.filter((_, i) => i !== top));
    if (!((want[top] as number) - second > margin)) continue;
    checked++;
    const have = actual.subarray(row * vocabSize, (row + 1) * vocabSize);
    if (have.indexOf(Math.max(...have)) !== top) wrong++;
  }
  return { wrong, checked };
}
