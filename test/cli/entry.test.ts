/** The two entries of the package: esm.mts lists by hand what index.ts exports. */
import { readFileSync } from 'node:fs';
import path from 'node:path';
import * as lowbit from '../../lib';

const names = [
  'ChatSession',
  'Context',
  'LowbitError',
  'Model',
  'convert',
  'dryRun',
  'engineInfo',
  'evaluate',
  'inspect',
  'loadModel',
  'pull',
  'quantize',
  'renderReport',
];

test('index.ts exports exactly the public names', () => {
  expect(Object.keys(lowbit).sort()).toEqual(names);
  expect(Object.keys(lowbit.evaluate).sort()).toEqual(['compare', 'logits', 'multipleChoice', 'perplexity']);
});

test('esm.mts exports the same', () => {
  const source = readFileSync(path.join(__dirname, '..', '..', 'lib', 'esm.mts'), 'utf8');
  const list = /^export \{([^}]*)\} from '\.\/index\.js';$/m.exec(source)?.[1] ?? '';
  expect(
    list
      .split(',')
      .map((name) => name.trim())
      .filter((name) => name !== '')
      .sort(),
  ).toEqual(names);
});
