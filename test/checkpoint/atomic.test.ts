/** withAtomicDirectory: output is whole, or as it was before. */
import fs from 'node:fs';
import path from 'node:path';
import { withAtomicDirectory } from '../../lib/checkpoint';
import { errorOf, temporaryDirectory } from './support';

const root = temporaryDirectory();
let count = 0;
function newParent(): string {
  const parent = path.join(root, String(count++));
  fs.mkdirSync(parent);
  return parent;
}

const write =
  (name: string, text: string) =>
  async (directory: string): Promise<string> => {
    fs.mkdirSync(path.join(directory, 'inner'));
    fs.writeFileSync(path.join(directory, 'inner', name), text);
    return text;
  };

/** All files below a directory with their contents. */
function tree(directory: string): Record<string, string> {
  const names = fs
    .readdirSync(directory, { recursive: true, encoding: 'utf8' })
    .filter((name) => fs.statSync(path.join(directory, name)).isFile());
  return Object.fromEntries(names.sort().map((name) => [name, fs.readFileSync(path.join(directory, name), 'utf8')]));
}

test('a new directory, with parents, and the result of the work', async () => {
  const parent = newParent();
  const output = path.join(parent, 'a', 'b', 'out');
  expect(await withAtomicDirectory(output, write('x', 'new'))).toBe('new');
  expect(tree(parent)).toEqual({ [path.join('a', 'b', 'out', 'inner', 'x')]: 'new' });
});

test('nothing is visible while the work runs', async () => {
  const parent = newParent();
  const output = path.join(parent, 'out');
  await withAtomicDirectory(output, async (directory) => {
    expect(path.dirname(directory)).toBe(parent); // on the same disk
    await write('x', 'new')(directory);
    expect(fs.existsSync(output)).toBe(false);
  });
  expect(fs.readdirSync(parent)).toEqual(['out']);
});

test('an empty directory is filled', async () => {
  const output = path.join(newParent(), 'out');
  fs.mkdirSync(output);
  await withAtomicDirectory(output, write('x', 'new'));
  expect(tree(output)).toEqual({ [path.join('inner', 'x')]: 'new' });
});

test('a non-empty directory is refused before any work', async () => {
  const output = path.join(newParent(), 'out');
  fs.mkdirSync(output);
  fs.writeFileSync(path.join(output, 'precious'), 'old');
  const work = jest.fn();
  const error = await errorOf(() => withAtomicDirectory(output, work));
  expect(error.code).toBe('INVALID_ARGUMENT');
  expect(error.message).toContain('set overwrite to true');
  expect(work).not.toHaveBeenCalled();
  expect(tree(output)).toEqual({ precious: 'old' });
});

test('a directory that filled up meanwhile is refused too', async () => {
  const parent = newParent();
  const output = path.join(parent, 'out');
  const error = await errorOf(() =>
    withAtomicDirectory(output, async () => {
      fs.mkdirSync(output);
      fs.writeFileSync(path.join(output, 'precious'), 'old');
    }),
  );
  expect(error.code).toBe('INVALID_ARGUMENT');
  expect(tree(parent)).toEqual({ [path.join('out', 'precious')]: 'old' });
});

test('overwrite replaces the whole directory', async () => {
  const parent = newParent();
  const output = path.join(parent, 'out');
  await withAtomicDirectory(output, write('x', 'old'));
  await withAtomicDirectory(output, write('y', 'new'), { overwrite: true });
  expect(tree(output)).toEqual({ [path.join('inner', 'y')]: 'new' });
  expect(fs.readdirSync(parent)).toEqual(['out']);
});

test('a failure leaves the old output and nothing else', async () => {
  const parent = newParent();
  const output = path.join(parent, 'out');
  await withAtomicDirectory(output, write('x', 'old'));
  const failure = new Error('no');
  const attempt = withAtomicDirectory(
    output,
    async (directory) => {
      await write('y', 'half')(directory);
      throw failure;
    },
    { overwrite: true },
  );
  await expect(attempt).rejects.toBe(failure);
  expect(tree(parent)).toEqual({ [path.join('out', 'inner', 'x')]: 'old' });
});

test('when the last rename fails the old output comes back', async () => {
  const parent = newParent();
  const output = path.join(parent, 'out');
  await withAtomicDirectory(output, write('x', 'old'));
  const rename = fs.promises.rename.bind(fs.promises);
  const spy = jest.spyOn(fs.promises, 'rename').mockImplementation(async (from, to) => {
    if (to === output && !String(from).endsWith('-old')) throw Object.assign(new Error('no'), { code: 'EACCES' });
    await rename(from, to);
  });
  const error = await errorOf(() => withAtomicDirectory(output, write('y', 'new'), { overwrite: true }));
  spy.mockRestore();
  expect(error.code).toBe('IO');
  expect(error.message).toContain('permission denied');
  expect(tree(parent)).toEqual({ [path.join('out', 'inner', 'x')]: 'old' });
});

test('abort during the work', async () => {
  const parent = newParent();
  const controller = new AbortController();
  const error = await errorOf(() =>
    withAtomicDirectory(
      path.join(parent, 'out'),
      async (directory) => {
        await write('x', 'new')(directory);
        controller.abort();
      },
      { signal: controller.signal },
    ),
  );
  expect(error.code).toBe('CANCELLED');
  expect(fs.readdirSync(parent)).toEqual([]);
});

test('a link at the output stays a link', async () => {
  const parent = newParent();
  const [real, link] = [path.join(parent, 'real'), path.join(parent, 'link')];
  fs.mkdirSync(real);
  fs.symlinkSync(real, link, 'junction');
  await withAtomicDirectory(link, write('x', 'new'));
  expect(fs.lstatSync(link).isSymbolicLink()).toBe(true);
  expect(tree(real)).toEqual({ [path.join('inner', 'x')]: 'new' });
});

test.each([
  ['a file', () => __filename, 'is a file, or lies in one'],
  ['no text', () => 5 as never, 'Expected path of a directory for output'],
  ['an empty text', () => '', 'Expected path of a directory for output'],
  ['the root', () => path.parse(root).root, 'path of a directory to make'],
])('the output is %s', async (_, output, text) => {
  const error = await errorOf(() => withAtomicDirectory(output(), async () => undefined));
  expect(error.code).toBe('INVALID_ARGUMENT');
  expect(error.message).toContain(text);
});

test('a parent that is a file', async () => {
  expect((await errorOf(() => withAtomicDirectory(path.join(__filename, 'out'), async () => undefined))).code).toMatch(
    /^(IO|INVALID_ARGUMENT)$/,
  );
});
