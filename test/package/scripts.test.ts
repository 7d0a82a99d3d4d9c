/** The project's own checks are tested: each finds what it is for, and what CI counts is what ran. */
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { gunzipSync } from 'node:zlib';

const root = path.join(__dirname, '..', '..');
const compiler = process.env['CXX'] ?? 'c++';
const hasCompiler = spawnSync(compiler, ['--version']).status === 0 && spawnSync('nm', ['--version']).status === 0;
const testWithCompiler = hasCompiler ? test : test.skip;

function runScript(name: string, args: readonly string[] = [], env: Record<string, string> = {}) {
  const { status, stdout, stderr } = spawnSync(process.execPath, [path.join(root, 'scripts', name), ...args], {
    encoding: 'utf8',
    env: { ...process.env, ...env },
  });
  return { status, stdout, stderr };
}

let scratch: string;
beforeEach(() => {
  scratch = mkdtempSync(path.join(os.tmpdir(), 'lowbit-scripts-'));
});
afterEach(() => rmSync(scratch, { recursive: true, force: true }));

test('check-layers finds planted violations', () => {
  expect(runScript('check-layers.mjs', ['--self-test'])).toMatchObject({ status: 0, stderr: '' });
});

test('check-banned finds planted violations', () => {
  expect(runScript('check-banned.mjs', ['--self-test'])).toMatchObject({ status: 0, stderr: '' });
});

testWithCompiler('check-weak-symbols finds planted violations, and no object is a failure', () => {
  expect(runScript('check-weak-symbols.mjs', ['--self-test'])).toMatchObject({ status: 0, stderr: '' });
  if (process.arch === 'x64') expect(runScript('check-weak-symbols.mjs', [scratch]).status).toBe(1);
});

test('the room rules hold', () => {
  expect(runScript('check-layers.mjs')).toMatchObject({ status: 0, stderr: '' });
});

describe('ci-counts', () => {
  const counts = (lines: readonly { name: string; status: string }[]) => {
    const file = path.join(scratch, 'counts.jsonl');
    writeFileSync(file, lines.map((line) => `${JSON.stringify(line)}\n`).join(''));
    const { status, stdout } = runScript('ci-counts.mjs', [file]);
    return { status, last: stdout.trimEnd().split('\n').at(-1), stdout };
  };

  test('a test counts once: failed over passed over skipped', () => {
    const passing = [
      { name: 'a', status: 'skipped' },
      { name: 'a', status: 'passed' },
      { name: 'b', status: 'skipped' },
    ];
    expect(counts(passing)).toMatchObject({ status: 0, last: '1 passed, 0 failed, 1 skipped' });
    expect(counts([...passing, { name: 'a', status: 'failed' }, { name: 'a', status: 'passed' }])).toMatchObject({
      status: 1,
      last: '0 passed, 1 failed, 1 skipped',
    });
  });

  test('a test that says why it is skipped is the same test when it runs', () => {
    const lines = [
      { name: 'a (skipped: no model) b', status: 'skipped' },
      { name: 'a b', status: 'passed' },
    ];
    expect(counts(lines)).toMatchObject({ status: 0, last: '1 passed, 0 failed, 0 skipped' });
  });

  test('nothing tested is a failure', () => {
    expect(counts([])).toMatchObject({ status: 1, last: '0 passed, 0 failed, 0 skipped' });
  });

  test('native output: verdicts are read, and an early end is a failure', () => {
    const log = path.join(scratch, 'native.txt');
    const native = (text: string) => {
      writeFileSync(log, text);
      return runScript('ci-counts.mjs', ['--native', log])
        .stdout.split('\n')
        .filter(Boolean)
        .map((line) => JSON.parse(line) as unknown);
    };
    const one = 'ok     first\n  FAILED somewhere.cc:3: x\nFAILED second\n';
    const verdicts = [
      { name: 'native: first', status: 'passed' },
      { name: 'native: second', status: 'failed' },
    ];
    expect(native(`${one}native: 1 passed, 1 failed\n`)).toEqual(verdicts);
    expect(native(one)).toEqual([...verdicts, { name: 'native: the run ended early', status: 'failed' }]);
  });
});

test('the jest reporter names skipped tests, counts broken files as failed and appends to LOWBIT_COUNTS', () => {
  const file = path.join(scratch, 'counts.jsonl');
  const program = `
    const Counts = require(${JSON.stringify(path.join(root, 'scripts', 'jest-counts.cjs'))});
    new Counts({ rootDir: '/r' }).onRunComplete(new Set(), { testResults: [
      { testFilePath: '/r/test/a.test.ts', testResults: [
        { status: 'passed', fullName: 'one' }, { status: 'failed', fullName: 'two' }, { status: 'pending', fullName: 'three' }, { status: 'todo', fullName: 'four' } ] },
      { testFilePath: '/r/test/b.test.ts', testExecError: new Error('x'), testResults: [] } ] });`;
  const { stdout } = spawnSync(process.execPath, ['-e', program], { encoding: 'utf8', env: { ...process.env, LOWBIT_COUNTS: file } });
  expect(stdout).toContain('  test/a.test.ts: three\n  test/a.test.ts: four\n');
  expect(stdout).toContain('jest: 1 passed, 2 failed, 2 skipped');
  expect(readFileSync(file, 'utf8').trimEnd().split('\n')).toHaveLength(5);
});

describe('fetch-smollm2', () => {
  test('says what is missing, and leaves nothing behind', () => {
    const { status, stderr } = runScript('fetch-smollm2.mjs', [], {
      LOWBIT_MODELS: scratch,
      LOWBIT_PYTHON: path.join(scratch, 'no-python'),
    });
    expect(status).toBe(1);
    expect(stderr).toMatch(/no-python does not start .* python3 with pip and venv is needed/);
    expect(readdirSync(scratch)).toEqual([]);
  });

  test('the tokenizer in the fixtures is the published one', () => {
    const text = gunzipSync(readFileSync(path.join(root, 'test', 'fixtures', 'smollm2', 'tokenizer.json.gz')));
    expect(createHash('sha256').update(text).digest('hex')).toBe('bf346d64f6f0fbcefb4c1b6928a98241467dff36c6fbae5fe1785c4ff90667f4');
  });
});

test('prebuild refuses an unknown platform and lists the known ones', () => {
  const { status, stderr } = runScript('prebuild.mjs', ['plan9-mips'], { LOWBIT_ZIG: process.execPath });
  expect(status).toBe(1);
  expect(stderr).toMatch(/Expected one of linux-x64, .* but received plan9-mips/);
});
