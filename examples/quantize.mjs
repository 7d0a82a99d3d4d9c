/** Compresses a model to 4 bit with GPTQ. node examples/quantize.mjs <model> <output directory> <text file> */
import process from 'node:process';
import { inspect, quantize } from 'lowbit';

const [model, output, file] = process.argv.slice(2);
const report = await quantize({
  model,
  output,
  method: 'gptq',
  bits: 4,
  groupSize: 128,
  calibration: { file },
  onProgress: ({ phase, fraction }) => process.stderr.write(`\r${phase} ${(fraction * 100).toFixed(0)}%   `),
});
process.stderr.write('\n');
for (const warning of [...report.warnings, ...report.fallbacks]) console.log(warning);
const [before, after] = [await inspect(model), await inspect(output)];
console.log(
  `${before.storedBytes} -> ${after.storedBytes} bytes, ${before.bitsPerWeight.toFixed(2)} -> ${after.bitsPerWeight.toFixed(2)} bits per weight`,
);
