/** Hugging Face directories: what is found where, and what is refused. */
import fs from 'node:fs';
import path from 'node:path';
import { openCheckpoint } from '../../lib/checkpoint';
import { FIXTURES, errorOf, safetensorsFile, temporaryDirectory } from './support';

const root = temporaryDirectory();
let count = 0;

type Files = Readonly<Record<string, string | Uint8Array | object>>;

/** A new directory with these files; objects are written as JSON. */
function directoryWith(files: Files): string {
  const directory = path.join(root, String(count++));
  fs.mkdirSync(directory);
  for (const [name, content] of Object.entries(files)) {
    fs.writeFileSync(
      path.join(directory, name),
      typeof content === 'string' || content instanceof Uint8Array ? content : JSON.stringify(content),
    );
  }
  return directory;
}

const weights = (...names: string[]): Buffer =>
  safetensorsFile(
    Object.fromEntries(names.map((name, i) => [name, { dtype: 'U8', shape: [1], data_offsets: [i, i + 1] }])),
    new Uint8Array(names.length),
  );

test('tiny-stories', async () => {
  const directory = path.join(FIXTURES, 'tiny-stories');
  const checkpoint = await openCheckpoint(directory);
  expect(checkpoint).toMatchObject({ kind: 'hf', path: directory, files: [path.join(directory, 'model.safetensors')] });
  expect(checkpoint.config['model_type']).toBe('llama');
  expect(checkpoint.tokenizerConfig['bos_token']).toBe('<s>');
  expect(checkpoint.generationConfig['eos_token_id']).toBe(2);
  expect(checkpoint.tokenizerJson).toHaveProperty('model');
  expect(checkpoint.conventions).toEqual({ ropePermuted: false, normPlusOneStored: false });
  const i = checkpoint.find('model.layers.1.self_attn.k_proj.weight') as number;
  expect(checkpoint.tensors[i]).toMatchObject({ name: 'model.layers.1.self_attn.k_proj.weight', dtype: 'BF16', shape: [64, 128], file: 0 });
  expect(checkpoint.find('lm_head.weight')).toBeUndefined();
  expect(checkpoint.find('toString')).toBeUndefined();
});

test('a relative path and a trailing separator', async () => {
  const directory = path.relative(process.cwd(), path.join(FIXTURES, 'tiny-stories')) + path.sep;
  expect((await openCheckpoint(directory)).path).toBe(path.join(FIXTURES, 'tiny-stories'));
});

test('the least: config and weights', async () => {
  const checkpoint = await openCheckpoint(directoryWith({ 'config.json': {}, 'anything.safetensors': weights('a') }));
  expect(checkpoint).toMatchObject({ tokenizerJson: undefined, tokenizerConfig: {}, generationConfig: {}, chatTemplate: undefined });
  expect(checkpoint.files.map((file) => path.basename(file))).toEqual(['anything.safetensors']);
});

test('model.safetensors is taken when others lie beside it', async () => {
  const checkpoint = await openCheckpoint(
    directoryWith({ 'config.json': {}, 'model.safetensors': weights('a'), 'expected.safetensors': weights('b') }),
  );
  expect(checkpoint.tensors.map(({ name }) => name)).toEqual(['a']);
});

const INDEX = 'model.safetensors.index.json';
const sharded = (map: unknown, extra: Files = {}): string =>
  directoryWith({
    'config.json': {},
    '1.safetensors': weights('a', 'b'),
    '2.safetensors': weights('c'),
    [INDEX]: { weight_map: map },
    ...extra,
  });

test('shards', async () => {
  const checkpoint = await openCheckpoint(sharded({ c: '2.safetensors', a: '1.safetensors', b: '1.safetensors' }));
  expect(checkpoint.tensors.map(({ name, file }) => [name, path.basename(checkpoint.files[file] as string)])).toEqual([
    ['a', '1.safetensors'],
    ['b', '1.safetensors'],
    ['c', '2.safetensors'],
  ]);
});

test.each<[string, () => string, string, string]>([
  ['a shard that is not there', () => sharded({ a: '3.safetensors' }), 'IO', 'names the shard 3.safetensors, which is not in'],
  ['a path upwards', () => sharded({ a: '../1.safetensors' }), 'CORRUPT_FILE', 'weight_map names "../1.safetensors" for "a"'],
  [
    'a path upwards in Windows style',
    () => sharded({ a: '..\\1.safetensors' }),
    'CORRUPT_FILE',
    'expected the name of a *.safetensors file',
  ],
  ['an absolute path', () => sharded({ a: '/etc/x.safetensors' }), 'CORRUPT_FILE', 'expected the name of a *.safetensors file'],
  ['a drive', () => sharded({ a: 'C:x.safetensors' }), 'CORRUPT_FILE', 'expected the name of a *.safetensors file'],
  ['another kind of file', () => sharded({ a: 'config.json' }), 'CORRUPT_FILE', 'expected the name of a *.safetensors file'],
  ['a number as file', () => sharded({ a: 1 }), 'CORRUPT_FILE', 'weight_map names 1'],
  [
    'a tensor that is in no shard',
    () => sharded({ x: '1.safetensors' }),
    'CORRUPT_FILE',
    '"x" is in 1.safetensors, but it is in none of the shards',
  ],
  [
    'a tensor in another shard',
    () => sharded({ a: '2.safetensors', c: '2.safetensors', b: '1.safetensors' }),
    'CORRUPT_FILE',
    '"a" is in 2.safetensors, but it is in 1.safetensors',
  ],
  ['an index without map', () => sharded(undefined), 'CORRUPT_FILE', 'has no weight_map'],
  ['an empty map', () => sharded({}), 'CORRUPT_FILE', 'weight_map is empty'],
  [
    'a tensor in two shards',
    () => sharded({ a: '1.safetensors', c: '2.safetensors' }, { '2.safetensors': weights('a', 'c') }),
    'CORRUPT_FILE',
    'the tensor "a" stands also in',
  ],
  [
    'an index with a name twice',
    () => sharded({}, { [INDEX]: '{"weight_map":{"a":"1.safetensors","a":"2.safetensors"}}' }),
    'CORRUPT_FILE',
    'key "a" twice',
  ],
  [
    'a broken shard',
    () => sharded({ a: '1.safetensors', c: '2.safetensors' }, { '2.safetensors': Buffer.alloc(3) }),
    'CORRUPT_FILE',
    '2.safetensors: has 3 bytes',
  ],
  ['no config', () => directoryWith({ 'model.safetensors': weights('a') }), 'IO', 'No config.json in'],
  ['no weights', () => directoryWith({ 'config.json': {} }), 'IO', 'No weights in'],
  [
    'pickled weights',
    () => directoryWith({ 'config.json': {}, 'pytorch_model.bin': 'x' }),
    'UNSUPPORTED',
    'convert the model to safetensors',
  ],
  [
    'several files without index',
    () => directoryWith({ 'config.json': {}, 'a.safetensors': weights('a'), 'b.safetensors': weights('b') }),
    'CORRUPT_FILE',
    'has 2 safetensors files but no',
  ],
  [
    'a config that is no JSON',
    () => directoryWith({ 'config.json': '{', 'model.safetensors': weights('a') }),
    'CORRUPT_FILE',
    'config.json: the file is no valid JSON',
  ],
  [
    'a config that is a list',
    () => directoryWith({ 'config.json': '[]', 'model.safetensors': weights('a') }),
    'CORRUPT_FILE',
    'expected a JSON object',
  ],
  [
    'a config that is null',
    () => directoryWith({ 'config.json': 'null', 'model.safetensors': weights('a') }),
    'CORRUPT_FILE',
    'expected a JSON object but found null',
  ],
  [
    'a tokenizer that is no JSON',
    () => directoryWith({ 'config.json': {}, 'model.safetensors': weights('a'), 'tokenizer.json': 'x' }),
    'CORRUPT_FILE',
    'tokenizer.json',
  ],
  ['nothing', () => path.join(root, 'missing'), 'IO', 'it does not exist: check the path'],
  ['a weight file', () => path.join(FIXTURES, 'tiny-stories', 'model.safetensors'), 'INVALID_ARGUMENT', 'give the directory that holds it'],
  ['no path', () => '', 'INVALID_ARGUMENT', 'Expected path of a directory or a .gguf file for path but received "" of type string'],
])('%s', async (_, make, code, text) => {
  const directory = make();
  const error = await errorOf(() => openCheckpoint(directory));
  expect(error.code).toBe(code);
  expect(error.message).toContain(text);
});

test('a directory in place of a file', async () => {
  const directory = directoryWith({ 'config.json': {} });
  fs.mkdirSync(path.join(directory, 'model.safetensors'));
  expect((await errorOf(() => openCheckpoint(directory))).message).toContain('no regular file');
});

test('keys of the object prototype in a configuration change nothing', async () => {
  const directory = directoryWith({
    'config.json': '{"__proto__":{"polluted":true},"constructor":1}',
    'model.safetensors': weights('a'),
    'quantize_config.json': { bits: 4 },
  });
  const { config } = await openCheckpoint(directory);
  expect(({} as Record<string, unknown>)['polluted']).toBeUndefined();
  expect(config['polluted']).toBeUndefined();
  expect(config['quantization_config']).toEqual({ bits: 4 });
});

test('quantize_config.json counts only when config.json is silent', async () => {
  const open = async (config: object): Promise<unknown> =>
    (await openCheckpoint(directoryWith({ 'config.json': config, 'model.safetensors': weights('a'), 'quantize_config.json': { bits: 4 } })))
      .config['quantization_config'];
  expect(await open({})).toEqual({ bits: 4 });
  expect(await open({ quantization_config: null })).toEqual({ bits: 4 });
  expect(await open({ quantization_config: { bits: 8 } })).toEqual({ bits: 8 });
});

test.each<[string, Files, string | undefined]>([
  ['the file wins', { 'chat_template.jinja': 'file', 'tokenizer_config.json': { chat_template: 'config' } }, 'file'],
  ['tokenizer_config.json', { 'tokenizer_config.json': { chat_template: 'config' } }, 'config'],
  [
    'the default of a list',
    {
      'tokenizer_config.json': {
        chat_template: [
          { name: 'rag', template: 'r' },
          { name: 'default', template: 'd' },
        ],
      },
    },
    'd',
  ],
  ['a list without default', { 'tokenizer_config.json': { chat_template: [{ name: 'rag', template: 'r' }, null] } }, undefined],
  ['none', {}, undefined],
])('chat template: %s', async (_, files, expected) => {
  expect((await openCheckpoint(directoryWith({ 'config.json': {}, 'model.safetensors': weights('a'), ...files }))).chatTemplate).toBe(
    expected,
  );
});

test('abort', async () => {
  const error = await errorOf(() => openCheckpoint(path.join(FIXTURES, 'tiny-stories'), { signal: AbortSignal.abort() }));
  expect(error.code).toBe('CANCELLED');
});
