/**
 * node bench/interop/golden.cjs: the largest difference of a logit, on the exact path, for every fixture that another tool wrote
 * (test/fixtures/interop: GPTQModel, llm-compressor) against the logits that were computed apart from this project. The table of
 * docs/interop.md. Exits with 1 where one is above 1e-3. Needs a build (npm run build).
 */
const { readFileSync, readdirSync } = require('node:fs');
const path = require('node:path');
const process = require('node:process');
const { evaluate, loadModel } = require('../..');

const limit = 1e-3;
const fixtures = path.join(__dirname, '..', '..', 'test', 'fixtures', 'interop');

/** tokens and logits of expected.safetensors. */
function expectedOf(directory) {
  const file = readFileSync(path.join(directory, 'expected.safetensors'));
  const start = 8 + Number(file.readBigUInt64LE(0));
  const header = JSON.parse(file.toString('utf8', 8, start));
  const bytes = (name) => {
    const [begin, end] = header[name].data_offsets;
    return new Uint8Array(file.subarray(start + begin, start + end)).buffer;
  };
  return { tokens: new Int32Array(bytes('tokens')), logits: new Float32Array(bytes('logits')) };
}

async function main() {
  for (const name of readdirSync(fixtures).sort()) {
    const { tokens, logits } = expectedOf(path.join(fixtures, name));
    const model = await loadModel(path.join(fixtures, name), { precision: 'exact' });
    const own = await evaluate.logits(model, tokens);
    await model.dispose();
    let worst = own.length === logits.length ? 0 : NaN;
    logits.forEach((value, i) => {
      const difference = Math.abs(value - own[i]);
      if (!(difference <= worst)) worst = difference;
    });
    if (!(worst <= limit)) process.exitCode = 1;
    process.stdout.write(`${name.padEnd(32)} ${String(tokens.length).padStart(4)} tokens  ${worst.toExponential(1)}\n`);
  }
}

void main();
