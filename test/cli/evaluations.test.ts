/** `lowbit multiple-choice` and the protocols of `lowbit perplexity` in a process of their own. Needs `npm run build:ts`. */
import { spawnSync } from 'node:child_process';
import { existsSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { temporaryDirectory } from '../checkpoint/support';
import { storyModel } from '../generate/fixture';

const main = path.join(__dirname, '..', '..', 'dist', 'cli', 'main.js');
const scratch = temporaryDirectory();
beforeAll(() => {
  if (!existsSync(main)) throw new Error('dist/cli/main.js is missing: run npm run build:ts first');
});

function lowbit(...args: string[]): { readonly status: number | null; readonly stdout: string; readonly stderr: string } {
  return spawnSync(process.execPath, [main, ...args], { encoding: 'utf8' });
}

test('multiple-choice: text and JSON', () => {
  const file = path.join(scratch, 'tasks.jsonl');
  const item = { context: 'Once upon a time, there was a little', choices: ['girl', 'xylophone quartz'], answer: 0 };
  writeFileSync(file, `${JSON.stringify(item)}\n${JSON.stringify({ ...item, answer: 1 })}\n`);
  const plain = lowbit('multiple-choice', storyModel, '--file', file);
  expect(plain).toMatchObject({
    status: 0,
    stdout: expect.stringMatching(/^Accuracy 50\.00 \+\/- 50\.00 %\nNormalised by characters /) as string,
  });
  const { status, stdout } = lowbit(
    'multiple-choice',
    storyModel,
    '--file',
    file,
    '--no-bos',
    '--normalization',
    'bytes',
    '--limit',
    '1',
    '--json',
  );
  expect(status).toBe(0);
  expect(JSON.parse(stdout)).toMatchObject({
    items: 1,
    accuracy: 1,
    standard_error: 0,
    normalization: 'bytes',
    add_bos: false,
    truncated: 0,
    results: [{ answer: 0, chosen: 0 }],
    model: storyModel,
  });
  writeFileSync(file, '{}\n');
  expect(lowbit('multiple-choice', storyModel, '--file', file)).toMatchObject({
    status: 1,
    stderr: expect.stringContaining(`${file}:1: `) as string,
  });
});

test("perplexity in Hugging Face's protocol", () => {
  const args = [
    'perplexity',
    storyModel,
    '--text',
    path.join(storyModel, 'text.txt'),
    '--protocol',
    'huggingface',
    '--context',
    '64',
    '--stride',
    '48',
  ];
  const { status, stdout } = lowbit(...args, '--chunks', '3', '--json');
  expect(status).toBe(0);
  expect(JSON.parse(stdout)).toMatchObject({ protocol: 'huggingface', context_size: 64, stride: 48, chunks: 3, tokens: 63 + 48 + 48 });
  expect(lowbit(...args, '--chunks', '3').stdout).toMatch(/protocol huggingface, stride 48, BOS/);
});
