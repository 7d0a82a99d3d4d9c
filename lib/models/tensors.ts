/**
 * models: finds the tensors an architecture asks for and checks their shapes. It reads no weight data.
 *
 * Problems do not stop it: they are collected, so that one error lists everything that is wrong with a checkpoint. What an absent
 * tensor stands for is then a placeholder number, which never leaves this room because finish() throws.
 */
import { type QuantizationConfig, foreignByTensors, parseQuantizationConfig } from '../checkpoint/quantization_config';
import { isBlockType } from '../checkpoint/dtype';
import { SettingsReader } from '../checkpoint/settings_reader';
import type { Checkpoint, TensorEntry } from '../checkpoint/types';
import { LowbitError } from '../errors';
import type { WeightSource } from '../graph/plan';
import { containerLinear } from './container';
import { ABSENT, FLOATS, type PackedTensors, packedLinear, packedTensorNames } from './packed';

/**
 * Tensors that carry nothing a plan needs: rotary tables and causal masks (GPT-2's attn.bias) that old exporters saved, and GGUF's rope tensors, which
 * the reader turns into configuration.
 */
const IGNORED = /(^|\.)(rotary_emb\.inv_freq|masked_bias|h\.\d+\.attn\.bias|rope_freqs\.weight|rope_factors_(long|short)\.weight)$/;

/** How many problems the message spells out; details.problems has all. */
const SHOWN = 12;

export class TensorResolver {
  private readonly problems: string[] = [];
  private readonly used = new Set<number>();
  private readonly quantization: QuantizationConfig | undefined;
  private readonly packedTensors: PackedTensors;
  private readonly warnings: string[] = [];

  /** Throws what parseQuantizationConfig throws for a quantization_config it cannot read. */
  constructor(
    private readonly checkpoint: Checkpoint,
    private readonly onWarning: (message: string) => void,
  ) {
    this.quantization = parseQuantizationConfig(checkpoint.config, checkpoint.path);
    this.packedTensors = {
      checkpoint,
      problem: (message) => void this.problems.push(message),
      warn: (message) => void this.warnings.push(message),
      take: (name, shape, dtypes) => this.take(name, shape, dtypes),
      use: (name) => {
        const index = checkpoint.find(name);
        if (index !== undefined) this.used.add(index);
      },
      count: () => this.problems.length,
    };
  }

  get ropePermuted(): boolean {
    return this.checkpoint.conventions.ropePermuted;
  }

  get normPlusOneStored(): boolean {
    return this.checkpoint.conventions.normPlusOneStored;
  }

  /** An unquantised tensor of this shape: vectors as floats, matrices also as GGUF blocks. */
  dense(name: string, shape: readonly number[], kind: 'vector' | 'matrix'): number {
    const index = this.take(name, shape);
    const dtype = this.checkpoint.tensors[index]?.dtype;
    if (dtype !== undefined && !FLOATS.includes(dtype) && !(kind === 'matrix' && isBlockType(dtype))) {
      this.problems.push(`${name} has dtype ${dtype}, expected ${FLOATS.join(', ')}${kind === 'matrix' ? ' or a GGUF block type' : ''}`);
    }
    return index;
  }

  /** The source of the embedding: dense, or in parts. */
  embedding(name: string, n: number, k: number): WeightSource {
    if (this.checkpoint.find(`${name}.parts`) !== undefined) return containerLinear(this.packedTensors, name, n, k);
    return { kind: 'tensor', tensor: this.dense(`${name}.weight`, [n, k], 'matrix') };
  }

  /** The source of linear `name`: dense when name.weight exists ([k, n] where `transposed`), packed when the tensors of a quantised linear do. */
  matrix(name: string, n: number, k: number, transposed = false): WeightSource {
    const has = (part: string): boolean => this.checkpoint.find(`${name}.${part}`) !== undefined;
    if (has('parts') && this.quantization?.method === 'lowbit') return containerLinear(this.packedTensors, name, n, k);
    const part = packedTensorNames.find(has);
    if (has('weight') || (part === undefined && !this.expectsPacked(name))) {
      if (transposed) return { kind: 'tensor', tensor: this.dense(`${name}.weight`, [k, n], 'vector'), transposed };
      return { kind: 'tensor', tensor: this.dense(`${name}.weight`, [n, k], 'matrix') };
    }
    if (part !== undefined) return packedLinear(this.packedTensors, this.quantization, part, name, n, k);
    this.problems.push(
      `${name} has neither ${this.quantization?.method === 'compressed-tensors' ? 'weight_packed' : 'qweight'} nor weight`,
    );
    return { kind: 'tensor', tensor: ABSENT };
  }

  private expectsPacked(name: string): boolean {
    const { quantization } = this;
    if (quantization === undefined || quantization.method === 'lowbit') return false;
    return quantization.method === 'awq' ? quantization.packs(name) : quantization.module(name) !== undefined;
  }

  /**
   * The bias of linear `name`, or undefined. One that was not asked for is used nevertheless where the configuration cannot tell:
   * GGUF has no key for it, and old writers of packed weights add zero biases to every linear.
   */
  bias(name: string, n: number, required: boolean, kind: WeightSource['kind']): number | undefined {
    const tolerated = kind !== 'tensor' || this.checkpoint.kind === 'gguf';
    const present = this.checkpoint.find(`${name}.bias`) !== undefined;
    return required || (present && tolerated) ? this.dense(`${name}.bias`, [n], 'vector') : undefined;
  }

  /**
   * Throws CORRUPT_FILE with all problems, unused tensors among them. `unused` says which tensors may stay unused. Without problems,
   * passes on what was noticed: one warning, as a label that is wrong for one weight is wrong for all.
   */
  finish(architecture: string, unused: { readonly names: readonly string[]; readonly matching?: (name: string) => boolean }): void {
    const spare = new Set(unused.names.map((name) => this.checkpoint.find(name)));
    const unknown = this.checkpoint.tensors.filter(
      ({ name }, index) => !this.used.has(index) && !spare.has(index) && !IGNORED.test(name) && unused.matching?.(name) !== true,
    );
    const problems = [
      ...this.problems,
      ...unknown.map(({ name }) => `${name} is not part of a ${architecture} model with this configuration`),
    ];
    if (problems.length === 0) {
      const [first] = this.warnings;
      if (first !== undefined) this.onWarning(this.warnings.length > 1 ? `${first} (and so are ${this.warnings.length - 1} more)` : first);
      if (this.quantization?.method === 'compressed-tensors') this.quantization.warnings.forEach(this.onWarning);
      return;
    }
    const foreign = this.quantization === undefined ? foreignByTensors(unknown.map(({ name }) => name)) : undefined;
    if (foreign !== undefined) throw unreadable(this.checkpoint.path, foreign);
    const more = problems.length > SHOWN ? `; and ${problems.length - SHOWN} more` : '';
    throw new LowbitError(
      'CORRUPT_FILE',
      `${this.checkpoint.path} does not hold the ${architecture} model its configuration describes: ${problems.slice(0, SHOWN).join('; ')}${more}. ` +
        'Check that all files were downloaded and that config.json belongs to them.',
      { file: this.checkpoint.path, problems },
    );
  }

  /** The number of tensor `name`, or ABSENT; what is wrong with it is noted. */
  private take(name: string, shape: readonly number[], dtypes?: readonly string[]): number {
    const index = this.checkpoint.find(name);
    const entry = index === undefined ? undefined : this.checkpoint.tensors[index];
    if (index === undefined || entry === undefined) {
      this.problems.push(`${name} is missing`);
      return ABSENT;
    }
    this.used.add(index);
    if (!sameShape(entry, shape)) this.problems.push(`${name} has shape [${entry.shape.join(', ')}], expected [${shape.join(', ')}]`);
    if (dtypes !== undefined && !dtypes.includes(entry.dtype)) {
      this.problems.push(`${name} has dtype ${entry.dtype}, expected ${dtypes.join(' or ')}`);
    }
    return index;
  }
}

function unreadable(file: string, what: string): LowbitError {
  return new SettingsReader({}, file).unsupported(what);
}

function sameShape(entry: TensorEntry, shape: readonly number[]): boolean {
  return entry.shape.length === shape.length && shape.every((length, axis) => entry.shape[axis] === length);
}
