/** The `lowbit` command as a user runs it: dist/cli/main.js in a process of its own. Needs `npm run build:ts`. */
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { removeVariants, storyModel, storyText, storyVariant } from '../generate/fixture';

const main = path.join(__dirname, '..', '..', 'dist', 'cli', 'main.js');
const directory = mkdtempSync(path.join(os.tmpdir(), 'lowbit-test-'));

beforeAll(() => {
  if (!existsSync(main)) throw new Error('dist/cli/main.js is missing: run npm run build:ts first');
});
afterAll(() => {
  rmSync(directory, { recursive: true, force: true });
  removeVariants();
});

interface Outcome {
  readonly code: number | null;
  readonly out: string;
  readonly error: string;
}

function start(args: readonly string[], env: Record<string, string> = {}): { child: ChildProcess; ended: Promise<Outcome> } {
  const child = spawn(process.execPath, [main, ...args], {
    stdio: ['pipe', 'pipe', 'pipe'],
    env: { ...process.env, LOWBIT_DEBUG: '', ...env },
  });
  let out = '';
  let error = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => (out += text));
  child.stderr.setEncoding('utf8').on('data', (text: string) => (error += text));
  child.stdin.on('error', () => {}); // a command that has ended reads nothing more
  return { child, ended: new Promise((resolve) => child.on('close', (code) => resolve({ code, out, error }))) };
}

async function lowbit(...args: string[]): Promise<Outcome> {
  const { child, ended } = start(args);
  child.stdin?.end();
  return ended;
}

/** Runs with --json; stdout must be one object on one line. */
async function json(...args: string[]): Promise<Outcome & { value: Record<string, unknown> }> {
  const outcome = await lowbit(...args, '--json');
  expect(outcome.out).toMatch(/^\{.*\}\n$/);
  return { ...outcome, value: JSON.parse(outcome.out) as Record<string, unknown> };
}

const modelKeys = [
  'architecture',
  'bits_per_weight',
  'isa',
  'lm_head_bits',
  'load_ms',
  'model',
  'packed_cache',
  'peak_rss_bytes',
  'precision',
  'threads',
  'weight_bytes',
];

describe('help', () => {
  test.each([
    ['quantize'],
    ['report'],
    ['perplexity'],
    ['multiple-choice'],
    ['generate'],
    ['chat'],
    ['inspect'],
    ['pull'],
    ['bench'],
    ['doctor'],
  ])('%s has a description, --json and examples', async (command) => {
    const { code, out, error } = await lowbit(command, '--help');
    expect({ code, error }).toEqual({ code: 0, error: '' });
    expect(out).toContain('--json');
    expect(out).toContain(`$ lowbit ${command}`);
  });

  test('lowbit --help, --version and no command at all', async () => {
    const [help, version, nothing] = await Promise.all([lowbit('--help'), lowbit('--version'), lowbit()]);
    expect(help.code).toBe(0);
    expect(version).toMatchObject({ code: 0, out: expect.stringMatching(/^\d+\.\d+\.\d+\n$/) as string });
    expect(nothing.code).toBe(1);
    expect(nothing.error).toContain('Usage: lowbit');
  });
});

test('--packed-cache-folder and --lm-head-bits reach the model; a cache that was replaced is a warning', async () => {
  const folder = path.join(directory, 'cache');
  const run = (): ReturnType<typeof json> =>
    json(
      'bench',
      storyModel,
      '--prompt-tokens',
      '4',
      '--generate-tokens',
      '2',
      '-r',
      '1',
      '--packed-cache-folder',
      folder,
      '--lm-head-bits',
      '6',
    );
  expect((await run()).value).toMatchObject({ packed_cache: 'written', lm_head_bits: 6 });
  expect((await run()).value).toMatchObject({ packed_cache: 'hit', lm_head_bits: 6 });
  const [file] = readdirSync(folder);
  writeFileSync(path.join(folder, file as string), 'no cache');
  const stale = await run();
  expect(stale.value).toMatchObject({ packed_cache: 'stale' });
  expect(stale.error).toContain('warning: packed-weight cache replaced: ');
});

describe('errors', () => {
  test.each([
    [['frobnicate'], "unknown command 'frobnicate'"],
    [['generate', storyModel, '--prompt', 'a', '--foo'], "unknown option '--foo'"],
    [['generate', storyModel, '--prompt', 'a', '--top-pp', '1'], "unknown option '--top-pp'\n(Did you mean --top-p?)"],
    [['generate'], "missing required argument 'model'"],
    [['generate', storyModel], 'Expected exactly one of --prompt and --file'],
    [
      ['generate', storyModel, '-p', 'a', '-n', '4k'],
      "option '-n, --max-tokens <n>' argument '4k' is invalid. Expected a number but received \"4k\".",
    ],
    [
      ['generate', storyModel, '-p', 'a', '-n', '0'],
      'Expected integer between 1 and 2147483647 for maxTokens but received 0 of type number',
    ],
    [
      ['generate', storyModel, '-p', 'a', '--threads', '257'],
      'Expected integer between 1 and 256 for threads but received 257 of type number',
    ],
    [
      ['generate', storyModel, '-p', 'a', '--precision', 'f32'],
      "option '--precision <path>' argument 'f32' is invalid. Allowed choices are fast, exact.",
    ],
    [['generate', storyModel, '-p', 'a b c', '--context', '1'], 'The prompt has '],
    [['perplexity', storyModel], "required option '-f, --text <file>' not specified"],
    [['perplexity', storyModel, '--text', path.join(directory, 'none')], 'there is no such file'],
    [['perplexity', storyModel, '--text', path.join(storyModel, 'config.json')], 'needs at least 1024'],
    [['bench', storyModel, '--repeats', '0'], 'Expected integer between 1 and 1000 for --repeats but received 0 of type number'],
    [['bench', storyModel, '--prompt-tokens', '1024'], 'This model holds 1024 tokens, fewer than 1024 + 64'],
    [['quantize', storyModel], "required option '-o, --output <dir>' not specified"],
    [['quantize', storyModel, '-o', path.join(directory, 'x'), '--bits', '9', '--method', 'rtn'], 'for bits but received 9 of type number'],
    [['quantize', storyModel, '-o', path.join(directory, 'x'), '--dynamic', '[]'], 'Expected a JSON object.'],
    [['chat', storyModel, '-p', 'a'], 'This model has no chat template'],
    [['inspect', path.join(directory, 'none')], 'none'],
    [['report', storyModel], 'lowbit_report.json: there is no such file'],
    [['report', path.join(storyModel, 'text.txt')], 'is not JSON'],
    [['report', path.join(storyModel, 'config.json')], 'config.json is not a report of lowbit: model should be an object'],
  ])('%j', async (args, message) => {
    const plain = await lowbit(...args);
    expect(plain.code).toBe(1);
    expect(plain.out).toBe('');
    expect(plain.error).toMatch(/^lowbit: /m);
    expect(plain.error).toContain(message);
    expect(plain.error).not.toMatch(/^\s+at /m); // no stack trace
  });

  test('with --json the error is on stdout, too', async () => {
    const missing = await json('inspect', path.join(directory, 'none'));
    expect(missing).toMatchObject({ code: 1, value: { error: { code: 'IO' } } });
    expect((await json('generate', storyModel, '-p', 'a', '--foo')).value).toEqual({
      error: { code: 'INVALID_ARGUMENT', message: "unknown option '--foo'" },
    });
  });

  test('LOWBIT_DEBUG=1 adds the stack', async () => {
    const { error } = await start(['inspect', path.join(directory, 'none')], { LOWBIT_DEBUG: '1' }).ended;
    expect(error).toMatch(/^\s+at /m);
  });
});

describe('commands', () => {
  const calibration = path.join(directory, 'calibration.txt');
  const unseen = path.join(directory, 'unseen.txt');
  const packed = path.join(directory, 'packed');
  beforeAll(() => {
    writeFileSync(calibration, storyText.slice(0, storyText.length / 2));
    writeFileSync(unseen, storyText.slice(storyText.length / 2));
  });

  test('inspect', async () => {
    const { code, value } = await json('inspect', storyModel);
    expect(code).toBe(0);
    expect(value).toMatchObject({
      architecture: 'llama',
      bits_per_weight: 16,
      parameters: 853_120,
      vocab_size: 512,
      has_tokenizer: true,
      has_chat_template: false,
    });
    expect(value['tensor_types']).toEqual([{ dtype: 'BF16', tensors: 38, elements: 853_120, bytes: 1_706_240 }]);
    const plain = await lowbit('inspect', storyModel);
    expect(plain.out).toContain('853,120');
  });

  test('generate: the same text streamed and as JSON', async () => {
    const args = ['generate', storyModel, '--prompt', 'Once upon a time', '--max-tokens', '16'];
    const { value } = await json(...args);
    expect(Object.keys(value).sort()).toEqual(
      [
        ...modelKeys,
        'accepted_tokens',
        'decode_tokens_per_second',
        'guessed_tokens',
        'finish_reason',
        'prefill_tokens_per_second',
        'prompt_tokens',
        'seconds',
        'seed',
        'text',
        'tokens',
      ].sort(),
    );
    expect(value).toMatchObject({ tokens: 16, finish_reason: 'length', precision: 'fast' });
    const plain = await lowbit(...args);
    expect(plain).toMatchObject({ code: 0, out: `${value['text'] as string}\n` });
    const guessed = await lowbit(...args, '--prompt-lookup');
    expect(guessed).toMatchObject({ code: 0, out: plain.out, error: expect.stringMatching(/\d+ of \d+ guesses right/) as string });
    const stopped = await json(...args, '--stop', 'zzz', '--stop', (value['text'] as string).slice(3, 6));
    expect(stopped.value).toMatchObject({ text: (value['text'] as string).slice(0, 3), finish_reason: 'stop' });
  });

  test('generate reads a prompt file byte for byte', async () => {
    const [unix, windows] = [path.join(directory, 'unix.txt'), path.join(directory, 'windows.txt')];
    writeFileSync(unix, 'One\nTwo\n');
    writeFileSync(windows, 'One\r\nTwo\r\n');
    const tokens = async (file: string) => (await json('generate', storyModel, '--file', file, '-n', '1')).value['prompt_tokens'] as number;
    expect(await tokens(windows)).toBeGreaterThan(await tokens(unix));
  });

  test('quantize, then perplexity before and after', async () => {
    const { code, value } = await json(
      'quantize',
      storyModel,
      '--output',
      packed,
      '--calibration',
      calibration,
      '--calibration-length',
      '256',
      '--bits',
      '4',
      '--group-size',
      '64',
    );
    expect(code).toBe(0);
    expect(value).toMatchObject({ output: packed, method: 'gptq', bits: 4 });
    for (const key of [
      'bits_per_weight',
      'bits_per_weight_quantized',
      'seconds',
      'cpu_seconds',
      'peak_rss_bytes',
      'bytes_before',
      'bytes_after',
    ])
      expect(value[key]).toBeGreaterThan(0);
    expect((value['report'] as { linears: unknown[] }).linears.length).toBe(28);

    const measure = (model: string) =>
      json('perplexity', model, '--text', unseen, '--context', '256', '--chunks', '4', '--precision', 'exact', '--threads', '1');
    const [before, after] = [await measure(storyModel), await measure(packed)];
    expect(Object.keys(before.value).sort()).toEqual(
      [...modelKeys, 'add_bos', 'chunks', 'context_size', 'perplexity', 'protocol', 'seconds', 'standard_error', 'tokens'].sort(),
    );
    expect(before.value).toMatchObject({
      tokens: 4 * 127,
      chunks: 4,
      protocol: 'llama.cpp',
      context_size: 256,
      precision: 'exact',
      threads: 1,
    });
    const ratio = (after.value['perplexity'] as number) / (before.value['perplexity'] as number);
    expect(ratio).toBeGreaterThan(0.95);
    expect(ratio).toBeLessThan(1.15);

    const beside = readFileSync(path.join(packed, 'lowbit_report.html'), 'utf8');
    const page = path.join(directory, 'page.html');
    expect((await json('report', packed, '--html', page)).value).toMatchObject({ html: page, csv: null });
    expect(readFileSync(page, 'utf8')).toBe(beside);
    rmSync(path.join(packed, 'lowbit_report.html'));
    expect((await lowbit('report', path.join(packed, 'lowbit_report.json'))).out).toContain(path.join(packed, 'lowbit_report.csv'));
    expect(readFileSync(path.join(packed, 'lowbit_report.html'), 'utf8')).toBe(beside);

    const again = await lowbit('quantize', storyModel, '--output', packed, '--method', 'rtn');
    expect(again.code).toBe(1);
    expect(
      (
        await json(
          'quantize',
          storyModel,
          '--output',
          packed,
          '--method',
          'rtn',
          '--overwrite',
          '--dynamic',
          '{".*v_proj": {"bits": 8, "group_size": 32}}',
        )
      ).code,
    ).toBe(0);
  });

  test('bench', async () => {
    const { code, value } = await json('bench', storyModel, '--prompt-tokens', '32', '--generate-tokens', '8', '--repeats', '2');
    expect(code).toBe(0);
    expect(value).toMatchObject({ prompt_tokens: 32, generate_tokens: 8, repeats: 2 });
    for (const key of ['prefill_tokens_per_second', 'decode_tokens_per_second', 'load_ms', 'peak_rss_bytes', 'bits_per_weight', 'seconds'])
      expect(value[key]).toBeGreaterThan(0);
  });

  test('doctor', async () => {
    const { code, value } = await json('doctor');
    expect(value['self_test']).toMatchObject({ ok: true });
    expect(value).toMatchObject({ ok: true, platform: process.platform, engine: { usable_cores: expect.any(Number) as number } });
    expect(code).toBe(0);
  });

  test('doctor without a usable engine: still one report, exit code 1', async () => {
    const { ended } = start(['doctor', '--json'], { LOWBIT_ISA: 'no-such-isa' });
    const { code, out } = await ended;
    const value = JSON.parse(out) as { ok: boolean; self_test: { ok: boolean } };
    expect({ code, ok: value.ok, test: value.self_test.ok }).toEqual({ code: 1, ok: false, test: false });
  });
});

describe('chat', () => {
  const template =
    '{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}';
  let model: string;
  beforeAll(() => {
    model = storyVariant({ 'chat_template.jinja': template });
  });

  test('one turn per line of stdin', async () => {
    const { child, ended } = start(['chat', model, '--system', 'S', '--max-tokens', '6', '--json']);
    child.stdin?.end('Hello\n\n/reset\nHi\nMore\n/exit\nnot read\n');
    const { code, out } = await ended;
    expect(code).toBe(0);
    const { messages } = JSON.parse(out) as { messages: { role: string; content: string }[] };
    expect(messages.map(({ role }) => role)).toEqual(['system', 'user', 'assistant', 'user', 'assistant']);
    expect(messages.filter(({ role }) => role === 'user').map(({ content }) => content)).toEqual(['Hi', 'More']);
  });

  test.each([
    ['SIGINT', 130],
    ['SIGTERM', 143],
  ] as const)('%s ends it with exit code %d and an error in JSON', async (signal, code) => {
    const { child, ended } = start(['chat', model, '--max-tokens', '4']);
    child.stdin?.write('Hello\n');
    child.stdout?.once('data', () => child.kill(signal)); // it is answering, or waiting for the next line
    const outcome = await ended;
    expect(outcome.code).toBe(code);
    expect(outcome.error).toContain('lowbit: interrupted');
  });
});

test('a reader that leaves ends the work quietly', async () => {
  const { child, ended } = start(['generate', storyModel, '--prompt', 'Once', '--max-tokens', '900']);
  child.stdout?.destroy();
  const { code, error } = await ended;
  expect(code).toBe(0);
  expect(error).not.toMatch(/EPIPE|^\s+at /m);
});
