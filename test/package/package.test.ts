/** package.json says what is true: its files exist, its dependencies are used, and a source build explains what it lacks. */
import { spawnSync } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';

const root = path.join(__dirname, '..', '..');

interface Manifest {
  readonly files: readonly string[];
  readonly scripts: Readonly<Record<string, string>>;
  readonly dependencies: Readonly<Record<string, string>>;
  readonly exports: Readonly<Record<string, unknown>>;
  readonly bin: Readonly<Record<string, string>>;
  readonly main: string;
}
const manifest = JSON.parse(readFileSync(path.join(root, 'package.json'), 'utf8')) as Manifest;

/** Every string in a JSON value. */
const stringsIn = (value: unknown): string[] =>
  typeof value === 'string' ? [value] : typeof value === 'object' && value !== null ? Object.values(value).flatMap(stringsIn) : [];

test('every entry point has a source', () => {
  const entries = [...stringsIn(manifest.exports), ...Object.values(manifest.bin), manifest.main].filter((entry) =>
    entry.startsWith('./dist/'),
  );
  expect(entries.length).toBeGreaterThan(4);
  for (const entry of entries) {
    const source = entry.replace('./dist/', 'lib/').replace(/(\.d)?\.(m?)[jt]s$/, '.$2ts');
    expect([entry, existsSync(path.join(root, source))]).toEqual([entry, true]);
  }
  expect(readFileSync(path.join(root, 'lib/cli/main.ts'), 'utf8')).toMatch(/^#!\/usr\/bin\/env node\n/);
});

test('every listed file exists unless it is built', () => {
  const missing = manifest.files.filter((file) => !['dist', 'prebuilds'].includes(file) && !existsSync(path.join(root, file)));
  expect(missing).toEqual([]);
});

test('every script of the manifest that names a file names one that exists', () => {
  const named = Object.values(manifest.scripts).flatMap((line) => line.match(/scripts\/[\w.-]+/g) ?? []);
  expect(named.filter((file) => !existsSync(path.join(root, file)))).toEqual([]);
});

test('nothing runs when the package is installed', () => {
  expect(Object.keys(manifest.scripts).filter((name) => /^(pre|post)?install$/.test(name))).toEqual([]);
});

test('every dependency is imported by lib/', () => {
  const sources = readdirSync(path.join(root, 'lib'), { recursive: true, encoding: 'utf8' })
    .filter((file) => /\.m?ts$/.test(file))
    .map((file) => readFileSync(path.join(root, 'lib', file), 'utf8'));
  const unused = Object.keys(manifest.dependencies).filter((name) => !sources.some((text) => text.includes(`'${name}'`)));
  expect(unused).toEqual([]);
});

const testOnUnix = process.platform === 'win32' ? test.skip : test;

describe('prepare', () => {
  let scratch: string;
  let env: NodeJS.ProcessEnv;
  beforeEach(() => {
    scratch = mkdtempSync(path.join(os.tmpdir(), 'lowbit-prepare-'));
    for (const folder of ['lib', 'bin', 'cpp', 'scripts']) mkdirSync(path.join(scratch, folder));
    for (const file of ['package.json', 'tsconfig.json', 'scripts/prepare.cjs']) cpSync(path.join(root, file), path.join(scratch, file));
    writeFileSync(path.join(scratch, 'lib', 'index.ts'), 'export const answer = 42;\n');
    symlinkSync(path.join(root, 'node_modules'), path.join(scratch, 'node_modules'));
    symlinkSync(process.execPath, path.join(scratch, 'bin', 'node'));
    const ignored = ['CXX', 'LOWBIT_BUILD_FROM_SOURCE', 'LOWBIT_PREBUILD', 'PREBUILDS_ONLY'];
    env = Object.fromEntries(Object.entries(process.env).filter(([name]) => !ignored.includes(name)));
    env['PATH'] = path.join(scratch, 'bin');
  });
  afterEach(() => rmSync(scratch, { recursive: true, force: true }));

  const prepare = () => spawnSync(process.execPath, [path.join(scratch, 'scripts', 'prepare.cjs')], { encoding: 'utf8', env });

  testOnUnix('compiles TypeScript, then names what a source build lacks', () => {
    const { status, stderr } = prepare();
    expect(status).toBe(1);
    expect(stderr).toMatch(/no native binary for \S+ is here, .* needs cmake 3\.21 or newer and a C\+\+20 compiler .* and ninja or make/);
    expect(stderr).toMatch(/sudo apt-get install g\+\+ cmake ninja-build/);
    expect(existsSync(path.join(scratch, 'dist', 'index.js'))).toBe(true);
  });

  testOnUnix('does not take a binary that does not load', () => {
    mkdirSync(path.join(scratch, 'build', 'Release'), { recursive: true });
    writeFileSync(path.join(scratch, 'build', 'Release', 'lowbit.node'), 'not a binary');
    const { status, stdout, stderr } = prepare();
    expect(status).toBe(1);
    expect(stdout).toMatch(/build\/Release\/lowbit\.node does not load here/);
    expect(stderr).toMatch(/no native binary/);
  });

  testOnUnix('compilation errors end it', () => {
    writeFileSync(path.join(scratch, 'lib', 'index.ts'), 'export const answer: string = 42;\n');
    const { status, stdout } = prepare();
    expect(status).not.toBe(0);
    expect(stdout).toMatch(/lib\/index\.ts.*TS2322/);
  });
});
