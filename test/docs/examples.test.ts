/** The code in README.md and docs/ is checked against the types of the library: a property that does not exist fails here. */
import { readFileSync, readdirSync } from 'node:fs';
import path from 'node:path';
import ts from 'typescript';

const root = path.resolve(__dirname, '../..');
const documents = ['README.md', ...readdirSync(path.join(root, 'docs')).flatMap((name) => (name.endsWith('.md') ? [`docs/${name}`] : []))];

/** What the texts take from their surroundings: globals, which a text may declare itself. */
const SURROUNDINGS = `
declare const text: string;
declare const requests: { prompt: string; send: (piece: string) => void }[];
declare const model: Awaited<ReturnType<typeof import('lowbit').loadModel>>;
`;
const surroundings = path.join(root, 'surroundings.d.ts');

const options: ts.CompilerOptions = {
  ...ts.parseConfigFileTextToJson('tsconfig.json', readFileSync(path.join(root, 'tsconfig.json'), 'utf8')).config.compilerOptions,
  target: ts.ScriptTarget.ES2022,
  module: ts.ModuleKind.ESNext,
  moduleResolution: ts.ModuleResolutionKind.Bundler,
  lib: ['lib.es2022.d.ts', 'lib.esnext.disposable.d.ts'],
  paths: { lowbit: [path.join(root, 'lib/index.ts')] },
  rootDir: root,
  noEmit: true,
  noUnusedLocals: false,
  declaration: false,
  declarationMap: false,
  isolatedModules: false,
};

function blocks(document: string): string[] {
  return [...readFileSync(path.join(root, document), 'utf8').matchAll(/^```(?:js|ts)\n(.*?)^```$/gms)].map((match) => match[1] as string);
}

const moduleOf = (block: string): string => `${block}\nexport {};\n`;

function problems(modules: ReadonlyMap<string, string>): string[] {
  const sources = new Map([...modules, [surroundings, SURROUNDINGS]]);
  const host = ts.createCompilerHost(options);
  const readFile = host.readFile.bind(host);
  const fileExists = host.fileExists.bind(host);
  host.readFile = (file) => sources.get(file) ?? readFile(file);
  host.fileExists = (file) => sources.has(file) || fileExists(file);
  const getSourceFile = host.getSourceFile.bind(host);
  host.getSourceFile = (file, target) => {
    const source = sources.get(file);
    return source === undefined ? getSourceFile(file, target) : ts.createSourceFile(file, source, ts.ScriptTarget.ES2022);
  };
  const program = ts.createProgram([...sources.keys()], options, host);
  return [...modules.keys()].flatMap((file) => {
    const source = program.getSourceFile(file);
    return [...program.getSyntacticDiagnostics(source), ...program.getSemanticDiagnostics(source)].map(
      ({ messageText }) => `${path.basename(file)}: ${ts.flattenDiagnosticMessageText(messageText, ' ')}`,
    );
  });
}

describe('code in the documents', () => {
  const sources = new Map<string, string>();
  for (const document of documents)
    for (const [index, block] of blocks(document).entries()) {
      sources.set(path.join(root, `${document.replace('/', '_')}_${index}.ts`), moduleOf(block));
    }

  it('is there', () => {
    expect(sources.size).toBeGreaterThanOrEqual(4);
  });

  it('has the types of the library', () => {
    expect(problems(sources)).toEqual([]);
  });

  it('would not pass with a property that does not exist', () => {
    const wrong = moduleOf("import { inspect } from 'lowbit';\nconsole.log((await inspect('model')).bitsPerWait);\n");
    expect(problems(new Map([[path.join(root, 'wrong.ts'), wrong]]))).toEqual([expect.stringContaining('bitsPerWait')]);
  });
});
