/**
 * Checkpoints that lowbit writes load in GPTQModel and transformers and give lowbit's own logits there. Needs a Python with those
 * packages (LOWBIT_PYTHON, default python3); counted as skipped without.
 */
import { spawnSync } from 'node:child_process';
import path from 'node:path';
import { evaluate, loadModel, quantize, type QuantizeOptions } from '../../lib';
import { FIXTURES, temporaryDirectory } from '../checkpoint/support';
import { worstDifference } from '../engine/fixtures';

const python = process.env['LOWBIT_PYTHON'] ?? 'python3';
const program = path.join(__dirname, 'logits.py');
const story = path.join(FIXTURES, 'tiny-stories');

function run(...args: string[]): unknown {
  const { status, stdout, stderr } = spawnSync(python, [program, ...args], { encoding: 'utf8', maxBuffer: 2 ** 28 });
  if (status !== 0) throw new Error(`${python} ${args.slice(0, 2).join(' ')} failed: ${stderr.slice(-2000)}`);
  return JSON.parse(stdout);
}

/** Versions of what is installed; importing takes seconds, so only the environment that names a Python is asked. */
const found = process.env['LOWBIT_PYTHON'] === undefined ? {} : (run('probe') as Record<string, string>);

// GPTQModel's portable kernel computes in f16 only: activations and sums rounded to 11 bits, logits up to 20. Measured 1.2e-2.
const tolerance = 2e-2;
const tokens = Int32Array.from({ length: 48 }, (_, i) => (i * 37 + 5) % 512);
const settings: readonly (readonly [name: string, options: Partial<QuantizeOptions>])[] = [
  ['4 bit, group 128, symmetric (v1)', { bits: 4, groupSize: 128 }],
  ['4 bit, group 32, act-order (v1, g_idx)', { preset: 'fast', bits: 4, groupSize: 32, descAct: true }],
  ['4 bit, group 64, asymmetric (v2)', { bits: 4, groupSize: 64, sym: false }],
  ['3 bit, group 32, symmetric (v1)', { bits: 3, groupSize: 32 }],
  ['8 bit, whole rows (v1)', { bits: 8, groupSize: -1 }],
];

describe.each(['gptqmodel', 'transformers'])('%s', (tool) => {
  const scratch = temporaryDirectory();
  // transformers reads GPTQ through GPTQModel.
  const absent = ['torch', 'transformers', 'gptqmodel'].filter((name) => found[name] === undefined);
  const check = absent.length === 0 ? test.each(settings) : test.skip.each(settings);
  const why = absent.length === 0 ? '' : ` (skipped: no ${absent.join(', ')} in LOWBIT_PYTHON)`;

  check(
    `%s loads and gives the same logits${why}`,
    async (name, options) => {
      const output = path.join(scratch, String(settings.findIndex(([other]) => other === name)));
      await quantize({
        model: story,
        output,
        calibration: { file: path.join(story, 'text.txt') },
        calibrationSamples: 16,
        calibrationLength: 256,
        ...options,
      });
      const model = await loadModel(output, { precision: 'exact' });
      const own = await evaluate.logits(model, tokens);
      await model.dispose();
      const { logits } = run(tool, output, ...[...tokens].map(String)) as { logits: number[] };
      const worst = worstDifference(Float32Array.from(logits), own);
      console.info(`${tool} ${found[tool]}, ${name}: largest difference of a logit ${worst.toExponential(1)}`);
      expect(worst).toBeLessThanOrEqual(tolerance);
    },
    300_000,
  );
});
