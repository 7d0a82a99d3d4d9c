/**
 * npm run check:weak [-- <build folder>...]: what an instruction-set object may not contain. Default folder: build.
 *
 * Kernels for AVX2, AVX-VNNI and AVX-512 are compiled with -m options the rest must not see. A weak symbol in such an object (an inline
 * function of a std:: header) could be the copy the linker keeps for the whole program, and an initialiser would run at load:
 * both end in SIGILL on older processors. Reads `nm` of every object of the targets lowbit_avx2, lowbit_avxvnni and lowbit_avx512; finding no
 * object is a failure on x86-64. `--self-test` compiles a planted object of each kind and fails unless both are found.
 */
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import process from 'node:process';
import { fileURLToPath } from 'node:url';

function objectsUnder(folder) {
  if (!existsSync(folder)) return [];
  return readdirSync(folder, { recursive: true })
    .map((name) => path.join(folder, name))
    .filter((name) => /lowbit_(avx2|avxvnni|avx512)\.dir[\\/].*\.o(bj)?$/.test(name));
}

/** Findings of one object file. */
function check(object) {
  const nm = spawnSync('nm', [object], { encoding: 'utf8', maxBuffer: 1 << 26 });
  if (nm.status !== 0) throw new Error(`nm ${object} failed: ${nm.error?.message ?? nm.stderr}`);
  const findings = [];
  for (const line of nm.stdout.split('\n')) {
    const match = /^[0-9a-f ]*([A-Za-z]) (.+)$/.exec(line);
    if (!match) continue;
    const [, type, symbol] = match;
    if ('WVu'.includes(type)) findings.push(`${object}: weak symbol ${symbol} (${type})`);
    if (/^_?_GLOBAL__sub_I_/.test(symbol)) findings.push(`${object}: ${symbol} runs at load`);
  }
  return findings;
}

function selfTest() {
  const root = mkdtempSync(path.join(os.tmpdir(), 'lowbit-weak-'));
  const folder = path.join(root, 'CMakeFiles', 'lowbit_avx2.dir');
  mkdirSync(folder, { recursive: true });
  const compiler = process.env.CXX ?? 'c++';
  const cases = [
    ['weak', '#include <vector>\nint f(int n) { std::vector<int> v; v.push_back(n); return v[0]; }', /weak symbol/],
    ['initialiser', 'int g(); static int now = g(); int h() { return now; }', /runs at load/],
    ['clean', 'namespace { int twice(int n) { return 2 * n; } } int f(int n) { return twice(n); }', null],
  ];
  try {
    return cases.flatMap(([name, text, expected]) => {
      const source = path.join(root, `${name}.cc`);
      const object = path.join(folder, `${name}.o`);
      writeFileSync(source, text);
      const { status, error, stderr } = spawnSync(compiler, ['-O0', '-c', source, '-o', object], { encoding: 'utf8' });
      if (status !== 0) return [`${compiler} failed: ${error?.message ?? stderr}`];
      const findings = objectsUnder(root)
        .filter((found) => found === object)
        .flatMap(check);
      const ok = expected === null ? findings.length === 0 : findings.some((finding) => expected.test(finding));
      return ok ? [] : [`${name}: ${findings.join(' | ') || 'nothing found'}`];
    });
  } finally {
    rmSync(root, { recursive: true, force: true });
  }
}

if (process.argv.includes('--self-test')) {
  const problems = selfTest();
  for (const problem of problems) console.error(problem);
  console.log(
    problems.length === 0 ? 'check-weak-symbols: every planted violation was found' : 'check-weak-symbols: the check itself is broken',
  );
  process.exit(problems.length === 0 ? 0 : 1);
}
const folders = process.argv.slice(2);
if (folders.length === 0) folders.push(path.join(path.dirname(fileURLToPath(import.meta.url)), '..', 'build'));
const objects = folders.flatMap(objectsUnder);
const findings = objects.flatMap(check);
for (const finding of findings) console.error(finding);
console.log(`check-weak-symbols: ${objects.length} objects, ${findings.length} findings`);
process.exit(findings.length === 0 && (objects.length > 0 || process.arch !== 'x64') ? 0 : 1);
