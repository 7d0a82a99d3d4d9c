/** Version of this package, from package.json at its root. */
import { readFileSync } from 'node:fs';
import path from 'node:path';

export const packageVersion: string = (
  JSON.parse(readFileSync(path.join(__dirname, '..', '..', 'package.json'), 'utf8')) as { version: string }
).version;
