/**
 * models: finds the tensors an architecture asks for and checks their shapes. It reads no weight data.
 *
 * Problems do not stop it: they are collected, so that one error lists everything that is wrong with a checkpoint. What an absent
 * tensor stands for is then a placeholder number, which never leaves this room because finish() throws.
 */
import { type GptqConfig, parseGptqConfig, resolveZeroOffset } from '../checkpoint/gptq_config';
import { isBlockType } from '../checkpoint/dtype';
import type { Checkpoint, TensorEntry } from '../checkpoint/types';
import { LowbitError } from '../errors';
import type { WeightSource } from '../graph/plan';

/** Weights a plan may take directly; block types are GGUF's and need whole blocks per row, which the reader has checked. */
const FLOATS: readonly string[] = ['F32', 'F16', 'BF16'];

/**
 * Tensors that carry nothing a plan needs: rotary tables and causal masks (GPT-2's attn.bias) that old exporters saved, and GGUF's rope tensors, which
 * the reader turns into configuration.
 */
const IGNORED = /(^|\.)(rotary_emb\.inv_freq|masked_bias|h\.\d+\.attn\.bias|rope_freqs\.weight|rope_factors_(long|short)\.weight)$/;

/** Stands for a tensor that is not there, until finish() throws. */
const ABSENT = -1;

/** How many problems the message spells out; details.problems has all. */
const SHOWN = 12;

export class TensorResolver {
  private readonly problems: string[] = [];
  private readonly used = new Set<number>();
  private readonly gptq: GptqConfig | undefined;
  private readonly warnings: string[] = [];

  /** Throws what parseGptqConfig throws for a quantization_config it cannot read. */
  constructor(
    private readonly checkpoint: Checkpoint,
    private readonly onWarning: (message: string) => void,
  ) {
    this.gptq = parseGptqConfig(checkpoint.config, checkpoint.path);
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

  /** The source of linear `name`: dense when name.weight exists, [k, n] where `transposed`, GPTQ when name.qweight does. */
  matrix(name: string, n: number, k: number, transposed = false): WeightSource {
    const dense = this.checkpoint.find(`${name}.weight`) !== undefined;
    const packed = this.checkpoint.find(`${name}.qweight`) !== undefined;
    if (dense || (!packed && this.gptq?.module(name) === undefined)) {
      if (transposed) return { kind: 'tensor', tensor: this.dense(`${name}.weight`, [k, n], 'vector'), transposed };
      return { kind: 'tensor', tensor: this.dense(`${name}.weight`, [n, k], 'matrix') };
    }
    if (packed) return this.packed(name, n, k);
    this.problems.push(`${name} has neither qweight nor weight`);
    return { kind: 'tensor', tensor: ABSENT };
  }

  /**
   * The bias of linear `name`, or undefined. One that was not asked for is used nevertheless where the configuration cannot tell:
   * GGUF has no key for it, and old GPTQ writers add zero biases to every linear.
   */
  bias(name: string, n: number, required: boolean, kind: WeightSource['kind']): number | undefined {
    const tolerated = kind === 'gptq' || this.checkpoint.kind === 'gguf';
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
      return;
    }
    const more = problems.length > SHOWN ? `; and ${problems.length - SHOWN} more` : '';
    throw new LowbitError(
      'CORRUPT_FILE',
      `${this.checkpoint.path} does not hold the ${architecture} model its configuration describes: ${problems.slice(0, SHOWN).join('; ')}${more}. ` +
        'Check that all files were downloaded and that config.json belongs to them.',
      { file: this.checkpoint.path, problems },
    );
  }

  /** A GPTQ linear: qweight [k*bits/32, n], qzeros [groups, n*bits/32], scales [groups, n] and, when columns were reordered, g_idx [k]. */
  private packed(name: string, n: number, k: number): WeightSource {
    const settings = this.gptq?.module(name);
    if (settings === undefined) {
      const why = this.gptq === undefined ? 'there is no quantization_config' : 'a dynamic rule leaves it dense';
      this.problems.push(`${name}.qweight is packed, but ${why}`);
      for (const part of ['qweight', 'qzeros', 'scales', 'g_idx']) this.markUsed(`${name}.${part}`);
      return { kind: 'tensor', tensor: ABSENT };
    }
    const { bits, descAct } = settings;
    const groupSize = settings.groupSize === -1 ? k : Math.min(settings.groupSize, k);
    const groups = Math.ceil(k / groupSize);
    for (const [side, length] of [
      ['rows', n],
      ['columns', k],
    ] as const) {
      if ((length * bits) % 32 !== 0)
        this.problems.push(`${name} has ${length} ${side} of ${bits} bits, which do not fill whole 32-bit words`);
    }
    const qweight = this.take(`${name}.qweight`, [(k * bits) / 32, n], ['I32']);
    const before = this.problems.length;
    const qzeros = this.take(`${name}.qzeros`, [groups, (n * bits) / 32], ['I32']);
    const zeroOffset = this.problems.length === before ? this.zeroOffset(qzeros, { ...settings, format: this.gptq?.format ?? 'v1' }) : 1;
    const scales = this.take(`${name}.scales`, [groups, n], FLOATS);
    const gIdx = descAct || this.checkpoint.find(`${name}.g_idx`) !== undefined ? { gIdx: this.take(`${name}.g_idx`, [k], ['I32']) } : {};
    return { kind: 'gptq', qweight, qzeros, scales, ...gIdx, bits, groupSize, zeroOffset };
  }

  private zeroOffset(qzeros: number, config: Pick<GptqConfig, 'bits' | 'sym' | 'format'>): 0 | 1 {
    const { zeroOffset, warning } = resolveZeroOffset(this.checkpoint, qzeros, config);
    if (warning !== undefined) this.warnings.push(warning);
    return zeroOffset;
  }

  private markUsed(name: string): void {
    const index = this.checkpoint.find(name);
    if (index !== undefined) this.used.add(index);
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

function sameShape(entry: TensorEntry, shape: readonly number[]): boolean {
  return entry.shape.length === shape.length && shape.every((length, axis) => entry.shape[axis] === length);
}
