/**
 * npm run prebuild [-- <platform>...]: release binaries in prebuilds/, built with zig c++ against an old glibc.
 *
 * Platforms: linux-x64 linux-arm64 linux-x64-musl win32-x64 darwin-arm64; default: this machine's. zig is the program in
 * LOWBIT_ZIG, or that of the PyPI package ziglang importable by python3 (`pip install ziglang==0.17.1`). Without zig the plain
 * compiler builds for this machine only, and the result needs this machine's glibc: good for a test, not for a release.
 * zig compiles its C++ library on first use (minutes) and caches it.
 */
import { spawnSync } from 'node:child_process';
import { rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';
import process from 'node:process';
import { fileURLToPath } from 'node:url';

const root = path.join(path.dirname(fileURLToPath(import.meta.url)), '..');
const require = createRequire(import.meta.url);

// glibc 2.28 is what node 20 itself needs.
const targets = {
  'linux-x64': { zig: 'x86_64-linux-gnu.2.28', platform: 'linux', arch: 'x64', libc: 'glibc' },
  'linux-arm64': { zig: 'aarch64-linux-gnu.2.28', platform: 'linux', arch: 'arm64', libc: 'glibc' },
  'linux-x64-musl': { zig: 'x86_64-linux-musl', platform: 'linux', arch: 'x64', libc: 'musl' },
  'win32-x64': { zig: 'x86_64-windows-gnu', platform: 'win32', arch: 'x64' },
  'darwin-arm64': { zig: 'aarch64-macos.12.0', platform: 'darwin', arch: 'arm64' },
};

function findZig() {
  const asked = process.env.LOWBIT_ZIG;
  const script = 'import ziglang, os; print(os.path.join(os.path.dirname(ziglang.__file__), "zig"))';
  const program = asked || spawnSync('python3', ['-c', script], { encoding: 'utf8' }).stdout?.trim();
  if (!program) return undefined;
  if (spawnSync(program, ['version']).status === 0) return program;
  throw new Error(`Expected a zig program for LOWBIT_ZIG but ${program} does not run`);
}

function prebuild(name, target, zig) {
  console.log(`prebuild: ${name} with ${zig ? `zig for ${target.zig}` : 'the plain compiler'}`);
  const env = { ...process.env };
  if (zig) Object.assign(env, { LOWBIT_ZIG: zig, LOWBIT_ZIG_TARGET: target.zig });
  const options = [
    '--napi',
    '--node-gyp',
    path.join(root, 'scripts', 'prebuildify-cmake.cjs'),
    '--platform',
    target.platform,
    '--arch',
    target.arch,
  ];
  if (target.libc) options.push('--tag-libc', '--libc', target.libc);
  const { status } = spawnSync(process.execPath, [require.resolve('prebuildify/bin.js'), ...options], { stdio: 'inherit', cwd: root, env });
  // The tree is configured for another compiler or platform now: nothing of it may leak into the next local build.
  rmSync(path.join(root, 'build'), { recursive: true, force: true });
  return status === 0;
}

function main() {
  const host = `${process.platform}-${process.arch}`;
  const names = process.argv.length > 2 ? process.argv.slice(2) : [host];
  const unknown = names.filter((name) => !targets[name]);
  if (unknown.length > 0) throw new Error(`Expected one of ${Object.keys(targets).join(', ')} but received ${unknown.join(', ')}`);
  const zig = findZig();
  if (!zig && names.some((name) => name !== host))
    throw new Error('another platform needs zig: pip install ziglang==0.17.1, or set LOWBIT_ZIG');
  if (!zig) console.warn("prebuild: WARNING: zig was not found; the binary's glibc floor is that of this machine");
  const failed = names.filter((name) => !prebuild(name, targets[name], zig));
  if (failed.length > 0) throw new Error(`failed for ${failed.join(', ')}`);
}

try {
  main();
} catch (error) {
  console.error(`prebuild: ${error.message}`);
  process.exitCode = 1;
}
