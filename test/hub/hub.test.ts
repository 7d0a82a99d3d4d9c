/** lib/hub against a server that speaks the hub's protocol: what is fetched, how it lies in the cache, and everything that can go wrong. */
import { chmodSync, existsSync, lstatSync, mkdirSync, readFileSync, readdirSync, readlinkSync, truncateSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';
import { convert, inspect, loadModel, pull, quantize } from '../../lib';
import { pullModel } from '../../lib/hub';
import { hubSettings } from '../../lib/hub/environment';
import { parseHubName } from '../../lib/hub/name';
import type { HubProgress } from '../../lib/hub/options';
import { errorOf, randomNumbers, temporaryDirectory } from '../checkpoint/support';
import { tinyCheckpoint } from '../checkpoint/tiny';
import { storyModel } from '../generate/fixture';
import { type Repository, TestHub, commit, etagOf, gitSha1, goodToken, sha256 } from './server';

const scratch = temporaryDirectory();
let hub: TestHub;
beforeAll(async () => {
  hub = await TestHub.start();
});
afterAll(() => hub.stop());
beforeEach(() => hub.reset());

const random = randomNumbers(7);
const bytes = (length: number): Uint8Array => Uint8Array.from({ length }, () => Math.floor(random() * 256));
/** Looks like a model to the selection of files; its weights are noise, larger than what a socket takes at once. */
const weights = bytes(600_000);
const model: Repository = {
  files: {
    'config.json': Buffer.from('{"model_type": "llama"}'),
    'tokenizer.json': bytes(5000),
    'README.md': Buffer.from('# model'),
    'model.safetensors': weights,
    'pytorch_model.bin': bytes(10),
    'modeling_custom.py': Buffer.from('import os'),
    'onnx/model.onnx': bytes(10),
  },
  revisions: { 'refs/pr/1': 'd'.repeat(40), v1: commit },
};
const needed = ['config.json', 'model.safetensors', 'tokenizer.json'];

let count = 0;
/** A new cache, and pull() with short waits. */
function fresh() {
  const cacheDir = path.join(scratch, `cache-${count++}`);
  const options = { cacheDir, endpoint: hub.endpoint, token: '' };
  return {
    cacheDir,
    options,
    folder: path.join(cacheDir, 'models--owner--name'),
    pull: (name = 'hf:owner/name', more: Parameters<typeof pull>[1] & { attempts?: number } = {}) => {
      const { attempts = 3, signal, onProgress, ...rest } = more;
      const settings = hubSettings({ ...options, ...rest }, {});
      return pullModel({ name: parseHubName(name), settings, retry: { attempts, delayMs: 1 }, signal }, onProgress);
    },
  };
}

const isContent = (request: { readonly path: string }): boolean => request.path.startsWith('/content/');
const partials = (folder: string): string[] => readdirSync(path.join(folder, 'blobs')).filter((name) => name.endsWith('.incomplete'));

beforeAll(() => {
  hub.repositories.set('owner/name', model);
});

describe('names', () => {
  test.each([
    ['hf:owner/name', { repo: 'owner/name', revision: 'main' }],
    ['hf:gpt2', { repo: 'gpt2', revision: 'main' }],
    ['hf:o.w-n_er/Na.me-1@v1.0', { repo: 'o.w-n_er/Na.me-1', revision: 'v1.0' }],
    ['hf:owner/name@refs/pr/3', { repo: 'owner/name', revision: 'refs/pr/3' }],
    ['hf:owner/name/sub/x-Q4_0.gguf@v2', { repo: 'owner/name', revision: 'v2', file: 'sub/x-Q4_0.gguf' }],
  ])('%s', (text, expected) => {
    expect(parseHubName(text)).toEqual(expected);
  });

  test.each([
    'hf:',
    'hf:/name',
    'hf:owner/',
    'hf://owner/name',
    'hf:owner/../name',
    'hf:own er/name',
    'hf:owner/na--me',
    'hf:owner/name@',
    'hf:owner/name@../../x',
    'hf:owner/name@a//b',
    'hf:owner/name@-x',
    'hf:owner/name/model.safetensors',
    'hf:owner/name/../x.gguf',
    'hf:owner/name/a\\b.gguf',
    'hf:owner/name/C:/x.gguf',
    `hf:owner/${'a'.repeat(200)}`,
    'owner/name',
  ])('%s is refused', async (text) => {
    const error = await errorOf(() => parseHubName(text));
    expect(error).toMatchObject({ code: 'INVALID_ARGUMENT', message: expect.stringContaining('hf:owner/name/file.gguf') as string });
  });
});

describe('settings', () => {
  const from = (environment: Record<string, string>) => hubSettings({}, { HF_HOME: path.join(scratch, 'no-home'), ...environment });

  test('from the environment, with the precedence of the Python tools', () => {
    const home = path.join(scratch, 'home');
    mkdirSync(home);
    writeFileSync(path.join(home, 'token'), 'hf_file\n');
    expect(from({ HF_HOME: home })).toEqual({
      endpoint: 'https://huggingface.co',
      cacheDir: path.join(home, 'hub'),
      token: 'hf_file',
      offline: false,
    });
    expect(from({ HF_HOME: home, HF_TOKEN: 'hf_env', HF_HUB_CACHE: scratch, HF_ENDPOINT: 'http://mirror.example/hub/' })).toEqual({
      endpoint: 'http://mirror.example/hub',
      cacheDir: scratch,
      token: 'hf_env',
      offline: false,
    });
    expect(from({}).token).toBe(undefined);
    expect(from({ HF_TOKEN_PATH: path.join(home, 'token') }).token).toBe('hf_file');
    expect(hubSettings({}, { XDG_CACHE_HOME: scratch }).cacheDir).toBe(path.join(scratch, 'huggingface', 'hub'));
    expect(['1', 'true', 'YES', 'on'].map((value) => from({ LOWBIT_OFFLINE: value }).offline)).toEqual([true, true, true, true]);
    expect(['0', '', 'no'].map((value) => from({ HF_HUB_OFFLINE: value }).offline)).toEqual([false, false, false]);
    expect(from({ HF_HUB_OFFLINE: '1' }).offline).toBe(true);
    expect(hubSettings({ offline: false, token: '' }, { LOWBIT_OFFLINE: '1', HF_TOKEN: 'x' })).toMatchObject({
      offline: false,
      token: undefined,
    });
  });

  test('what makes no sense is refused', async () => {
    for (const endpoint of ['', 'huggingface.co', 'ftp://x', 'http://user:word@x', 'http://x/?a']) {
      expect(await errorOf(() => hubSettings({ endpoint }, {}))).toMatchObject({
        code: 'INVALID_ARGUMENT',
        details: { option: 'endpoint' },
      });
    }
    expect(await errorOf(() => hubSettings({ token: 'a\nb' }, {}))).toMatchObject({ code: 'INVALID_ARGUMENT' });
    const unknown = { ofline: true } as object;
    expect(await errorOf(() => pull('hf:a/b', unknown))).toMatchObject({ message: expect.stringContaining('"offline"') as string });
    expect(await errorOf(() => loadModel('hf:a/b', { hub: unknown }))).toMatchObject({ code: 'INVALID_ARGUMENT' });
    expect(await errorOf(() => pull('a/b'))).toMatchObject({ code: 'INVALID_ARGUMENT' });
  });
});

describe('fetching', () => {
  test('what a model needs, in the layout of the shared cache, and nothing the second time', async () => {
    const { pull: get, folder } = fresh();
    const seen: HubProgress[] = [];
    const result = await get('hf:owner/name', { onProgress: (event) => seen.push(event) });
    const snapshot = path.join(folder, 'snapshots', commit);
    const total = needed.reduce((sum, name) => sum + (model.files[name]?.length ?? NaN), 0);
    expect(result).toEqual({ path: snapshot, repo: 'owner/name', revision: 'main', commit, fetchedBytes: total, offline: false });
    expect(readdirSync(snapshot).sort()).toEqual(needed);
    for (const name of needed) {
      const file = path.join(snapshot, name);
      expect(readFileSync(file).equals(model.files[name] as Uint8Array)).toBe(true);
      expect(readlinkSync(file)).toBe(path.join('..', '..', 'blobs', etagOf(model, name)));
    }
    expect(readdirSync(path.join(folder, 'blobs')).sort()).toEqual(needed.map((name) => etagOf(model, name)).sort());
    expect(readFileSync(path.join(folder, 'refs', 'main'), 'utf8')).toBe(commit);
    expect(seen.every(({ done }, i) => i === 0 || done >= (seen[i - 1] as HubProgress).done)).toBe(true);
    expect(seen.at(-1)).toEqual({ file: 'model.safetensors', done: total, total });

    hub.reset();
    expect(await get()).toMatchObject({ path: snapshot, fetchedBytes: 0 });
    expect(hub.downloads).toEqual([]);
    expect(hub.seen.length).toBe(2); // which commit, which files
  });

  test('a file list of several pages; the token stays with the hub even if they are elsewhere', async () => {
    hub.pageSize = 2;
    const { pull: get } = fresh();
    expect(readdirSync((await get()).path).sort()).toEqual(needed);
    hub.reset();
    hub.pageSize = 2;
    hub.pagesElsewhere = true;
    expect(readdirSync((await fresh().pull('hf:owner/name', { token: goodToken })).path).sort()).toEqual(needed);
    const pages = hub.seen.filter(({ path: asked }) => asked.includes('/tree/'));
    expect(pages.slice(0, 2).map(({ origin, authorization }) => [origin, authorization])).toEqual([
      ['hub', `Bearer ${goodToken}`],
      ['cdn', undefined],
    ]);
  });

  test('shards, by the index', async () => {
    const names = ['model-00001-of-00002.safetensors', 'model-00002-of-00002.safetensors'];
    const index = (files: readonly string[]) =>
      Buffer.from(JSON.stringify({ weight_map: Object.fromEntries(files.map((name, i) => [`t${i}`, name])) }));
    const files = {
      'config.json': Buffer.from('{}'),
      [names[0] as string]: bytes(100),
      [names[1] as string]: bytes(200),
      'consolidated.safetensors': bytes(300),
    };
    hub.repositories.set('owner/shards', { files: { ...files, 'model.safetensors.index.json': index(names) } });
    const { pull: get } = fresh();
    const result = await get('hf:owner/shards');
    expect(readdirSync(result.path).sort()).toEqual(['config.json', ...names, 'model.safetensors.index.json']);
    expect(await get('hf:owner/shards', { offline: true })).toMatchObject({ path: result.path });

    hub.repositories.set('owner/holes', {
      files: { ...files, 'model.safetensors.index.json': index([...names, 'model-00003-of-00003.safetensors']) },
    });
    expect(await errorOf(() => get('hf:owner/holes'))).toMatchObject({
      code: 'CORRUPT_FILE',
      message: expect.stringContaining('model-00003') as string,
    });
    hub.repositories.set('owner/outside', { files: { ...files, 'model.safetensors.index.json': index(['../../x.safetensors']) } });
    expect(await errorOf(() => get('hf:owner/outside'))).toMatchObject({ code: 'CORRUPT_FILE' });
  });

  test('one GGUF file, also in a folder', async () => {
    const files = { 'README.md': bytes(3), 'a-Q4_0.gguf': bytes(1000), 'sub/b.gguf': bytes(2000) };
    hub.repositories.set('owner/gguf', { files });
    const { pull: get, cacheDir } = fresh();
    const result = await get('hf:owner/gguf/sub/b.gguf');
    expect(result.path).toBe(path.join(cacheDir, 'models--owner--gguf', 'snapshots', commit, 'sub', 'b.gguf'));
    expect(readFileSync(result.path).equals(files['sub/b.gguf'])).toBe(true);
    expect(await get('hf:owner/gguf/sub/b.gguf', { offline: true })).toMatchObject({ path: result.path, offline: true });
    expect(await errorOf(() => get('hf:owner/gguf/c.gguf'))).toMatchObject({
      code: 'IO',
      message: expect.stringContaining('a-Q4_0.gguf') as string,
    });
    expect(await errorOf(() => get('hf:owner/gguf'))).toMatchObject({
      code: 'UNSUPPORTED',
      message: expect.stringContaining('hf:owner/gguf/a-Q4_0.gguf') as string,
    });
  });

  test('what holds no weights that can be read says so', async () => {
    const { pull: get } = fresh();
    const config = { 'config.json': Buffer.from('{}') };
    hub.repositories.set('owner/pickled', { files: { ...config, 'pytorch_model.bin': bytes(10) } });
    hub.repositories.set('owner/two', { files: { ...config, 'a.safetensors': bytes(1), 'b.safetensors': bytes(1) } });
    hub.repositories.set('owner/empty', { files: config });
    for (const [name, part] of [
      ['pickled', 'pytorch_model.bin'],
      ['two', '2 safetensors files'],
      ['empty', 'no weights'],
    ] as const) {
      expect(await errorOf(() => get(`hf:owner/${name}`))).toMatchObject({
        code: 'UNSUPPORTED',
        message: expect.stringContaining(part) as string,
      });
    }
    expect(hub.downloads).toEqual([]);
  });

  test('revisions: a tag, a pull request, a commit', async () => {
    const { pull: get, folder } = fresh();
    await get('hf:owner/name@v1');
    expect(readFileSync(path.join(folder, 'refs', 'v1'), 'utf8')).toBe(commit);
    expect(await get(`hf:owner/name@${commit}`, { offline: true })).toMatchObject({ commit });
    expect((await errorOf(() => get('hf:owner/name@no-such'))).message).toMatch(/no branch, tag or commit "no-such"/);
  });
});

describe('interruptions', () => {
  test('a transfer that breaks off goes on where it stopped', async () => {
    const { pull: get, folder } = fresh();
    hub.fault = (request) => (isContent(request) ? { cutAfter: 250_000 } : undefined);
    const error = await errorOf(() => get('hf:owner/name', { attempts: 1 }));
    expect(error).toMatchObject({ code: 'IO', message: expect.stringContaining('offline') as string });
    // Neither the name of the content nor that of the file exists; what came does.
    expect(existsSync(path.join(folder, 'blobs', sha256(weights)))).toBe(false);
    expect(existsSync(path.join(folder, 'snapshots', commit, 'model.safetensors'))).toBe(false);
    expect(partials(folder)).toEqual([`${sha256(weights)}.lowbit.incomplete`]);
    const kept = lstatSync(path.join(folder, 'blobs', partials(folder)[0] as string)).size;
    expect(kept > 0 && kept <= 250_000).toBe(true);

    hub.reset();
    const result = await get();
    expect(hub.downloads.filter(isContent).map(({ range }) => range)).toEqual([`bytes=${kept}-`]);
    expect(readFileSync(path.join(result.path, 'model.safetensors')).equals(weights)).toBe(true);
    expect(result.fetchedBytes).toBe(weights.length - kept);
    expect(partials(folder)).toEqual([]);
  });

  test('within one call, a bounded number of times', async () => {
    const { pull: get } = fresh();
    let cuts = 0;
    hub.fault = (request) => (isContent(request) && cuts++ < 2 ? { cutAfter: 100_000 } : undefined);
    expect(readFileSync(path.join((await get()).path, 'model.safetensors')).equals(weights)).toBe(true);
    const ranges = hub.downloads.filter(isContent).map(({ range }) => range);
    expect(ranges.length).toBe(3);
    expect(ranges.slice(1).every((range) => /^bytes=\d+-$/.test(range ?? ''))).toBe(true);

    hub.reset();
    hub.fault = (request) => (isContent(request) ? { cutAfter: 0 } : undefined);
    expect((await errorOf(() => fresh().pull())).code).toBe('IO');
    expect(hub.downloads.filter(isContent).length).toBe(3);
  });

  test('a server that knows no ranges, and one that answers 416', async () => {
    for (const fault of [{ ignoreRange: true }, { status: 416 }]) {
      const { pull: get } = fresh();
      hub.fault = (request) => (isContent(request) ? { cutAfter: 100_000 } : undefined);
      await errorOf(() => get('hf:owner/name', { attempts: 1 }));
      hub.fault = (request) => (isContent(request) && request.range !== undefined ? fault : undefined);
      expect(readFileSync(path.join((await get()).path, 'model.safetensors')).equals(weights)).toBe(true);
    }
  });

  test('abort keeps what came', async () => {
    const { pull: get, folder } = fresh();
    const controller = new AbortController();
    hub.fault = (request) => (isContent(request) ? { stallAfter: 200_000 } : undefined);
    const onProgress = ({ file, done }: HubProgress): void => {
      if (file === 'model.safetensors' && done > 100_000) controller.abort(new Error('enough'));
    };
    const error = await errorOf(() => get('hf:owner/name', { signal: controller.signal, onProgress }));
    expect(error).toMatchObject({ code: 'CANCELLED', cause: new Error('enough') });
    expect(partials(folder).length).toBe(1);
    hub.reset();
    await get();
    expect(hub.downloads.filter(isContent)[0]?.range).toMatch(/^bytes=\d+-$/);
    expect(await errorOf(() => get('hf:owner/name', { signal: AbortSignal.abort() }))).toMatchObject({ code: 'CANCELLED' });
  });

  test('what a callback throws ends the download', async () => {
    const thrown = new Error('mine');
    const { pull: get } = fresh();
    await expect(
      get('hf:owner/name', {
        onProgress: () => {
          throw thrown;
        },
      }),
    ).rejects.toBe(thrown);
  });

  test('two loads in one process fetch once', async () => {
    const { pull: get, folder } = fresh();
    const [a, b] = await Promise.all([get(), get()]);
    expect(a.path).toBe(b.path);
    expect(hub.downloads.filter(isContent).length).toBe(1);
    expect(partials(folder)).toEqual([]);
  });

  test('an abort while another load fetches the same file', async () => {
    const { pull: get } = fresh();
    const [front, waiting] = [new AbortController(), new AbortController()];
    hub.fault = (request) => (isContent(request) ? { stallAfter: 200_000 } : undefined);
    let first = Promise.resolve<unknown>(undefined);
    await new Promise<void>((started) => {
      const onProgress = ({ file, done }: HubProgress): void => (file === 'model.safetensors' && done > 0 ? started() : undefined);
      first = errorOf(() => get('hf:owner/name', { signal: front.signal, onProgress }));
    });
    const second = errorOf(() => get('hf:owner/name', { signal: waiting.signal }));
    while (hub.seen.filter(({ path: asked }) => asked.includes('/tree/')).length < 2) await wait(5);
    await wait(5); // from here on it waits for the first; if it does not yet, the outcome is the same
    waiting.abort();
    expect(await second).toMatchObject({ code: 'CANCELLED' });
    expect(hub.downloads.filter(isContent).length).toBe(1);
    front.abort();
    expect(await first).toMatchObject({ code: 'CANCELLED' });
  });
});

describe('contents that are wrong', () => {
  const other = Uint8Array.from(weights, (value, i) => (i === 1234 ? value ^ 1 : value));

  test.each([
    ['of a large file', 'model.safetensors', other],
    ['of a small file', 'config.json', Buffer.from('{"model_type": "lLama"}')],
  ])('%s: refused, and not kept', async (_, file, body) => {
    const { pull: get, folder } = fresh();
    const etag = etagOf(model, file);
    hub.fault = (request) => (request.path.endsWith(etag) || request.path.endsWith(`/${file}`) ? { body } : undefined);
    const error = await errorOf(() => get());
    expect(error).toMatchObject({ code: 'CORRUPT_FILE', details: { file, expected: etag } });
    expect(existsSync(path.join(folder, 'blobs', etag))).toBe(false);
    expect(partials(folder).map((name) => lstatSync(path.join(folder, 'blobs', name)).size)).toEqual([0]);
    hub.reset();
    await get();
  });

  test('a beginning that is damaged costs one more download', async () => {
    const { pull: get, folder } = fresh();
    mkdirSync(path.join(folder, 'blobs'), { recursive: true });
    writeFileSync(path.join(folder, 'blobs', `${sha256(weights)}.lowbit.incomplete`), bytes(1000));
    expect(readFileSync(path.join((await get()).path, 'model.safetensors')).equals(weights)).toBe(true);
    expect(hub.downloads.filter(isContent).map(({ range }) => range)).toEqual(['bytes=1000-', undefined]);
  });

  test('more bytes than announced', async () => {
    const { pull: get } = fresh();
    hub.fault = (request) => (isContent(request) ? { body: Buffer.concat([weights, bytes(10)]) } : undefined);
    expect(await errorOf(() => get())).toMatchObject({
      code: 'CORRUPT_FILE',
      message: expect.stringContaining('more than the 600000') as string,
    });
  });

  test('a content in the cache that was cut short is fetched again', async () => {
    const { pull: get, folder } = fresh();
    await get();
    truncateSync(path.join(folder, 'blobs', sha256(weights)), 1000);
    expect(readFileSync(path.join((await get()).path, 'model.safetensors')).equals(weights)).toBe(true);
  });

  test('answers of the interface that are none', async () => {
    const { pull: get, cacheDir } = fresh();
    const entry = { type: 'file', path: 'config.json', size: 2, oid: gitSha1(Buffer.from('{}')) };
    const lists = [
      'no json',
      '{}',
      '[{"type": "file"}]',
      ...[
        { path: '../config.json' },
        { path: '/etc/config.json' },
        { size: -1 },
        { size: 1e300 },
        { oid: '../../x' },
        { lfs: { oid: 'x', size: 1 } },
      ].map((change) => JSON.stringify([{ ...entry, ...change }])),
    ];
    for (const list of lists) {
      hub.fault = (request) =>
        request.path.includes('/tree/') ? { status: 200, headers: { 'content-type': 'application/json' } } : undefined;
      const answer = globalThis.fetch;
      globalThis.fetch = (async (url: string, init: RequestInit) =>
        url.includes('/tree/') ? new Response(list) : answer(url, init)) as typeof fetch;
      try {
        expect(await errorOf(() => get())).toMatchObject({ code: 'IO', message: expect.stringContaining('check HF_ENDPOINT') as string });
      } finally {
        globalThis.fetch = answer;
      }
    }
    expect(hub.downloads).toEqual([]);
    expect(existsSync(path.join(cacheDir, 'models--owner--name', 'snapshots'))).toBe(false);
  });
});

describe('answers of the server', () => {
  test('5xx and 429 are asked again, a bounded number of times', async () => {
    const { pull: get } = fresh();
    const answers = [503, 500, undefined, 429];
    hub.fault = (request) => {
      const status = request.origin === 'hub' ? answers.shift() : undefined;
      return status === undefined ? undefined : { status, headers: { 'Retry-After': '0' } };
    };
    await get();
    hub.reset();
    hub.fault = () => ({ status: 502 });
    const error = await errorOf(() => fresh().pull());
    expect(error).toMatchObject({ code: 'IO', message: expect.stringContaining('502') as string });
    expect(hub.seen.length).toBe(3);
  });

  test('a gated repository: what to do without a token, with one that has no access, and with one that has', async () => {
    hub.repositories.set('owner/gated', { ...model, gated: true });
    const { pull: get } = fresh();
    const without = await errorOf(() => get('hf:owner/gated'));
    expect(without).toMatchObject({ code: 'IO', details: { status: 401, errorCode: 'GatedRepo' } });
    expect(without.message).toMatch(/accept conditions.*\/owner\/gated.*HF_TOKEN/);
    const foreign = await errorOf(() => get('hf:owner/gated', { token: 'hf_other' }));
    expect(foreign).toMatchObject({ code: 'IO', details: { status: 403 } });
    expect(foreign.message).toMatch(/token of the same account/);
    expect(`${foreign.message}${JSON.stringify(foreign.details)}`).not.toContain('hf_other');
    hub.reset();
    await get('hf:owner/gated', { token: goodToken });
    // The token goes to the hub, never to where it redirects.
    expect(hub.seen.filter(({ origin }) => origin === 'cdn').map(({ authorization }) => authorization)).toEqual([undefined]);
    expect(new Set(hub.seen.filter(({ origin }) => origin === 'hub').map(({ authorization }) => authorization))).toEqual(
      new Set([`Bearer ${goodToken}`]),
    );
  });

  test('no such model, for us', async () => {
    hub.repositories.set('owner/private', { ...model, private: true });
    const { pull: get } = fresh();
    for (const name of ['hf:owner/none', 'hf:owner/private']) {
      expect((await errorOf(() => get(name))).message).toMatch(/shows no such model.*HF_TOKEN/);
      expect((await errorOf(() => get(name, { token: 'hf_other' }))).message).toMatch(/to the owner of this token/);
    }
    await get('hf:owner/private', { token: goodToken });
    expect(hub.seen.length < 30).toBe(true); // such answers are not asked again
  });
});

describe('offline', () => {
  test('what is in the cache, without a request; else how to get it', async () => {
    const { pull: get, folder } = fresh();
    const before = await errorOf(() => get('hf:owner/name', { offline: true }));
    expect(before).toMatchObject({ code: 'IO', message: expect.stringContaining('lowbit pull hf:owner/name') as string });
    const { path: place } = await get();
    hub.reset();
    expect(await get('hf:owner/name', { offline: true })).toEqual({
      path: place,
      repo: 'owner/name',
      revision: 'main',
      commit,
      fetchedBytes: 0,
      offline: true,
    });
    expect((await errorOf(() => get('hf:owner/name@v1', { offline: true }))).code).toBe('IO');
    truncateSync(path.join(folder, 'refs', 'main'), 10);
    expect((await errorOf(() => get('hf:owner/name', { offline: true }))).code).toBe('IO');
    expect(hub.seen).toEqual([]);
  });

  test('an incomplete model names what is missing', async () => {
    const { pull: get } = fresh();
    hub.fault = (request) => (isContent(request) ? { cutAfter: 10 } : undefined);
    await errorOf(() => get(`hf:owner/name@${commit}`, { attempts: 1 }));
    expect((await errorOf(() => get(`hf:owner/name@${commit}`, { offline: true }))).message).toContain('model.safetensors');
  });

  test('a hub that cannot be reached: the cache is used and the result says so', async () => {
    const { pull: get, cacheDir } = fresh();
    const { path: place } = await get();
    const dead = await TestHub.start();
    const endpoint = dead.endpoint;
    await dead.stop();
    expect(await get('hf:owner/name', { endpoint })).toMatchObject({
      path: place,
      offline: true,
      note: expect.stringMatching(/cached commit c0ffee.*ECONNREFUSED/) as string,
    });
    const error = await errorOf(() => get('hf:owner/other', { endpoint }));
    expect(error).toMatchObject({ code: 'IO', message: expect.stringMatching(/Cannot reach .*ECONNREFUSED/) as string });
    expect(existsSync(path.join(cacheDir, 'models--owner--other'))).toBe(false);
  });
});

describe('disk', () => {
  test('a cache that cannot be written', async () => {
    const file = path.join(scratch, 'a-file');
    writeFileSync(file, 'x');
    chmodSync(file, 0o444);
    const error = await errorOf(() => fresh().pull('hf:owner/name', { cacheDir: path.join(file, 'cache') }));
    expect(error).toMatchObject({ code: 'IO', message: expect.stringContaining('a-file') as string });
    expect(hub.downloads).toEqual([]);
  });

  test('too little room is found before the download', async () => {
    const huge: Repository = { files: { 'config.json': Buffer.from('{}'), 'model.safetensors': bytes(10) } };
    hub.repositories.set('owner/huge', huge);
    const answer = globalThis.fetch;
    globalThis.fetch = (async (url: string, init: RequestInit) => {
      const response = await answer(url, init);
      return url.includes('/tree/') ? new Response((await response.text()).replaceAll('"size":10', '"size":1000000000000000')) : response;
    }) as typeof fetch;
    try {
      expect(await errorOf(() => fresh().pull('hf:owner/huge'))).toMatchObject({
        code: 'IO',
        message: expect.stringMatching(/needs 1000000000000002 bytes.*HF_HUB_CACHE/) as string,
      });
    } finally {
      globalThis.fetch = answer;
    }
    expect(hub.downloads).toEqual([]);
  });
});

describe('where models are accepted', () => {
  test('inspect, loadModel, quantize and convert', async () => {
    const files = Object.fromEntries(tinyCheckpoint());
    hub.repositories.set('owner/tiny', { files });
    const { options, cacheDir } = fresh();
    const summary = await inspect('hf:owner/tiny', { hub: options });
    expect(summary).toMatchObject({ architecture: 'llama', hub: { commit, repo: 'owner/tiny' } });
    expect(summary.path).toContain(cacheDir);
    await using model = await loadModel('hf:owner/tiny', { hub: { ...options, offline: true } });
    expect(model.info).toMatchObject({ path: summary.path, hub: { commit, fetchedBytes: 0, offline: true } });
    const output = path.join(scratch, 'quantized');
    const bad = await errorOf(() => quantize({ model: 'hf:owner/none', output, method: 'rtn', groupSize: 5 as 32, hub: options }));
    expect(bad.message).not.toContain('owner/none'); // nothing is asked for a run that cannot start
    const report = await quantize({ model: 'hf:owner/tiny', output, method: 'rtn', groupSize: 32, hub: options });
    expect(report.model).toMatchObject({ name: 'hf:owner/tiny', commit });
    expect(readFileSync(path.join(output, 'config.json'), 'utf8')).toContain('quantization_config');
    const converted = await convert({ model: 'hf:owner/tiny', output: path.join(scratch, 'converted'), to: 'gguf', hub: options });
    expect(converted).toMatchObject({ hub: { commit, repo: 'owner/tiny' }, output: path.join(scratch, 'converted', 'model.gguf') });
  });

  test('a model that a Python tool put into the cache', async () => {
    const { options, folder } = fresh();
    const snapshot = path.join(folder, 'snapshots', commit);
    mkdirSync(snapshot, { recursive: true });
    mkdirSync(path.join(folder, 'refs'));
    writeFileSync(path.join(folder, 'refs', 'main'), commit);
    for (const name of ['config.json', 'model.safetensors', 'tokenizer.json', 'tokenizer_config.json', 'generation_config.json']) {
      writeFileSync(path.join(snapshot, name), readFileSync(path.join(storyModel, name)));
    }
    await using model = await loadModel('hf:owner/name', { hub: { ...options, offline: true } });
    expect(model.tokenizer.encode('Once upon a time').length > 0).toBe(true);
  });
});
