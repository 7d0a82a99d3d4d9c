/**
 * clang-format over the C++ sources (style: .clang-format); part of `npm run format`, and with --check of `npm run lint`.
 *
 * Versions of clang-format disagree, so one is pinned: `pip install clang-format==23.1.5`. It is taken from
 * LOWBIT_CLANG_FORMAT or the PATH. Where that version is absent the check is left out with a message; in CI (env CI) it fails.
 */
import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync } from 'node:fs';
import path from 'node:path';
import process from 'node:process';
import { fileURLToPath } from 'node:url';

const version = '23.1.5';
const root = path.join(path.dirname(fileURLToPath(import.meta.url)), '..');
const program = process.env.LOWBIT_CLANG_FORMAT ?? 'clang-format';
const check = process.argv.includes('--check');

const found = spawnSync(program, ['--version'], { encoding: 'utf8' }).stdout?.match(/version (\d+\.\d+\.\d+)/)?.[1];
if (found !== version) {
  console.error(`format-cpp: clang-format ${version} is needed and ${found ?? 'none'} was found; pip install clang-format==${version}`);
  process.exit(process.env.CI ? 1 : 0);
}
const files = ['binding', 'cpp', 'test/native', 'bench/native', 'bench/load']
  .filter((folder) => existsSync(path.join(root, folder)))
  .flatMap((folder) => readdirSync(path.join(root, folder), { recursive: true }).map((name) => path.join(folder, name)))
  .filter((name) => /\.(cc|h)$/.test(name));
const { status } = spawnSync(program, [...(check ? ['--dry-run', '--Werror'] : ['-i']), ...files], { stdio: 'inherit', cwd: root });
console.log(
  `format-cpp: ${files.length} files ${status !== 0 ? 'need formatting: npm run format' : check ? 'are formatted' : 'formatted'}`,
);
process.exit(status === 0 && files.length > 0 ? 0 : 1);
