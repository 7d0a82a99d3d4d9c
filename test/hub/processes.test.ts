/** lib/hub across processes: `lowbit pull` twice at once, and after a process that was killed. Needs `npm run build:ts`. */
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, readFileSync, readdirSync, statSync } from 'node:fs';
import path from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';
import { temporaryDirectory } from '../checkpoint/support';
import { TestHub, commit, sha256 } from './server';

const main = path.join(__dirname, '..', '..', 'dist', 'cli', 'main.js');
const scratch = temporaryDirectory();
const weights = new Uint8Array(2_000_000).map((_, i) => (i * 2654435761) >>> 24);
let hub: TestHub;
beforeAll(async () => {
  if (!existsSync(main)) throw new Error('dist/cli/main.js is missing: run npm run build:ts first');
  hub = await TestHub.start();
  hub.repositories.set('owner/name', { files: { 'config.json': Buffer.from('{}'), 'model.safetensors': weights } });
});
afterAll(() => hub.stop());
beforeEach(() => hub.reset());

interface Outcome {
  readonly code: number | null;
  readonly out: string;
  readonly error: string;
}

function lowbit(cache: string, ...args: string[]): { readonly child: ChildProcess; readonly ended: Promise<Outcome> } {
  const inherited = Object.fromEntries(Object.entries(process.env).filter(([name]) => !/^(HF_|HUGGING|LOWBIT_)/.test(name)));
  const env = { ...inherited, HF_ENDPOINT: hub.endpoint, HF_HOME: cache };
  const child = spawn(process.execPath, [main, ...args], { env, stdio: ['ignore', 'pipe', 'pipe'] });
  let out = '';
  let error = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => (out += text));
  child.stderr.setEncoding('utf8').on('data', (text: string) => (error += text));
  return { child, ended: new Promise((resolve) => child.on('close', (code) => resolve({ code, out, error }))) };
}

/** A slow machine prints how far it is. */
const onlyProgress = expect.stringMatching(/^(fetching \d+% [\w.]+\n)*$/) as string;
const blobs = (cache: string): string => path.join(cache, 'hub', 'models--owner--name', 'blobs');
const weightsOf = (out: string): Uint8Array => readFileSync(path.join(out.trim(), 'model.safetensors'));

test('two processes that fetch at once do not disturb each other', async () => {
  const cache = path.join(scratch, 'both');
  const outcomes = await Promise.all([
    lowbit(cache, 'pull', 'hf:owner/name').ended,
    lowbit(cache, 'pull', 'hf:owner/name', '--json').ended,
  ]);
  for (const { code, error } of outcomes) expect({ code, error }).toEqual({ code: 0, error: onlyProgress });
  const [plain, json] = outcomes;
  expect(JSON.parse(json.out)).toMatchObject({ path: plain.out.trim(), repo: 'owner/name', commit, offline: false });
  expect(Buffer.from(weightsOf(plain.out)).equals(weights)).toBe(true);
  expect(readdirSync(blobs(cache)).length).toBe(2);
});

test('after kill -9 the next process goes on', async () => {
  const cache = path.join(scratch, 'killed');
  hub.fault = (request) => (request.path.startsWith('/content/') ? { stallAfter: 1_000_000 } : undefined);
  const { child, ended } = lowbit(cache, 'pull', 'hf:owner/name');
  const partial = (): string | undefined =>
    existsSync(blobs(cache)) ? readdirSync(blobs(cache)).find((name) => name.startsWith(sha256(weights))) : undefined;
  const size = (): number => (partial() === undefined ? 0 : statSync(path.join(blobs(cache), partial() as string)).size);
  while (size() < 500_000 && child.exitCode === null) await wait(5);
  child.kill('SIGKILL');
  await ended;
  expect(partial()).toMatch(new RegExp(`^${sha256(weights)}\\.[0-9a-f]{8}-${child.pid}-[0-9a-f]{12}\\.incomplete$`));
  const kept = size();

  hub.reset();
  const { code, out, error } = await lowbit(cache, 'pull', 'hf:owner/name').ended;
  expect({ code, error }).toEqual({ code: 0, error: onlyProgress });
  expect(hub.downloads.filter(({ origin }) => origin === 'cdn').map(({ range }) => range)).toEqual([`bytes=${kept}-`]);
  expect(Buffer.from(weightsOf(out)).equals(weights)).toBe(true);
  expect(readdirSync(blobs(cache)).length).toBe(2);
});

test('offline, by flag', async () => {
  const { code, out, error } = await lowbit(path.join(scratch, 'empty'), 'inspect', 'hf:owner/name', '--offline', '--json').ended;
  expect(code).toBe(1);
  expect(JSON.parse(out)).toMatchObject({ error: { code: 'IO' } });
  expect(error).toMatch(/^lowbit: hf:owner\/name cannot be used offline: .*lowbit pull hf:owner\/name/);
  expect(hub.seen).toEqual([]);
});
