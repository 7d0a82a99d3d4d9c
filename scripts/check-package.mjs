/**
 * npm run check:package: packs the repository as npm would publish it and uses the tarball as a stranger would.
 *
 * Needs prebuilds/ for this platform (npm run prebuild). Checks the tarball's size and content, installs it into an empty folder
 * without install scripts and without a compiler on the PATH, then runs a small model through require, import, a worker thread, a
 * child process and the command line; all must give the same text. Types are compiled as a consumer's would be. Prints the size
 * and the newest glibc symbol that the Linux binaries need; `--glibc 2.28` makes a newer one a failure.
 */
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, realpathSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import os from 'node:os';
import path from 'node:path';
import process from 'node:process';
import { fileURLToPath } from 'node:url';

const root = realpathSync(path.join(path.dirname(fileURLToPath(import.meta.url)), '..'));
const require = createRequire(import.meta.url);
const { name: packageName, version } = require('../package.json');
const model = path.join(root, 'test', 'fixtures', 'tiny-stories');
const maxBytes = 3 << 20;
const glibcLimit = process.argv.includes('--glibc') ? process.argv[process.argv.indexOf('--glibc') + 1] : undefined;

let failures = 0;
function expect(ok, text) {
  console.log(`${ok ? 'ok    ' : 'FAILED'} ${text}`);
  if (!ok) failures++;
  return ok;
}

/** npm's own program, run by this node, so that PATH can be empty of everything else. */
const npmCli = (() => {
  const candidates = [
    process.env.npm_execpath,
    path.join(path.dirname(process.execPath), '..', 'lib', 'node_modules', 'npm', 'bin', 'npm-cli.js'),
    path.join(path.dirname(process.execPath), 'node_modules', 'npm', 'bin', 'npm-cli.js'),
  ];
  const found = candidates.find((file) => file?.endsWith('.js') && existsSync(file));
  if (!found) throw new Error('npm-cli.js was not found; start this through npm run check:package');
  return found;
})();

function run(args, cwd, env) {
  const { status, stdout, stderr, error } = spawnSync(process.execPath, args, { cwd, env, encoding: 'utf8', maxBuffer: 1 << 26 });
  if (status !== 0) console.error(`${args.join(' ')}\n${stdout}${stderr}${error?.message ?? ''}`);
  return status === 0 ? stdout : undefined;
}

/** Newest GLIBC_x.y that the file's symbol table names, as [major, minor]. */
function glibcFloor(file) {
  const versions = [...readFileSync(file, 'latin1').matchAll(/GLIBC_(\d+)\.(\d+)/g)].map((match) => [Number(match[1]), Number(match[2])]);
  return versions.sort((a, b) => a[0] - b[0] || a[1] - b[1]).at(-1);
}

function checkTarball(folder) {
  const listing = run([npmCli, 'pack', '--json', '--silent', '--pack-destination', folder], root, process.env);
  if (!expect(listing !== undefined, 'npm pack')) return undefined;
  const parsed = JSON.parse(listing.slice(listing.search(/^[[{]/m)));
  const [packed] = Array.isArray(parsed) ? parsed : Object.values(parsed);
  const files = packed.files.map((file) => file.path);
  expect(
    packed.size <= maxBytes,
    `tarball ${packed.size} bytes packed (at most ${maxBytes}), ${packed.unpackedSize} unpacked, ${files.length} files`,
  );
  for (const needed of [
    'dist/index.js',
    'dist/index.d.ts',
    'dist/esm.mjs',
    'dist/esm.d.mts',
    'dist/cli/main.js',
    'lib/index.ts',
    'LICENSE',
    'README.md',
  ]) {
    expect(files.includes(needed), `tarball holds ${needed}`);
  }
  const binaries = files.filter((file) => file.endsWith('.node'));
  expect(
    binaries.some((file) => file.startsWith(`prebuilds/${process.platform}-${process.arch}/`)),
    `tarball holds a binary for this machine: ${binaries.join(' ')}`,
  );
  const stray = files.filter((file) => /^(build|test|bench|coverage|node_modules|\.models|\.ci)\/|\.tsbuildinfo$/.test(file));
  expect(stray.length === 0, `tarball holds nothing that belongs to development ${stray.join(' ')}`);
  // dist/ is not cleaned by tsc: a source that was renamed leaves its old output behind.
  const orphans = files.filter(
    (file) => /^dist\/.*\.m?js$/.test(file) && !files.includes(file.replace(/^dist/, 'lib').replace(/js$/, 'ts')),
  );
  expect(orphans.length === 0, `every file of dist/ has its source ${orphans.join(' ')}`);
  return path.join(folder, packed.filename);
}

function checkBinaries() {
  const folder = path.join(root, 'prebuilds');
  for (const file of readdirSync(folder, { recursive: true }).filter((found) => /^linux.*\.node$/.test(found))) {
    const floor = glibcFloor(path.join(folder, file));
    const size = readFileSync(path.join(folder, file)).length;
    const limit = glibcLimit?.split('.').map(Number);
    const ok = !limit || !floor || floor[0] < limit[0] || (floor[0] === limit[0] && floor[1] <= limit[1]);
    expect(ok, `${file}: ${size} bytes, needs glibc ${floor?.join('.') ?? 'of no version'}${limit ? ` (at most ${glibcLimit})` : ''}`);
  }
}

/** The program every way of loading runs: prints the engine's identity and 16 greedy tokens as one JSON line. */
const body = `
async function use(lowbit, report) {
  const model = await lowbit.loadModel(${JSON.stringify(model)});
  const context = await model.createContext();
  let text = '';
  for await (const piece of context.generate('Once upon a time', { maxTokens: 16 })) text += piece;
  const { version, chosenIsa } = lowbit.engineInfo();
  let code;
  try { await lowbit.loadModel('/no/such/folder'); } catch (error) { code = error instanceof lowbit.LowbitError && error.code; }
  report(JSON.stringify({ version, chosenIsa, code, text }));
}`;

const programs = {
  'require.cjs': `${body}\nuse(require('lowbit'), console.log);`,
  'import.mjs': `import * as lowbit from 'lowbit';\n${body}\nawait use(lowbit, console.log);`,
  'worker.cjs': `const { Worker, isMainThread, parentPort } = require('node:worker_threads');\n${body}
if (isMainThread) new Worker(__filename).on('message', (line) => console.log(line)).on('error', (error) => { throw error; });
else use(require('lowbit'), (line) => parentPort.postMessage(line));`,
  'child.cjs': `const { fork } = require('node:child_process');\n${body}
if (process.send) use(require('lowbit'), (line) => process.send(line, () => process.disconnect()));
else fork(__filename).on('message', (line) => console.log(line)).on('exit', (code) => { process.exitCode = code; });`,
};

function checkUse(consumer, env) {
  const outputs = new Set();
  for (const [file, text] of Object.entries(programs)) {
    writeFileSync(path.join(consumer, file), text);
    const line = run([file], consumer, env)?.trim();
    const result = line ? JSON.parse(line) : undefined;
    expect(result?.version === version && result.code === 'IO' && result.text.length > 0, `${file}: ${line ?? 'no result'}`);
    outputs.add(line);
  }
  expect(outputs.size === 1 && !outputs.has(undefined), 'all ways of loading give the same text');
  writeFileSync(
    path.join(consumer, 'both.mjs'),
    `import { createRequire } from 'node:module';\nimport * as esm from 'lowbit';
const cjs = createRequire(import.meta.url)('lowbit');
const missing = Object.keys(cjs).filter((name) => esm[name] !== cjs[name]);
if (missing.length > 0) throw new Error('import and require differ in ' + missing.join(', '));`,
  );
  expect(run(['both.mjs'], consumer, env) !== undefined, 'import and require share every export');
  const cli = run([path.join('node_modules', packageName, 'dist', 'cli', 'main.js'), '--version'], consumer, env)?.trim();
  expect(cli?.includes(version), `lowbit --version: ${cli}`);
  expect(existsSync(path.join(consumer, 'node_modules', '.bin', 'lowbit')), 'the command lowbit is installed');
}

function checkTypes(consumer) {
  const text =
    "import { loadModel, quantize, LowbitError, type GenerateOptions } from 'lowbit';\nexport const used: [unknown, unknown, unknown, GenerateOptions] = [loadModel, quantize, LowbitError, { maxTokens: 1 }];\n";
  for (const file of ['types.cts', 'types.mts']) writeFileSync(path.join(consumer, file), text);
  mkdirSync(path.join(consumer, 'node_modules', '@types'), { recursive: true });
  for (const dependency of ['@types/node', 'undici-types']) {
    const target = path.join(consumer, 'node_modules', dependency);
    if (!existsSync(target)) symlinkSync(path.join(root, 'node_modules', dependency), target);
  }
  for (const module of ['node16', 'nodenext']) {
    const options = [
      '--noEmit',
      '--strict',
      '--target',
      'es2022',
      '--lib',
      'es2022,esnext.disposable',
      '--types',
      'node',
      '--module',
      module,
      'types.cts',
      'types.mts',
    ];
    expect(
      run([require.resolve('typescript/bin/tsc'), ...options], consumer, process.env) !== undefined,
      `types compile with --module ${module}`,
    );
  }
}

const scratch = mkdtempSync(path.join(os.tmpdir(), 'lowbit-package-'));
try {
  if (!existsSync(path.join(root, 'prebuilds'))) throw new Error('prebuilds/ is missing; run npm run prebuild first');
  checkBinaries();
  const tarball = checkTarball(scratch);
  const consumer = path.join(scratch, 'consumer');
  const programsOnly = path.join(scratch, 'bin');
  mkdirSync(consumer);
  mkdirSync(programsOnly);
  // npm runs node and sh; nothing else is on this PATH, so anything that wanted to compile would fail.
  symlinkSync(process.execPath, path.join(programsOnly, 'node'));
  if (existsSync('/bin/sh')) symlinkSync('/bin/sh', path.join(programsOnly, 'sh'));
  writeFileSync(path.join(consumer, 'package.json'), '{ "private": true }\n');
  const env = { ...process.env, PATH: programsOnly, PREBUILDS_ONLY: '1' };
  for (const key of Object.keys(env))
    if (/^npm_|^LOWBIT_(PREBUILD|ISA)$|^NODE_PATH$/i.test(key) && !/cache|registry|cafile/i.test(key)) delete env[key];
  const install = ['install', '--ignore-scripts', '--prefer-offline', '--no-audit', '--no-fund', '--loglevel', 'error'];
  if (
    tarball &&
    expect(run([npmCli, ...install, tarball], consumer, env) !== undefined, 'installs without scripts and without a compiler')
  ) {
    checkUse(consumer, env);
    checkTypes(consumer);
  }
} catch (error) {
  expect(false, error.message);
} finally {
  rmSync(scratch, { recursive: true, force: true });
}
console.log(`check-package: ${failures === 0 ? 'the package works' : `${failures} checks failed`}`);
process.exit(failures === 0 ? 0 : 1);
