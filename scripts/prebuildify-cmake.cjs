#!/usr/bin/env node
/**
 * What prebuildify calls instead of node-gyp: `rebuild --target=V --devdir=D --arch=A --release`. Builds with cmake-js into
 * build/Release; of the arguments only the architecture counts, Node-API needs no headers of a certain node version.
 * Environment: LOWBIT_ZIG_TARGET builds with zig (see scripts/prebuild.mjs), LOWBIT_JOBS sets the number of compilers.
 */
'use strict';
const { spawnSync } = require('node:child_process');
const os = require('node:os');
const path = require('node:path');

const root = path.join(__dirname, '..');
const architecture = process.argv.find((argument) => argument.startsWith('--arch='))?.slice('--arch='.length) ?? process.arch;
const options = ['rebuild', '-d', root, '--arch', architecture, '--parallel', process.env.LOWBIT_JOBS ?? String(os.availableParallelism())];
options.push('--CDLOWBIT_STRIP=ON');
if (process.env.LOWBIT_ZIG_TARGET) options.push(`--CDCMAKE_TOOLCHAIN_FILE=${path.join(root, 'cmake', 'toolchains', 'zig.cmake')}`);
const { status } = spawnSync(process.execPath, [require.resolve('cmake-js/bin/cmake-js'), ...options], { stdio: 'inherit', cwd: root });
process.exit(status ?? 1);
