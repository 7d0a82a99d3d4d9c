/** The bench's pure functions; plain JavaScript, so that `npm run bench` needs no build of its own. */
import { createRequire } from 'node:module';
import path from 'node:path';

export const root = path.join(__dirname, '..', '..');
const load = createRequire(__filename);

export function pure(name: string): any {
  return load(path.join(root, 'bench', 'pure', `${name}.cjs`));
}
