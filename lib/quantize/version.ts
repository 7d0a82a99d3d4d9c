/** lib/quantize: the version that reports and journals name. */
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { LowbitError } from '../errors';

/** Of the package this file belongs to; lib/ and dist/ lie equally deep. */
export function packageVersion(): string {
  const file = path.join(__dirname, '..', '..', 'package.json');
  const { version } = JSON.parse(readFileSync(file, 'utf8')) as { readonly version?: unknown };
  if (typeof version !== 'string') throw new LowbitError('INTERNAL', `${file} has no version`);
  return version;
}
