/**
 * hub: the one place that reads the environment: where the hub and its cache are, and who is asking. The variables are those of
 * Hugging Face's Python tools, so that both share one cache and one login.
 */
import { readFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { LowbitError, invalidArgument } from '../errors';
import type { HubOptions } from './options';

export interface HubSettings {
  /** Origin and path of the hub without a slash at the end. */
  readonly endpoint: string;
  readonly cacheDir: string;
  readonly token: string | undefined;
  readonly offline: boolean;
}

type Environment = Readonly<Record<string, string | undefined>>;

/**
 * Options, then the environment, then defaults.
 *
 * - endpoint: HF_ENDPOINT, https://huggingface.co
 * - cacheDir: HF_HUB_CACHE, HUGGINGFACE_HUB_CACHE, <HF_HOME>/hub; HF_HOME is $XDG_CACHE_HOME/huggingface or ~/.cache/huggingface
 * - token: HF_TOKEN, HUGGING_FACE_HUB_TOKEN, the file HF_TOKEN_PATH or <HF_HOME>/token; an empty one is none
 * - offline: LOWBIT_OFFLINE or HF_HUB_OFFLINE is 1, true, yes or on
 *
 * @throws {LowbitError} INVALID_ARGUMENT for an endpoint that is no http(s) address
 */
export function hubSettings(options: HubOptions, environment: Environment = process.env): HubSettings {
  const variable = (name: string): string | undefined => environment[name]?.trim() || undefined;
  const cacheHome = variable('XDG_CACHE_HOME') ?? path.join(os.homedir(), '.cache');
  const home = expand(variable('HF_HOME') ?? path.join(cacheHome, 'huggingface'));
  const cacheDir = options.cacheDir ?? variable('HF_HUB_CACHE') ?? variable('HUGGINGFACE_HUB_CACHE') ?? path.join(home, 'hub');
  const tokenFile = expand(variable('HF_TOKEN_PATH') ?? path.join(home, 'token'));
  const token = options.token ?? variable('HF_TOKEN') ?? variable('HUGGING_FACE_HUB_TOKEN') ?? tokenIn(tokenFile);
  if (token !== undefined && !/^[\x21-\x7e]*$/.test(token)) {
    throw new LowbitError(
      'INVALID_ARGUMENT',
      'The access token for the hub holds characters that no token has: check HF_TOKEN, or log in again',
      {
        option: 'token',
      },
    );
  }
  const on = (name: string): boolean => /^(1|true|yes|on)$/i.test(variable(name) ?? '');
  return {
    endpoint: checkEndpoint(options.endpoint ?? variable('HF_ENDPOINT') ?? 'https://huggingface.co'),
    cacheDir: path.resolve(expand(cacheDir)),
    token: token === '' ? undefined : token,
    offline: options.offline ?? (on('LOWBIT_OFFLINE') || on('HF_HUB_OFFLINE')),
  };
}

function checkEndpoint(text: string): string {
  const url = URL.canParse(text) ? new URL(text) : undefined;
  if (url === undefined || !/^https?:$/.test(url.protocol) || url.username !== '' || url.search !== '' || url.hash !== '') {
    throw invalidArgument('endpoint', 'http or https address of a hub', text);
  }
  return url.href.replace(/\/+$/, '');
}

const expand = (folder: string): string => folder.replace(/^~(?=$|[\\/])/, os.homedir());

/** What `hf auth login` left. A file that cannot be read is no token: most models need none. */
function tokenIn(file: string): string | undefined {
  try {
    return readFileSync(file, 'utf8').trim() || undefined;
  } catch {
    return undefined;
  }
}
