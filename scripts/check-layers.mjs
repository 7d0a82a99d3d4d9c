/**
 * npm run check:layers: who may include whom, as docs/architecture.md says, for cpp/, binding/ and lib/.
 *
 * A room is a folder (or, in lib/, a top-level file). `uses` lists the rooms it may use directly; in cpp/ it may also use
 * whatever those use. In lib/ `types` lists rooms of which only types may be imported. `packages` says which room owns which
 * outside dependency. `--self-test` plants one violation of each rule in a temporary tree and fails unless all are found.
 */
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import process from 'node:process';
import { fileURLToPath } from 'node:url';
import ts from 'typescript';

const cppRooms = {
  binding: { uses: ['engine'] },
  engine: { uses: ['plan', 'quantize', 'allocate'] },
  allocate: { uses: ['base'] },
  plan: { uses: ['cache'] },
  quantize: { uses: ['solve'] },
  solve: { uses: ['kernel'] },
  cache: { uses: ['kernel'] },
  kernel: { uses: ['part'] },
  part: { uses: ['tensor'] },
  tensor: { uses: ['base'] },
  base: { uses: [] },
};
/** Headers of one instruction set stay inside kernel/: everyone else goes through the chooser's table. */
const privateFolders = [
  'kernel/ref/',
  'kernel/simd/',
  'kernel/avx2/',
  'kernel/avxvnni/',
  'kernel/avx512/',
  'kernel/avx512bf16/',
  'kernel/amx/',
  'kernel/neon/',
  'kernel/neon_i8mm/',
];
const cppPackages = { 'napi.h': ['binding'], 'node_api.h': ['binding'], 'uv.h': ['binding'] };

const user = ['models', 'tokenizer', 'checkpoint', 'hub', 'native', 'errors', 'options', 'model'];
const libRooms = {
  cli: { uses: ['index', 'errors', 'options', 'units'] },
  index: {
    uses: ['model', 'quantize', 'generate', 'chat', 'evaluate', 'checkpoint', 'hub', 'report', 'errors', 'native'],
    types: ['graph', 'models', 'tokenizer'],
  },
  esm: { uses: ['index'] },
  model: { uses: ['models', 'tokenizer', 'checkpoint', 'hub', 'native', 'generate', 'errors', 'options'], types: ['graph'] },
  quantize: { uses: [...user, 'report', 'units'], types: ['graph'] },
  report: { uses: ['errors', 'units'] },
  evaluate: { uses: [...user, 'generate'] },
  generate: { uses: user.filter((room) => room !== 'model') },
  chat: { uses: ['generate', 'tokenizer', 'errors', 'options'], types: ['model'] },
  models: { uses: ['graph', 'checkpoint', 'errors'] },
  tokenizer: { uses: ['errors', 'options'], types: ['checkpoint'] },
  graph: { uses: ['errors'], types: ['checkpoint'] },
  checkpoint: { uses: ['errors', 'options'] },
  hub: { uses: ['checkpoint', 'errors', 'options'] },
  native: { uses: ['errors'], types: ['graph', 'checkpoint'] },
  options: { uses: ['errors'] },
  units: { uses: [] },
  errors: { uses: [] },
};
const libPackages = {
  '@huggingface/tokenizers': ['tokenizer'],
  '@huggingface/jinja': ['tokenizer', 'chat'],
  '@huggingface/hub': ['hub'],
  'node-gyp-build': ['native'],
  commander: ['cli'],
  'cli-progress': ['cli'],
  'cli-table3': ['cli'],
};

/** Files under a folder whose name ends so, as '/'-separated paths relative to root. */
function filesUnder(root, folder, pattern) {
  const entries = readdirSync(path.join(root, folder), { recursive: true, withFileTypes: true });
  return entries
    .filter((entry) => entry.isFile() && pattern.test(entry.name))
    .map((entry) =>
      path
        .relative(root, path.join(entry.parentPath ?? entry.path, entry.name))
        .split(path.sep)
        .join('/'),
    )
    .sort();
}

/** All rooms that can be reached over `uses`. */
function closure(rooms, room, found = new Set()) {
  for (const next of rooms[room].uses) {
    if (found.has(next)) continue;
    found.add(next);
    closure(rooms, next, found);
  }
  return found;
}

function checkCpp(root, report) {
  const files = ['binding', 'cpp'].flatMap((folder) => filesUnder(root, folder, /\.(cc|h|def|inc)$/));
  for (const file of files) {
    const inner = file.replace(/^cpp\//, '');
    const room = inner.split('/')[0];
    if (!cppRooms[room] || !inner.includes('/')) {
      report(file, 1, `belongs to no room; rooms are ${Object.keys(cppRooms).join(', ')}`);
      continue;
    }
    const allowed = closure(cppRooms, room);
    const lines = readFileSync(path.join(root, file), 'utf8').split('\n');
    lines.forEach((line, index) => {
      const match = /^\s*#\s*include\s*([<"])([^">]+)[">]/.exec(line);
      if (!match) return;
      const [, quote, header] = match;
      const owners = cppPackages[header];
      if (owners && !owners.includes(room))
        report(file, index + 1, `${header} belongs to ${owners.join(', ')}; ${room} may not include it`);
      if (quote === '<') return;
      if (header.startsWith('.')) return report(file, index + 1, `"${header}": include by the path from cpp/, not relative to this file`);
      const target = header.startsWith('binding/') ? 'binding' : header.split('/')[0];
      if (!header.includes('/')) {
        if (room !== 'binding') report(file, index + 1, `"${header}": include by the path from cpp/, as in "${room}/${header}"`);
        return;
      }
      if (!cppRooms[target]) return report(file, index + 1, `"${header}" is in no room`);
      if (target !== room && !allowed.has(target)) {
        report(file, index + 1, `${room} may not include ${target}; it may use ${[...allowed].join(', ') || 'no other room'}`);
      }
      if (room !== 'kernel' && privateFolders.some((folder) => header.startsWith(folder))) {
        report(file, index + 1, `"${header}" is private to kernel; use kernel/chooser.h`);
      }
    });
  }
  return files.length;
}

/** Every import of a TypeScript file: module name, line, and whether only types cross. */
function importsOf(source) {
  const found = [];
  const add = (node, specifier, typeOnly) =>
    found.push({ name: specifier.text, line: source.getLineAndCharacterOfPosition(node.getStart(source)).line + 1, typeOnly });
  const onlyTypes = (clause) =>
    clause !== undefined &&
    (clause.isTypeOnly ||
      (!clause.name && clause.namedBindings?.elements?.length > 0 && clause.namedBindings.elements.every((element) => element.isTypeOnly)));
  const visit = (node) => {
    if (ts.isImportDeclaration(node)) add(node, node.moduleSpecifier, onlyTypes(node.importClause));
    else if (ts.isExportDeclaration(node) && node.moduleSpecifier) {
      const elements = node.exportClause?.elements;
      add(node, node.moduleSpecifier, node.isTypeOnly || (elements?.length > 0 && elements.every((element) => element.isTypeOnly)));
    } else if (ts.isImportTypeNode(node) && ts.isLiteralTypeNode(node.argument)) add(node, node.argument.literal, true);
    else if (ts.isCallExpression(node) && node.arguments.length > 0 && ts.isStringLiteralLike(node.arguments[0])) {
      const isRequire = ts.isIdentifier(node.expression) && node.expression.text === 'require';
      if (isRequire || node.expression.kind === ts.SyntaxKind.ImportKeyword) add(node, node.arguments[0], false);
    }
    ts.forEachChild(node, visit);
  };
  visit(source);
  return found;
}

function checkLib(root, report) {
  const files = filesUnder(root, 'lib', /\.m?ts$/);
  const roomOf = (file) => file.split('/')[1].replace(/\.m?[tj]s$/, '');
  for (const file of files) {
    const room = roomOf(file);
    const rules = libRooms[room];
    if (!rules) {
      report(file, 1, `belongs to no room; rooms are ${Object.keys(libRooms).join(', ')}`);
      continue;
    }
    const source = ts.createSourceFile(file, readFileSync(path.join(root, file), 'utf8'), ts.ScriptTarget.ES2022, true);
    for (const { name, line, typeOnly } of importsOf(source)) {
      if (name.startsWith('node:')) continue;
      if (!name.startsWith('.')) {
        const owners = libPackages[name];
        if (!owners) report(file, line, `'${name}' is not a dependency that check-layers.mjs knows`);
        else if (!owners.includes(room)) report(file, line, `'${name}' belongs to ${owners.join(', ')}; ${room} may not import it`);
        continue;
      }
      const resolved = path.posix.join(path.posix.dirname(file), name);
      if (!resolved.startsWith('lib/')) {
        if (resolved !== 'package.json') report(file, line, `'${name}' leaves lib/`);
        continue;
      }
      const target = roomOf(resolved);
      if (target === room || rules.uses.includes(target)) continue;
      if (rules.types?.includes(target)) {
        if (!typeOnly) report(file, line, `${room} may import only types of ${target}; write 'import type'`);
        continue;
      }
      report(file, line, `${room} may not import ${target}; it may use ${rules.uses.join(', ') || 'no other room'}`);
    }
  }
  return files.length;
}

/** Findings ("file:line: rule") and the number of files looked at. */
function check(root) {
  const findings = [];
  const report = (file, line, rule) => void findings.push(`${file}:${line}: ${rule}`);
  const files = checkCpp(root, report) + checkLib(root, report);
  return { findings, files };
}

function selfTest() {
  const cases = [
    ['cpp/base/a.cc', '\n#include "engine/model.h"\n', 'cpp/base/a.cc:2: base may not include engine'],
    ['cpp/cache/b.h', '#include "solve/cholesky.h"\n', 'cpp/cache/b.h:1: cache may not include solve'],
    ['cpp/plan/c.cc', '#include "kernel/avx2/x.h"\n', 'cpp/plan/c.cc:1: "kernel/avx2/x.h" is private to kernel'],
    ['cpp/engine/d.cc', '#include <napi.h>\n', 'cpp/engine/d.cc:1: napi.h belongs to binding'],
    ['cpp/solve/e.cc', '#include "../base/status.h"\n', 'cpp/solve/e.cc:1: "../base/status.h": include by the path'],
    ['cpp/stray/f.cc', '', 'cpp/stray/f.cc:1: belongs to no room'],
    ['binding/g.cc', '#include "base/status.h"\n#include "engine/model.h"\n', null],
    ['lib/models/a.ts', "\n\nimport { native } from '../native';\n", 'lib/models/a.ts:3: models may not import native'],
    ['lib/native.ts', "import { read } from './checkpoint';\n", 'lib/native.ts:1: native may import only types of checkpoint'],
    ['lib/graph/b.ts', "import { type T } from '../checkpoint/types';\nexport type { U } from '../checkpoint/types';\n", null],
    ['lib/chat/c.ts', "import { Command } from 'commander';\n", "lib/chat/c.ts:1: 'commander' belongs to cli"],
    ['lib/evaluate/d.ts', "export const load = () => import('../chat');\n", 'lib/evaluate/d.ts:1: evaluate may not import chat'],
    ['lib/graph/e.ts', "const x = require('left-pad');\n", "lib/graph/e.ts:1: 'left-pad' is not a dependency"],
    ['lib/checkpoint/g.ts', "import { pull } from '../hub';\n", 'lib/checkpoint/g.ts:1: checkpoint may not import hub'],
    ['lib/helpers/f.ts', '', 'lib/helpers/f.ts:1: belongs to no room'],
  ];
  const root = mkdtempSync(path.join(os.tmpdir(), 'lowbit-layers-'));
  try {
    for (const [file, text] of cases) {
      mkdirSync(path.dirname(path.join(root, file)), { recursive: true });
      writeFileSync(path.join(root, file), text);
    }
    const { findings } = check(root);
    const problems = [];
    for (const [file, , expected] of cases) {
      const own = findings.filter((finding) => finding.startsWith(`${file}:`));
      if (own.length !== (expected === null ? 0 : 1) || (expected !== null && !own[0].startsWith(expected))) {
        problems.push(`${file}: expected ${expected ?? 'no finding'}, found ${own.join(' | ') || 'none'}`);
      }
    }
    return problems;
  } finally {
    rmSync(root, { recursive: true, force: true });
  }
}

if (process.argv.includes('--self-test')) {
  const problems = selfTest();
  for (const problem of problems) console.error(problem);
  console.log(problems.length === 0 ? 'check-layers: every planted violation was found' : 'check-layers: the check itself is broken');
  process.exit(problems.length === 0 ? 0 : 1);
}
const { findings, files } = check(path.join(path.dirname(fileURLToPath(import.meta.url)), '..'));
for (const finding of findings) console.error(finding);
console.log(`check-layers: ${files} files, ${findings.length} violations`);
process.exit(findings.length === 0 && files > 0 ? 0 : 1);
