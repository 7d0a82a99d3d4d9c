/**
 * npm's `prepare`: compiles TypeScript, then makes sure that a native binary is there.
 *
 * Runs for the root package only (npm install, npm ci, npm pack in a clone), never for an installed tarball, which ships
 * its binaries. A binary that loads and is newer than the C++ sources is kept; otherwise cmake-js builds one into
 * build/Release. LOWBIT_BUILD_FROM_SOURCE=1 builds in any case, LOWBIT_JOBS sets the number of compiler processes.
 */
'use strict';
const { spawnSync } = require('node:child_process');
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');

const root = path.join(__dirname, '..');

function fail(message) {
  console.error(`lowbit: ${message}`);
  process.exit(1);
}

/** Runs a JavaScript program of a development dependency; its failure is ours. */
function runTool(name, file, args) {
  let program;
  try {
    program = path.join(path.dirname(require.resolve(`${name}/package.json`, { paths: [root] })), file);
  } catch {
    fail(`the development dependency ${name} is missing; run npm install without --omit=dev`);
  }
  const { status } = spawnSync(process.execPath, [program, ...args], { stdio: 'inherit', cwd: root });
  if (status !== 0) process.exit(status ?? 1);
}

/** Latest modification among the native sources, in ms. */
function newestSource(paths) {
  let newest = 0;
  for (const entry of paths) {
    const stat = fs.statSync(entry, { throwIfNoEntry: false });
    if (!stat) continue;
    newest = Math.max(
      newest,
      stat.isDirectory() ? newestSource(fs.readdirSync(entry).map((name) => path.join(entry, name))) : stat.mtimeMs,
    );
  }
  return newest;
}

/** The binary that lib/native.ts would load, tried in a process of its own: a broken one may crash. */
function findBinary() {
  let file;
  try {
    file = require('node-gyp-build').resolve(root);
  } catch {
    return undefined;
  }
  const trial = spawnSync(process.execPath, ['-e', 'require(process.argv[1])', file], { encoding: 'utf8' });
  if (trial.status === 0) return file;
  const reason = trial.stderr.split('\n').find((line) => /Error/.test(line)) ?? `exit status ${trial.status ?? trial.signal}`;
  console.log(`lowbit: ${path.relative(root, file)} does not load here (${reason.trim()})`);
  return undefined;
}

function works(program) {
  return spawnSync(program, ['--version'], { stdio: 'ignore', shell: process.platform === 'win32' }).status === 0;
}

/** What is missing for a source build, in words; empty when nothing is. */
function missingTools() {
  const missing = [];
  if (!works('cmake')) missing.push('cmake 3.21 or newer');
  const compilers = process.env.CXX ? [process.env.CXX] : ['c++', 'g++', 'clang++'];
  if (!compilers.some(works)) missing.push('a C++20 compiler (g++ 11 or newer, or clang++ 14 or newer)');
  if (process.platform !== 'win32' && !works('ninja') && !works('make')) missing.push('ninja or make');
  return missing;
}

// tsc leaves the output of renamed sources behind.
fs.rmSync(path.join(root, 'dist'), { recursive: true, force: true });
runTool('typescript', 'bin/tsc', ['-p', '.']);

const binary = findBinary();
const sources = ['CMakeLists.txt', 'cpp', 'binding', 'cmake'].map((name) => path.join(root, name));
const current = binary !== undefined && fs.statSync(binary).mtimeMs >= newestSource(sources);
if (current && process.env.LOWBIT_BUILD_FROM_SOURCE !== '1') {
  console.log(`lowbit: using ${path.relative(root, binary)}`);
  process.exit(0);
}

const missing = missingTools();
if (missing.length > 0) {
  if (binary !== undefined && process.env.LOWBIT_BUILD_FROM_SOURCE !== '1') {
    console.warn(
      `lowbit: using ${path.relative(root, binary)}, which is older than the sources; to rebuild it install ${missing.join(' and ')}`,
    );
    process.exit(0);
  }
  fail(
    `no native binary for ${process.platform}-${process.arch} is here, and building one from source needs ${missing.join(' and ')}.\n` +
      '  Debian, Ubuntu: sudo apt-get install g++ cmake ninja-build\n' +
      '  Fedora:         sudo dnf install gcc-c++ cmake ninja-build\n' +
      '  macOS:          xcode-select --install; brew install cmake\n' +
      'Then run npm install again.',
  );
}
console.log('lowbit: building the engine from source (about a minute)');
const jobs = process.env.LOWBIT_JOBS ?? String(os.availableParallelism());
const build = path.join(root, 'build');
const configured = ['build.ninja', 'Makefile'].some((name) => fs.existsSync(path.join(build, name)));
const command = configured && process.env.LOWBIT_BUILD_FROM_SOURCE !== '1' ? 'build' : 'rebuild';
runTool('cmake-js', 'bin/cmake-js', [command, '-d', root, '--parallel', jobs]);
if (findBinary() === undefined) fail('the engine was built but does not load; see the message above');
