/** The programs in examples/ and the demo run as they are, against the built package. Needs `npm run build:ts`. */
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { removeVariants, storyModel, storyVariant } from '../generate/fixture';

const root = path.join(__dirname, '..', '..');
const directory = mkdtempSync(path.join(os.tmpdir(), 'lowbit-test-'));
const text = path.join(storyModel, 'text.txt');

afterAll(() => {
  rmSync(directory, { recursive: true, force: true });
  removeVariants();
});

function start(
  script: string,
  args: readonly string[],
): { child: ChildProcess; ended: Promise<{ code: number | null; out: string; error: string }> } {
  const child = spawn(process.execPath, [path.join(root, script), ...args], { stdio: ['ignore', 'pipe', 'pipe'] });
  let out = '';
  let error = '';
  child.stdout.setEncoding('utf8').on('data', (chunk: string) => (out += chunk));
  child.stderr.setEncoding('utf8').on('data', (chunk: string) => (error += chunk));
  return {
    child,
    ended: new Promise((resolve) =>
      child.on('close', (code) => {
        resolve({ code, out, error });
      }),
    ),
  };
}

test('demo --json', async () => {
  const { code, out, error } = await start('scripts/demo.mjs', ['--json']).ended;
  expect({ code, error }).toEqual({ code: 0, error: '' });
  const result = JSON.parse(out) as Record<string, number>;
  expect(result).toMatchObject({ model: 'tiny-stories', bits: 4, text: expect.any(String) as string });
  expect(result['bits_per_weight_quantized']).toBeLessThan(4.5);
  expect(result['bits_per_weight']).toBeLessThan(6);
  expect(result['decode_tokens_per_second']).toBeGreaterThan(0);
  // 4 bit costs something, and little: a wrong kernel or a wrong file would cost far more than a tenth
  expect((result['perplexity_after'] as number) / (result['perplexity_before'] as number)).toBeGreaterThan(0.98);
  expect((result['perplexity_after'] as number) / (result['perplexity_before'] as number)).toBeLessThan(1.1);
});

test('demo for people', async () => {
  const { code, out } = await start('scripts/demo.mjs', ['--prompt', 'One day']).ended;
  expect(code).toBe(0);
  expect(out).toMatch(/size +1\.71 MB -> 0\.\d+ MB/);
  expect(out).toMatch(/perplexity +\d+\.\d+ -> \d+\.\d+/);
  expect(out).toContain('  One day');
});

test('stream', async () => {
  const { code, out } = await start('examples/stream.mjs', [storyModel, 'Once upon']).ended;
  expect(code).toBe(0);
  expect(out).toMatch(/^Once upon.*\n\n\d+ tokens, \d+ per second, ended by \w+, seed \d+\n$/s);
});

test('quantize, then perplexity of both', async () => {
  const output = path.join(directory, 'packed');
  const quantized = await start('examples/quantize.mjs', [storyModel, output, text]).ended;
  expect(quantized.code).toBe(0);
  expect(quantized.out).toMatch(/16\.00 -> 5\.\d+ bits per weight/);
  const measured = await start('examples/perplexity.mjs', [text, storyModel, output]).ended;
  expect(measured.code).toBe(0);
  expect(measured.out.match(/: \d+\.\d{4} \+\/- \d+\.\d{4} \(8 chunks of 512/g)).toHaveLength(2);
});

test('chat, with and without a template', async () => {
  const plain = await start('examples/chat.mjs', [storyModel]).ended;
  expect(plain.code).toBe(1);
  expect(plain.error).toContain('has no chat template');
  const template =
    '{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}';
  const { code, out } = await start('examples/chat.mjs', [storyVariant({ 'chat_template.jinja': template })]).ended;
  expect(code).toBe(0);
  expect(out).toMatch(/> And at sunset\?\n.*, [1-9]\d* of them reused\)/s);
});

test('server: streams, refuses, survives a client that leaves', async () => {
  const { child, ended } = start('examples/server.mjs', [storyModel, '0']);
  const url = await new Promise<string>((resolve) => {
    child.stdout?.on('data', (chunk: string) => {
      const match = /http:\S+/.exec(chunk);
      if (match) resolve(match[0]);
    });
  });
  const post = (body: unknown, signal: AbortSignal | null = null) => fetch(url, { method: 'POST', body: JSON.stringify(body), signal });
  const events = (await (await post({ prompt: 'Once', maxTokens: 8, temperature: 0 })).text()).trim().split('\n\n');
  const parsed = events.map((event) => JSON.parse(event.replace(/^data: /, '')) as { text?: string; finishReason?: string });
  expect(parsed.at(-1)).toEqual({ finishReason: 'length', tokens: 8 });
  expect(parsed.slice(0, -1).every((event) => typeof event.text === 'string')).toBe(true);

  const refused = await post({ prompt: 'Once', topP: 1, temperature: -1 });
  expect(refused.status).toBe(400);
  expect(await refused.json()).toEqual({
    error: { code: 'INVALID_ARGUMENT', message: 'Expected number between 0 and 100 for temperature but received -1 of type number' },
  });

  for (let i = 0; i < 8; i++) {
    const leave = new AbortController();
    const response = await post({ prompt: 'Once', maxTokens: 900 }, leave.signal);
    await response.body?.getReader().read();
    leave.abort();
  }
  // twice as many clients as sequences have left: the sequences must have come back
  let last = await post({ prompt: 'Once', maxTokens: 2 });
  for (let attempt = 0; last.status === 503 && attempt < 200; attempt++) last = await post({ prompt: 'Once', maxTokens: 2 });
  expect(last.status).toBe(200);
  await last.text();
  child.kill('SIGINT');
  expect((await ended).error).toBe('');
});
