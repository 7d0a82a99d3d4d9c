/** Processes and worker threads that end while generations run: they end at once and without a crash. Needs the compiled dist/. */
import { spawnSync } from 'node:child_process';
import path from 'node:path';
import { storyModel } from './fixture';

const library = path.join(__dirname, '..', '..', 'dist', 'index.js');

const begin = `
  const { loadModel } = require(${JSON.stringify(library)});
  const start = async (tokens) => {
    const model = await loadModel(${JSON.stringify(storyModel)});
    const context = await model.createContext({ contextSize: 1000, sequences: 3 });
    const streams = [0, 1, 2].map((sequence) => context.generateTokens('Once upon a time', { sequence, ignoreEos: true }));
    for (const stream of streams) for (let i = 0; i < tokens; i++) await stream.next();
    return streams;
  };`;

function run(script: string): { status: number | null; out: string; error: string } {
  // What a process still holds when it ends abruptly is no leak; under the address sanitizer it would be reported as one.
  const env = { ...process.env, ASAN_OPTIONS: `${process.env.ASAN_OPTIONS ?? ''}:detect_leaks=0` };
  const { status, stdout, stderr } = spawnSync(process.execPath, ['-e', begin + script], { encoding: 'utf8', timeout: 120_000, env });
  return { status, out: stdout, error: stderr };
}

test('generations that nobody reads on do not keep the process alive', () => {
  expect(run(`start(2).then(() => console.log('left'));`)).toEqual({ status: 0, out: 'left\n', error: '' });
});

test('one that is read does', () => {
  const { status, out } = run(`start(2).then(async ([one]) => { let n = 2; for await (const _ of one) n++; console.log(n); });`);
  expect({ status, out }).toEqual({ status: 0, out: '997\n' });
});

test('process.exit while all are read', () => {
  expect(run(`start(2).then((streams) => { for (const s of streams) void s.next(); process.exit(7); });`).status).toBe(7);
});

test('worker threads that are terminated at any moment', () => {
  const worker = `${begin} start(1).then(async (streams) => {
    require('node:worker_threads').parentPort.postMessage(0);
    await Promise.all(streams.map(async (s) => { for await (const _ of s); }));
  });`;
  const script = `
    const { Worker } = require('node:worker_threads');
    (async () => {
      for (let i = 0; i < 6; i++) {
        const worker = new Worker(${JSON.stringify(worker)}, { eval: true });
        await new Promise((resolve) => worker.on('message', resolve));
        for (let turns = 0; turns < i * 20; turns++) await new Promise(setImmediate);
        await worker.terminate();
      }
      console.log('done');
    })();`;
  expect(run(script)).toEqual({ status: 0, out: 'done\n', error: '' });
}, 120_000);
