/** Structure of the plans of every golden configuration, their tensors, and what summaries say about them. */
import { openCheckpoint } from '../../lib/checkpoint';
import { reads, writes } from '../../lib/graph/builder';
import type { Op, Plan } from '../../lib/graph/plan';
import { architectureNames, buildPlan } from '../../lib/models/registry';
import { modelSummary, quantizableWeights } from '../../lib/models/summary';
import { ARCHITECTURES, GGUF_FIXTURES, type TestCheckpoint, asGguf, fixture, readFixture, withTensors } from './fixtures';

const golden = (name: string): TestCheckpoint => readFixture(fixture('arch', name));

function opsNamed<Name extends Op['op']>(plan: Plan, name: Name): Extract<Op, { op: Name }>[] {
  return plan.ops.filter((op): op is Extract<Op, { op: Name }> => op.op === name);
}

/** Every tensor number a plan uses, with repetitions. */
function usedTensors(plan: Plan): number[] {
  const ofWeights = plan.weights.flatMap(({ source }) => {
    if (source.kind === 'tensor') return [source.tensor];
    if (source.kind === 'parts') throw new Error('lowbit containers: see test/quantize/container.test.ts');
    return [source.qweight, source.qzeros, source.scales, source.gIdx].filter((tensor): tensor is number => tensor !== undefined);
  });
  return [...ofWeights, ...plan.vectors.map(({ tensor }) => tensor)].sort((a, b) => a - b);
}

function expectSound(plan: Plan): void {
  // Ranges cover all ops, in order, without gap.
  expect(plan.prologue.begin).toBe(0);
  const ranges = [plan.prologue, ...plan.blocks, plan.epilogue];
  ranges.slice(1).forEach(({ begin, end }, i) => {
    expect(begin).toBe(ranges[i]?.end);
    expect(end).toBeGreaterThan(begin);
  });
  expect(plan.epilogue.end).toBe(plan.ops.length);
  for (const op of plan.ops) {
    for (const { buffer, offset, width } of [...reads(op), ...writes(op)]) {
      expect(offset).toBeGreaterThanOrEqual(0);
      expect(width).toBeGreaterThan(0);
      expect(offset + width).toBeLessThanOrEqual(plan.buffers[buffer]?.width as number);
    }
  }
  for (const { in: input, outputs } of opsNamed(plan, 'linear')) {
    for (const { weight, out } of outputs) {
      const { n, k, bias } = plan.weights[weight] as Plan['weights'][number];
      expect([n, k]).toEqual([out.width, input.width]);
      if (bias !== undefined) expect(plan.vectors[bias]?.length).toBe(n);
      // A linear never writes what it reads.
      expect(out.buffer === input.buffer && out.offset < input.offset + input.width && input.offset < out.offset + out.width).toBe(false);
    }
  }
  for (const { in: input, vector, group } of opsNamed(plan, 'rms_norm')) {
    expect(plan.vectors[vector]?.length).toBe(group);
    expect(input.width % group).toBe(0);
  }
  for (const { q, k, v, out, cache, nHeads, nKvHeads, headDim } of opsNamed(plan, 'attention')) {
    expect([q.width, out.width]).toEqual([nHeads * headDim, nHeads * headDim]);
    expect([k.width, v.width]).toEqual([nKvHeads * headDim, nKvHeads * headDim]);
    expect(plan.caches[cache]).toEqual({ nKvHeads, headDim });
  }
  expect(opsNamed(plan, 'attention').map(({ cache }) => cache)).toEqual(plan.caches.map((_, index) => index));
  expect(plan.caches).toHaveLength(plan.blocks.length);
  // Every table entry is used by some op.
  const linears = opsNamed(plan, 'linear').flatMap(({ outputs }) => outputs.map(({ weight }) => weight));
  const tables = [...opsNamed(plan, 'embed'), ...opsNamed(plan, 'embed_position')].map(({ weight }) => weight);
  const experts = opsNamed(plan, 'experts').flatMap((op) => op.experts.flatMap(({ gate, up, down }) => [gate, up, down]));
  const routers = opsNamed(plan, 'route').map(({ weight }) => weight);
  expect(new Set([...linears, ...tables, ...experts, ...routers]).size).toBe(plan.weights.length);
  const biases = plan.weights.flatMap(({ bias }) => (bias === undefined ? [] : [bias]));
  const norms = [
    ...opsNamed(plan, 'rms_norm').map(({ vector }) => vector),
    ...opsNamed(plan, 'layer_norm').flatMap(({ vector, bias }) => [vector, bias]),
    ...opsNamed(plan, 'route').flatMap(({ bias }) => (bias === undefined ? [] : [bias])),
  ];
  expect([...norms, ...biases].sort((a, b) => a - b)).toEqual(plan.vectors.map((_, index) => index));
  expect(new Set(opsNamed(plan, 'rope').map(({ rope }) => rope)).size).toBe(plan.ropes.length);
  // Nothing but the residual is read before it was written in the same range; the engine relies on it when it runs ranges apart.
  for (const { begin, end } of [...plan.blocks, plan.epilogue]) {
    const written = new Set([plan.residual]);
    for (const op of plan.ops.slice(begin, end)) {
      for (const { buffer } of reads(op)) expect(written).toContain(buffer);
      for (const { buffer } of writes(op)) written.add(buffer);
    }
  }
  expect(plan.buffers[plan.residual]?.width).toBe(plan.hiddenSize);
  expect(plan.logits.width).toBe(plan.vocabSize);
  // Buffers of the epilogue are its own, and it leaves the residual alone.
  const inBlocks = new Set(plan.ops.slice(0, plan.epilogue.begin).flatMap((op) => writes(op).map(({ buffer }) => buffer)));
  for (const op of plan.ops.slice(plan.epilogue.begin)) for (const { buffer } of writes(op)) expect(inBlocks).not.toContain(buffer);
}

test('the golden configurations cover every architecture', () => {
  const covered = new Set(ARCHITECTURES.map((name) => buildPlan(golden(name)).architecture));
  expect([...covered].sort()).toEqual([...architectureNames].sort());
});

describe.each(ARCHITECTURES)('%s', (name) => {
  const checkpoint = golden(name);
  const plan = buildPlan(checkpoint);

  test('is sound', () => expectSound(plan));

  test('uses every tensor once', () => expect(usedTensors(plan)).toEqual(checkpoint.tensors.map((_, index) => index)));

  test('has the sizes of the configuration', () => {
    expect(plan).toMatchObject({ vocabSize: 320, hiddenSize: 64, maxSeqLen: 512 });
    expect(plan.blocks).toHaveLength(name === 'gemma3' ? 7 : 3);
  });

  test('groups the linears by input', () => {
    const groups = quantizableWeights(plan);
    const others: Readonly<Record<string, readonly string[]>> = {
      phi3: ['qkv_proj', 'o_proj', 'gate_up_proj', 'down_proj'],
      gpt2: ['c_attn', 'c_proj', 'c_fc', 'c_proj'],
      opt: ['q_proj k_proj v_proj', 'out_proj', 'fc1', 'fc2'],
    };
    const attention = ['q_proj k_proj v_proj', 'o_proj'];
    const repeat = (count: number, names: string): string => Array.from({ length: count }, () => names).join(' ');
    const experts = (count: number, gate: string, up: string, down: string): string[] => [
      repeat(count, `${gate} ${up}`),
      repeat(count, down),
    ];
    const mla = ['q_a_proj kv_a_proj_with_mqa', 'q_b_proj', 'kv_b_proj', 'o_proj', 'gate_proj up_proj', 'down_proj'];
    const mixtures: Readonly<Record<string, (block: number) => readonly string[]>> = {
      mixtral: () => [...attention, ...experts(4, 'w1', 'w3', 'w2')],
      'qwen3-moe': () => [...attention, ...experts(8, 'gate_proj', 'up_proj', 'down_proj')],
      'deepseek-v3': (block) => [...mla, ...(block === 0 ? [] : experts(8, 'gate_proj', 'up_proj', 'down_proj'))],
    };
    const projections = others[name] ?? [...attention, 'gate_proj up_proj', 'down_proj'];
    expect(groups.map(({ weights }) => weights.map((weight) => plan.weights[weight]?.name.split('.').at(-1)).join(' '))).toEqual(
      plan.blocks.flatMap((_, block) => mixtures[name]?.(block) ?? projections),
    );
    expect(groups.every(({ block, op }) => op >= (plan.blocks[block]?.begin as number) && op < (plan.blocks[block]?.end as number))).toBe(
      true,
    );
  });

  test('summary', () => {
    const summary = modelSummary(plan, checkpoint);
    const elements = checkpoint.tensors.map(({ shape }) => shape.reduce((a, b) => a * b, 1)).reduce((a, b) => a + b, 0);
    expect(summary).toMatchObject({
      architecture: plan.architecture,
      layers: plan.blocks.length,
      hiddenSize: 64,
      nHeads: 4,
      nKvHeads: ['gpt2', 'opt', 'deepseek-v3'].includes(name) ? 4 : 2,
      vocabSize: 320,
      contextLength: 512,
      parameters: elements,
      storedBytes: 2 * elements,
      bitsPerWeight: 16,
      quantization: 'BF16',
      tiedHead: !checkpoint.tensors.some(({ name: tensor }) => tensor === 'lm_head.weight'),
    });
  });
});

test.each(GGUF_FIXTURES)('a GGUF file of %s gives the same ops', (name) => {
  const checkpoint = golden(name);
  const plan = buildPlan(checkpoint);
  const gguf = buildPlan(asGguf(checkpoint));
  expectSound(gguf);
  expect({ ...gguf, weights: [], vectors: [] }).toEqual({ ...plan, weights: [], vectors: [] });
  const permuted = checkpoint.config['model_type'] === 'llama' || checkpoint.config['model_type'] === 'mistral';
  for (const { name: weight, ropeHeads } of gguf.weights) {
    const heads = weight.endsWith('.q_proj') ? 4 : weight.endsWith('.k_proj') ? 2 : undefined;
    expect(ropeHeads).toBe(permuted ? heads : undefined);
  }
  expect(gguf.vectors.every(({ addend }) => addend === undefined)).toBe(true);
});

test.each(['arch/gemma3', 'arch/gpt2', 'arch/deepseek-v3', 'arch/phi3', 'interop/gptq-v1-4bit-g64-descact', 'tiny-stories'])(
  '%s opened by lib/checkpoint gives the same plan',
  async (name) => {
    const directory = fixture(...name.split('/'));
    expect(buildPlan(await openCheckpoint(directory))).toEqual(buildPlan(readFixture(directory)));
  },
);

describe('details', () => {
  test('one layer of llama reads like its definition', () => {
    const plan = buildPlan(golden('llama'));
    const { begin, end } = plan.blocks[1] as { begin: number; end: number };
    const ops = plan.ops.slice(begin, end);
    expect(ops.map(({ op }) => op)).toEqual([
      'rms_norm',
      'linear',
      'rope',
      'rope',
      'attention',
      'linear',
      'rms_norm',
      'linear',
      'glu',
      'linear',
    ]);
    const accumulating = ops.filter((op) => op.op === 'linear' && op.outputs.every(({ accumulate }) => accumulate));
    expect(accumulating.map((op) => (op.op === 'linear' ? op.outputs.map(({ out }) => out) : []))).toEqual([
      [{ buffer: plan.residual, offset: 0, width: 64 }],
      [{ buffer: plan.residual, offset: 0, width: 64 }],
    ]);
    // q, k and v are neighbours in one buffer.
    const [, qkv] = ops;
    expect(qkv?.op === 'linear' && qkv.outputs.map(({ out }) => [out.offset, out.width])).toEqual([
      [0, 64],
      [64, 32],
      [96, 32],
    ]);
    expect(plan.buffers).toEqual([
      { name: 'x', width: 64 },
      { name: 'hidden', width: 64 },
      { name: 'qkv', width: 128 },
      { name: 'attention', width: 64 },
      { name: 'gate_up', width: 320 },
      { name: 'gated', width: 160 },
      { name: 'final', width: 64 },
      { name: 'logits', width: 320 },
    ]);
  });

  test('OPT with its norms behind the halves, and without a final one', () => {
    const drop = ['model.decoder.final_layer_norm.weight', 'model.decoder.final_layer_norm.bias'];
    const edited = readFixture(fixture('arch', 'opt'), (config) => (config['do_layer_norm_before'] = false));
    const plan = buildPlan(withTensors(edited, { drop }));
    expectSound(plan);
    const { begin, end } = plan.blocks[0] as { begin: number; end: number };
    const names = plan.ops.slice(begin, end).map(({ op }) => op);
    expect(names).toEqual(['linear', 'attention', 'linear', 'layer_norm', 'linear', 'activation', 'linear', 'layer_norm']);
    expect(plan.ops.slice(plan.epilogue.begin).map(({ op }) => op)).toEqual(['linear']);
  });

  test('the first GPT-2 files have neither a prefix nor use for their causal masks', () => {
    const base = golden('gpt2');
    const alter = Object.fromEntries(base.tensors.map(({ name }) => [name, { name: name.replace('transformer.', '') }]));
    const plan = buildPlan(withTensors(base, { alter, add: [{ name: 'h.0.attn.bias', shape: [1, 1, 512, 512] }] }));
    expect(plan.weights.slice(0, 3).map(({ name }) => name)).toEqual(['wte', 'wpe', 'h.0.attn.c_attn']);
    expect(plan.ops).toEqual(buildPlan(base).ops);
  });

  test('a tied head is the entry of the embedding', () => {
    const plan = buildPlan(golden('gemma2'));
    const [embed] = opsNamed(plan, 'embed');
    const head = opsNamed(plan, 'linear').at(-1);
    expect(head?.outputs[0]?.weight).toBe(embed?.weight);
    expect(plan.weights.filter(({ role }) => role !== 'linear')).toHaveLength(1);
  });

  test('an untied head is called lm_head', () => {
    expect(
      buildPlan(golden('llama'))
        .weights.filter(({ role }) => role === 'head')
        .map(({ name }) => name),
    ).toEqual(['lm_head']);
  });

  test('without tie_word_embeddings, the tensors decide', () => {
    const silent = (config: Record<string, unknown>): void => {
      delete config['tie_word_embeddings'];
    };
    expect(modelSummary(buildPlan(readFixture(fixture('arch', 'llama'), silent)), golden('llama')).tiedHead).toBe(false);
    expect(modelSummary(buildPlan(readFixture(fixture('arch', 'qwen2'), silent)), golden('qwen2')).tiedHead).toBe(true);
  });

  test('windows per layer', () => {
    const windows = (name: string, edit?: (config: Record<string, unknown>) => void): number[] =>
      opsNamed(buildPlan(readFixture(fixture('arch', name), edit)), 'attention').map(({ window }) => window);
    expect(windows('llama')).toEqual([0, 0, 0]);
    expect(windows('mistral-swa')).toEqual([24, 24, 24]);
    expect(windows('mistral-swa', (config) => (config['sliding_window'] = null))).toEqual([0, 0, 0]);
    expect(windows('gemma2')).toEqual([16, 0, 16]);
    expect(windows('gemma2', (config) => delete config['layer_types'])).toEqual([16, 0, 16]);
    expect(windows('gemma3')).toEqual([16, 16, 16, 16, 16, 0, 16]);
    expect(windows('gemma3', (config) => delete config['layer_types'])).toEqual([16, 16, 16, 16, 16, 0, 16]);
    expect(windows('phi3', (config) => (config['sliding_window'] = 2047))).toEqual([2047, 2047, 2047]);
    const qwen = (config: Record<string, unknown>): void => {
      delete config['layer_types'];
      Object.assign(config, { use_sliding_window: true, sliding_window: 8, max_window_layers: 1 });
    };
    expect(windows('qwen2', qwen)).toEqual([0, 8, 8]);
    expect(windows('qwen3', qwen)).toEqual([0, 8, 8]);
    expect(windows('gemma3', (config) => Object.assign(config, { layer_types: null, sliding_window_pattern: 2 }))).toEqual([
      16, 0, 16, 0, 16, 0, 16,
    ]);
  });

  test('gemma 3 rotates sliding and full layers by different tables, also with the old keys', () => {
    const old = (config: Record<string, unknown>): void => {
      delete config['rope_parameters'];
      Object.assign(config, { rope_theta: 1e6, rope_local_base_freq: 10000, rope_scaling: null });
    };
    const plan = buildPlan(golden('gemma3'));
    expect(buildPlan(readFixture(fixture('arch', 'gemma3'), old))).toEqual(plan);
    // Bases are the defaults of the family.
    expect(buildPlan(readFixture(fixture('arch', 'gemma3'), (config) => delete config['rope_parameters']))).toEqual(plan);
    expect(plan.ropes.map(({ inverseFrequencies }) => inverseFrequencies[1])).toEqual([1e6 ** (-1 / 16), 10000 ** (-1 / 16)]);
    expect(opsNamed(plan, 'rope').map(({ rope }) => rope)).toEqual([1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 1, 1]);
  });

  test('biases: where the configuration asks, where GGUF has them, nowhere else', () => {
    const biasOf = (projection: string, n: number): { name: string; shape: number[] }[] =>
      [0, 1, 2].map((layer) => ({ name: `model.layers.${layer}.${projection}.bias`, shape: [n] }));
    const attention = [
      ...biasOf('self_attn.q_proj', 64),
      ...biasOf('self_attn.k_proj', 32),
      ...biasOf('self_attn.v_proj', 32),
      ...biasOf('self_attn.o_proj', 64),
    ];
    const mlp = [...biasOf('mlp.gate_proj', 160), ...biasOf('mlp.up_proj', 160), ...biasOf('mlp.down_proj', 64)];
    const base = readFixture(fixture('arch', 'llama'), (config) => Object.assign(config, { attention_bias: true, mlp_bias: true }));
    const biased = withTensors(base, { add: [...attention, ...mlp] });
    const plan = buildPlan(biased);
    expectSound(plan);
    expect(plan.weights.filter(({ bias }) => bias !== undefined)).toHaveLength(21);
    expect(() => buildPlan(withTensors(golden('llama'), { add: attention }))).toThrow(
      'model.layers.0.self_attn.q_proj.bias is not part of a llama model',
    );
    const gguf = buildPlan(asGguf(withTensors(golden('llama'), { add: attention })));
    expect(gguf.weights.filter(({ bias }) => bias !== undefined)).toHaveLength(12);
    // Biases of permuted rows are permuted like them.
    const heads = gguf.vectors
      .filter(({ name }) => name.startsWith('model.layers.0.') && name.endsWith('.bias'))
      .map(({ ropeHeads }) => ropeHeads);
    expect(heads).toEqual([4, 2, undefined, undefined]);
  });

  test('longrope: the context asked for chooses the table and the reach', () => {
    const checkpoint = readFixture(fixture('arch', 'phi3'), (config) => {
      const rope_scaling = { type: 'longrope', short_factor: Array(8).fill(1), long_factor: Array(8).fill(4) };
      Object.assign(config, { rope_parameters: null, original_max_position_embeddings: 128, rope_scaling });
    });
    const [short, long] = [buildPlan(checkpoint), buildPlan(checkpoint, { contextSize: 300 })];
    expect([short.maxSeqLen, long.maxSeqLen]).toEqual([128, 512]);
    expect(long.ropes[0]?.inverseFrequencies).toEqual(short.ropes[0]?.inverseFrequencies.map((f) => f / 4));
    expect(short.ropes[0]?.scale).toBe(Math.sqrt(1 + Math.log(4) / Math.log(128)));
  });

  test('head_dim: given, from hidden_size, or what the family has', () => {
    const plan = buildPlan(readFixture(fixture('arch', 'llama'), (config) => delete config['head_dim']));
    expect(plan).toEqual(buildPlan(golden('llama')));
    expect(() => buildPlan(readFixture(fixture('arch', 'qwen3'), (config) => delete config['head_dim']))).toThrow(
      'q_proj.weight has shape [128, 64], expected [512, 64]',
    );
  });
});
