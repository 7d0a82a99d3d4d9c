/**
 * npm run check:banned: calls and words that may not appear.
 *
 * cpp/ and binding/: nothing that ends the process, prints, throws, reads the environment (base/config does) or overruns a
 * buffer. lib/: no printing, exiting or child processes outside cli/, no environment outside cli/ and hub/environment.ts, no network
 * outside hub/. Every text file of the repository: no unfinished-work marks, no paths of somebody's machine; sources stay under 600 lines. Comments and strings of
 * C++ do not count. `--self-test` plants one violation of each rule and fails unless all are found.
 */
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import process from 'node:process';
import { fileURLToPath } from 'node:url';
import ts from 'typescript';

const maxLines = 600;
const maxTextBytes = 4 << 20;

/** A free function called by name: not a member, not part of a longer word. */
const call = (...names) => new RegExp(`(?<![\\w.]|->)(?:std::|::)?\\b(?:${names.join('|')})\\s*\\(`);
const cppRules = [
  {
    pattern: call('abort', 'exit', '_exit', '_Exit', 'quick_exit', 'terminate', 'raise'),
    rule: 'return a Status; engine code never ends the process',
  },
  { pattern: call('assert'), rule: 'return a Status, or use static_assert' },
  {
    pattern: call('printf', 'fprintf', 'vprintf', 'vfprintf', 'puts', 'fputs', 'putchar', 'perror'),
    rule: 'engine code never prints; return a Status or a report',
  },
  { pattern: /\bstd::(cout|cerr|clog)\b/, rule: 'engine code never prints; return a Status or a report' },
  { pattern: call('getenv', 'secure_getenv', '_wgetenv'), rule: 'only base/config reads the environment', except: /^cpp\/base\/config\./ },
  { pattern: /\bthrow\b/, rule: 'return a Status; no exceptions across rooms' },
  {
    pattern: call('gets', 'strcpy', 'strcat', 'sprintf', 'vsprintf', 'strtok', 'atoi', 'atol', 'atof', 'alloca'),
    rule: 'unbounded or unchecked; use the bounded, checked form',
  },
  { pattern: call('rand', 'srand', 'system', 'popen'), rule: 'neither hidden state nor other programs' },
  { pattern: /#\s*pragma\s+(GCC|clang)\s+optimize|__attribute__\s*\(\(\s*optimize/, rule: 'compiler options belong in CMakeLists.txt' },
];
const buildRules = [
  { pattern: /-m(arch|tune|cpu)=nativ[e]/, rule: 'a binary must run on other machines than the one that built it' },
  { pattern: /-ffast-mat[h]|-Ofas[t]|-funsafe-mat[h]/, rule: 'results must not depend on reassociation' },
];
const textRules = [
  { pattern: /\b(T[O]DO|FIX[M]E|X{3}|H[A]CK)\b/, rule: 'finish it or write down what is true now' },
  { pattern: /(?<![\w.)$}\]*-])\/(root|home|work|Users)\/\w/, rule: 'a path of one machine' },
  { pattern: /\b(co-authored-b[y]|generated b[y] an? )/i, rule: 'says nothing about the project' },
];
const network = /^(node:)?(http|https|http2|net|tls|dgram|dns)(\/|$)/;

/** The text with comments and literals blanked, line for line. */
function withoutCommentsAndStrings(text) {
  const token = /\/\/[^\n]*|\/\*[\s\S]*?\*\/|R"([^()\\ ]{0,16})\([\s\S]*?\)\1"|"(?:[^"\\\n]|\\.)*"|(?<![0-9a-fA-F])'(?:[^'\\\n]|\\.)*'/g;
  return text.replace(token, (found) => found.replace(/[^\n]/g, ' '));
}

function scan(file, text, rules, report) {
  text.split('\n').forEach((line, index) => {
    for (const { pattern, rule, except } of rules) {
      const match = except?.test(file) ? null : pattern.exec(line);
      if (match) report(file, index + 1, `"${match[0].trim()}": ${rule}`);
    }
  });
}

function scanTypeScript(file, text, report) {
  const source = ts.createSourceFile(file, text, ts.ScriptTarget.ES2022, true);
  const inCli = file.startsWith('lib/cli/');
  const visit = (node) => {
    const at = source.getLineAndCharacterOfPosition(node.getStart(source)).line + 1;
    if (!inCli && ts.isPropertyAccessExpression(node) && ts.isIdentifier(node.expression)) {
      const owner = node.expression.text;
      if (owner === 'console') report(file, at, `"${node.getText(source)}": only cli/ prints`);
      if (owner === 'process' && ['exit', 'abort', 'stdout', 'stderr', 'chdir'].includes(node.name.text)) {
        report(file, at, `"${node.getText(source)}": only cli/ touches the process`);
      }
      if (owner === 'process' && node.name.text === 'env' && file !== 'lib/hub/environment.ts') {
        report(file, at, `"${node.getText(source)}": only cli/ and hub/environment.ts read the environment`);
      }
    }
    if (ts.isStringLiteralLike(node) && (ts.isImportDeclaration(node.parent) || ts.isCallExpression(node.parent))) {
      if (network.test(node.text)) report(file, at, `"${node.text}": only hub/ opens connections, with fetch`);
      if (!inCli && /^(node:)?child_process$/.test(node.text)) report(file, at, `"${node.text}": lowbit starts no programs`);
    }
    if (ts.isCallExpression(node) && ts.isIdentifier(node.expression)) {
      if (node.expression.text === 'eval') report(file, at, 'eval');
      if (node.expression.text === 'fetch' && !file.startsWith('lib/hub/')) report(file, at, '"fetch": only hub/ opens connections');
    }
    ts.forEachChild(node, visit);
  };
  visit(source);
}

/** Files of the repository: what git tracks or would track; below a bare folder (self-test): all. */
function listFiles(root) {
  const git = spawnSync('git', ['-C', root, 'ls-files', '-co', '--exclude-standard', '-z'], { encoding: 'utf8', maxBuffer: 1 << 26 });
  if (git.status === 0) return [...new Set(git.stdout.split('\0').filter(Boolean))].sort();
  const skipped = /(^|[\\/])(node_modules|build|dist|prebuilds|coverage|\.models)([\\/]|$)/;
  return readdirSync(root, { recursive: true })
    .filter((name) => !skipped.test(name))
    .map((name) => name.split(path.sep).join('/'))
    .sort();
}

function check(root, files = listFiles(root)) {
  const findings = [];
  const report = (file, line, rule) => void findings.push(`${file}:${line}: ${rule}`);
  let texts = 0;
  for (const file of files) {
    const stat = statSync(path.join(root, file), { throwIfNoEntry: false });
    if (!stat?.isFile() || stat.size > maxTextBytes) continue;
    const bytes = readFileSync(path.join(root, file));
    if (bytes.includes(0)) continue;
    const text = bytes.toString('utf8');
    texts++;
    if (!file.startsWith('test/fixtures/') && file !== 'package-lock.json') scan(file, text, textRules, report);
    if (/^(cpp|binding)\/.*\.(cc|h|def|inc)$/.test(file)) scan(file, withoutCommentsAndStrings(text), cppRules, report);
    if (/^lib\/.*\.m?ts$/.test(file)) scanTypeScript(file, text, report);
    if (/(^|\/)CMakeLists\.txt$|\.cmake$|^scripts\/.*\.(cjs|mjs)$|^package\.json$/.test(file)) scan(file, text, buildRules, report);
    const isSource = /^(cpp|binding|lib|scripts|test|bench)\/.*\.(cc|h|m?ts|cjs|mjs)$/.test(file);
    const lines = isSource ? text.split('\n').length : 0;
    if (lines > maxLines) report(file, maxLines, `${lines} lines; split it by theme (at most ${maxLines})`);
  }
  return { findings, files: texts };
}

function selfTest() {
  const home = ['', 'home', 'somebody', 'x'].join('/');
  const cases = [
    ['cpp/base/a.cc', 'int f() {\n  std::abort();\n}\n', /:2: "std::abort\("/],
    [
      'cpp/base/b.cc',
      '// abort() and exit(1) in a comment\nconst char* s = "printf(";\nstatic_assert(sizeof(int) == 4);\nx.abort();\n',
      null,
    ],
    ['cpp/base/c.cc', '#include <cassert>\nvoid f(int x) { assert(x); }\n', /:2: "assert\("/],
    ['cpp/base/d.cc', 'void f() { fprintf(stderr, "x"); }\n', /:1: "fprintf\("/],
    ['cpp/base/config.cc', 'const char* f() { return std::getenv("X"); }\n', null],
    ['cpp/engine/e.cc', 'const char* f() { return std::getenv("X"); }\n', /:1: "std::getenv\("/],
    ['cpp/engine/f.cc', 'void f() { throw 1; }\n', /:1: "throw"/],
    ['cpp/engine/g.cc', 'void f(char* a) { sprintf(a, "x"); snprintf(a, 1, "x"); }\n', /:1: "sprintf\("/],
    ['cpp/engine/h.cc', "int separator = 1'000; void f() { exit(1); } char c = '\"';\n", /:1: "exit\("/],
    ['binding/i.cc', 'void f() { std::cout << 1; }\n', /:1: "std::cout"/],
    ['lib/generate/j.ts', 'console.log(1);\n', /:1: "console.log"/],
    ['lib/generate/k.ts', "import http from 'node:http';\nexport { http };\n", /:1: "node:http"/],
    ['lib/generate/p.ts', 'export const x = () => fetch(process.env.X);\n', /:1: "(fetch|process.env)"/, 2],
    ['lib/hub/q.ts', 'export const x = () => fetch(process.env.X);\n', /:1: "process.env.*environment/],
    ['lib/hub/environment.ts', 'export const x = process.env.X;\n', null],
    ['lib/cli/l.ts', 'console.log(process.env.X);\n', null],
    ['CMakeLists.txt', ['add_compile_options(-march=', 'native)\n'].join(''), /:1: "-march=/],
    ['docs/m.md', ['later: TO', 'DO\n'].join(''), /:1: "TO/],
    ['docs/n.md', `see ${home}\nand https://example.org/home/x\n`, /:1: .* a path of one machine/],
    ['lib/models/o.ts', 'export {};\n'.repeat(maxLines + 5), /lines; split it/],
  ];
  const root = mkdtempSync(path.join(os.tmpdir(), 'lowbit-banned-'));
  try {
    for (const [file, text] of cases) {
      mkdirSync(path.dirname(path.join(root, file)), { recursive: true });
      writeFileSync(path.join(root, file), text);
    }
    const { findings } = check(
      root,
      cases.map(([file]) => file),
    );
    return cases.flatMap(([file, , expected, count = 1]) => {
      const own = findings.filter((finding) => finding.startsWith(`${file}:`));
      const ok = expected === null ? own.length === 0 : own.length === count && own.every((finding) => expected.test(finding));
      return ok ? [] : [`${file}: expected ${expected ?? 'no finding'}, found ${own.join(' | ') || 'none'}`];
    });
  } finally {
    rmSync(root, { recursive: true, force: true });
  }
}

if (process.argv.includes('--self-test')) {
  const problems = selfTest();
  for (const problem of problems) console.error(problem);
  console.log(problems.length === 0 ? 'check-banned: every planted violation was found' : 'check-banned: the check itself is broken');
  process.exit(problems.length === 0 ? 0 : 1);
}
const { findings, files } = check(path.join(path.dirname(fileURLToPath(import.meta.url)), '..'));
for (const finding of findings) console.error(finding);
console.log(`check-banned: ${files} files, ${findings.length} violations`);
process.exit(findings.length === 0 && files > 0 ? 0 : 1);
