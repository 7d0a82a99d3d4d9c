/**
 * lib/quantize: what decides the bytes of an output, as a run's journal stores it. Two runs with equal fingerprints write equal weights.
 *
 * Of the model's files: size, time of the last change, and a SHA-256 of samplesPerFile pieces of sampleBytes spread over the file, its ends
 * included; reading all of it would take as long as a part of the work. config.json, tokenizer and the other small files are read whole. Not in it,
 * because no byte depends on them: threads, the output's place, overwrite, callbacks.
 */
import { createHash } from 'node:crypto';
import { readFile, stat } from 'node:fs/promises';
import path from 'node:path';
import { readExactly, withFile } from '../checkpoint/files';
import type { Checkpoint } from '../checkpoint/types';
import { native } from '../native';
import type { CalibrationSamples } from './calibration';
import type { Fingerprint } from './journal';
import type { ResolvedOptions } from './options';
import type { OutputFormat } from './outputs';
import { usedOptions } from './report';
import type { SideFile } from './sidefiles';

const samplesPerFile = 64;
const sampleBytes = 4096;

export async function fingerprintOf(run: {
  readonly options: ResolvedOptions;
  readonly checkpoint: Checkpoint;
  readonly sideFiles: readonly SideFile[];
  readonly samples: CalibrationSamples | undefined;
  readonly format: OutputFormat;
  readonly version: string;
}): Promise<Fingerprint> {
  const { options, checkpoint, sideFiles, samples, format, version } = run;
  const { chosenIsa, bf16, version: engine } = native().engineInfo();
  const { threads: _threads, ...used } = usedOptions(options);
  const files = await Promise.all(checkpoint.files.map(async (file) => [path.basename(file), await contentOf(file)] as const));
  const small = await Promise.all(sideFiles.map(async ({ name, from }) => [name, hash(await readFile(from))] as const));
  const fingerprint = {
    lowbit: { version, engine, isa: chosenIsa, bf16 },
    options: { ...used, checkpoint_format: format.name },
    calibration: samples ? { sha256: samples.sha256, samples: samples.offsets.length - 1, lengths: hash(samples.offsets) } : null,
    model: {
      kind: checkpoint.kind,
      config: hash(JSON.stringify(checkpoint.config)),
      tensors: hash(JSON.stringify(checkpoint.tensors)),
      files: Object.fromEntries(files),
      small_files: Object.fromEntries(small),
    },
  };
  return JSON.parse(JSON.stringify(fingerprint)) as Fingerprint; // as a file gives it back
}

function hash(data: string | NodeJS.ArrayBufferView): string {
  return createHash('sha256').update(data).digest('hex').slice(0, 32);
}

async function contentOf(file: string): Promise<{ size: number; modified: string; sampled: string }> {
  const { mtimeMs } = await stat(file);
  return withFile(file, async (handle, size) => {
    const digest = createHash('sha256');
    const last = Math.max(0, size - sampleBytes);
    for (let i = 0; i < samplesPerFile; i++) {
      const at = Math.floor((last * i) / (samplesPerFile - 1));
      digest.update(await readExactly(handle, file, at, Math.min(sampleBytes, size - at)));
    }
    return { size, modified: new Date(mtimeMs).toISOString(), sampled: digest.digest('hex').slice(0, 32) };
  });
}
