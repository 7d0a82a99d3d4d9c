/** A report of a made-up model, as lowbit_report.json holds it: every kind of entry that the page draws. */
const kinds = [
  'self_attn.q_proj',
  'self_attn.k_proj',
  'self_attn.v_proj',
  'self_attn.o_proj',
  'mlp.gate_proj',
  'mlp.up_proj',
  'mlp.down_proj',
];

/** Hostile where a file may be: markup in names, quotes in reasons. */
export const hostile = `<img src=x onerror="document.title='owned'">'"&`;

export interface SampleOptions {
  readonly blocks?: number;
  readonly curve?: boolean;
  readonly hostileNames?: boolean;
}

export function sampleReport({ blocks = 6, curve = false, hostileNames = false }: SampleOptions = {}) {
  const linears = Array.from({ length: blocks }, (_, block) =>
    kinds.map((kind, i) => ({
      name: `model.layers.${block}.${kind}${hostileNames && block === 0 && i === 0 ? hostile : ''}`,
      n: 64 * (i + 1),
      k: 128,
      bits: [4, 2, 8, 3, 4, 4, 4][i] as number,
      group_size: 64,
      sym: true,
      error: 0.001 * (1 + ((block * 5 + i * 3) % 11)),
      damp_percent: 0.05,
      dead_columns: block,
      seconds: 0.25,
      bits_per_weight: 4.25,
      fallbacks: block === 1 && i === 2 ? ['the damping was raised to 0.2'] : [],
    })),
  ).flat();
  // One is left dense, instead of its place in the last block.
  const skipped = [linears.pop()?.name ?? '', 'lm_head'];
  return {
    lowbit: { version: '0.1.0', cpu: 'a cpu', isa: 'avx2', bf16: false, threads: 2 },
    model: { name: hostileNames ? hostile : 'sample', kind: 'hf', architecture: 'llama' },
    checkpoint_format: 'gptq',
    options: {
      method: 'gptq',
      preset: 'quality',
      bits: 4,
      group_size: 64,
      sym: true,
      dynamic: { [`-:${hostileNames ? hostile : 'lm_head'}`]: {} },
    },
    calibration: { source: 'text', sha256: 'ab'.repeat(32), samples: 8, samples_wanted: 128, tokens: 4096, samples_dropped: 0 },
    linears,
    skipped,
    totals: {
      parameters: 2_000_000,
      quantized_parameters: 1_000_000,
      bits_per_weight: 4.25,
      bits_per_weight_model: 6.5,
      bytes_before: 4_000_000,
      bytes_after: 1_625_000,
      error: 0.0061,
      seconds: 75,
    },
    seconds: { load: 0.5, calibrate: 60, solve: 10, write: 1 },
    fallbacks: linears.flatMap(({ name, fallbacks }) => fallbacks.map((text) => `${name}: ${text}`)),
    warnings: ['Calibration used 8 samples of the 128 asked for'],
    ...(curve && {
      curve: [
        { bytes: 1_400_000, kl_divergence: 0.9, label: '3 bit', chosen: false },
        { bytes: 1_625_000, kl_divergence: 0.2, label: 'mixed', chosen: true },
        { bytes: 1_700_000, kl_divergence: 0.3, label: '4 bit', chosen: false },
        { bytes: 2_500_000, kl_divergence: 0.004, label: '8 bit', chosen: false },
      ],
    }),
  };
}
