/**
 * hub: one request, with a bounded number of retries, the token, and answers turned into errors that say what to do.
 * Knows neither what is asked for nor where it goes.
 */
import { LowbitError } from '../errors';
import type { HubSettings } from './environment';
import { type HubName, printHubName } from './name';

export interface RetryPolicy {
  /** Attempts per request, and per file without a megabyte of progress. */
  readonly attempts: number;
  /** Wait after the first failure; doubles with each. */
  readonly delayMs: number;
}

/** Half a second, one, two, four: gives a server that restarts eight seconds, and a user the error before they give up. */
export const defaultRetry: RetryPolicy = { attempts: 5, delayMs: 500 };

/** A server may ask for a longer wait, but not for any. */
const maxDelayMs = 60_000;
/** The file list of the largest repositories has a few megabytes. */
const maxAnswerBytes = 64e6;

export interface Requester {
  readonly name: HubName;
  readonly settings: HubSettings;
  readonly retry: RetryPolicy;
  readonly signal: AbortSignal | undefined;
}

/** CANCELLED with the signal's reason as cause. */
export function cancelled(signal: AbortSignal | undefined): LowbitError {
  return new LowbitError('CANCELLED', 'The operation was aborted', {}, { cause: signal?.reason });
}

export function throwIfAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw cancelled(signal);
}

/**
 * GET or POST. The token goes to the endpoint's own origin only (fetch drops it on redirects to another one).
 *
 * @returns an answer with status 2xx or one of `accept`, its body unread
 * @throws {LowbitError} IO (details.unreachable when the network or the server failed, not the question), CANCELLED
 */
export async function request(
  { name, settings, retry, signal }: Requester,
  url: string,
  init: { readonly method?: string; readonly headers?: Record<string, string>; readonly body?: string } = {},
  accept: readonly number[] = [],
): Promise<Response> {
  const authorized = settings.token !== undefined && new URL(url).origin === new URL(settings.endpoint).origin;
  const headers = { 'user-agent': 'lowbit', ...init.headers, ...(authorized ? { authorization: `Bearer ${settings.token}` } : {}) };
  for (let attempt = 1; ; attempt++) {
    throwIfAborted(signal);
    let failure: LowbitError;
    let delay = retry.delayMs * 2 ** (attempt - 1);
    try {
      const response = await fetch(url, { ...init, headers, ...(signal ? { signal } : {}) });
      if (response.ok || accept.includes(response.status)) return response;
      await response.body?.cancel();
      failure = answerError(response, name, settings);
      if (response.status !== 408 && response.status !== 429 && response.status < 500) throw failure;
      delay = Math.max(delay, 1000 * Number(/^\d{1,6}$/.exec(response.headers.get('retry-after') ?? '')?.[0] ?? 0));
    } catch (cause) {
      throwIfAborted(signal);
      if (cause instanceof LowbitError) throw cause;
      failure = connectionError(url, name, cause);
    }
    if (attempt >= retry.attempts) throw failure;
    await wait(Math.min(delay, maxDelayMs), signal);
  }
}

/** request() for the hub's library: the same answer, with its body read up to a bound. */
export async function requestAnswer(asker: Requester, url: string, init: Parameters<typeof request>[2]): Promise<Response> {
  const response = await request(asker, url, init);
  const chunks: Uint8Array[] = [];
  let bytes = 0;
  try {
    for await (const chunk of response.body ?? []) {
      bytes += (chunk as Uint8Array).length;
      if (bytes > maxAnswerBytes) break;
      chunks.push(chunk as Uint8Array);
    }
  } catch (cause) {
    throwIfAborted(asker.signal);
    throw connectionError(url, asker.name, cause);
  }
  if (bytes > maxAnswerBytes) {
    throw new LowbitError('IO', `${new URL(url).origin} answers with more than ${maxAnswerBytes} bytes about ${printHubName(asker.name)}`, {
      url,
    });
  }
  return new Response(Buffer.concat(chunks), { status: response.status, headers: response.headers });
}

/** "Cannot reach ...", with the innermost reason: fetch itself only says that it failed. */
export function connectionError(url: string, name: HubName, cause: unknown): LowbitError {
  let reason: { readonly message?: unknown; readonly code?: unknown; readonly cause?: unknown } = cause ?? {};
  for (let depth = 0; depth < 4 && typeof reason.cause === 'object' && reason.cause !== null; depth++) reason = reason.cause;
  const text = String(reason.code ?? reason.message ?? cause);
  return new LowbitError(
    'IO',
    `Cannot reach ${new URL(url).origin} for ${printHubName(name)} (${text}): check the network; a model that is in the cache can be used with offline: true or LOWBIT_OFFLINE=1`,
    { url, unreachable: true },
    { cause },
  );
}

/** What an answer that is no success means. X-Error-Code is the hub's own word for it. */
function answerError({ status, headers }: Response, name: HubName, { endpoint, token }: HubSettings): LowbitError {
  const { repo, revision, file } = name;
  const code = headers.get('x-error-code') ?? '';
  const page = `${endpoint}/${repo}`;
  const make = (text: string, more: Record<string, unknown> = {}): LowbitError =>
    new LowbitError('IO', `${printHubName(name)}: ${text}`, {
      repo,
      revision,
      status,
      ...(code === '' ? {} : { errorCode: code.slice(0, 100) }),
      ...more,
    });
  const login = 'set HF_TOKEN, or the option token, to an access token with read permission';
  if (code === 'GatedRepo') {
    return make(
      `its owner asks you to accept conditions first. Open ${page}, accept them, and ${token === undefined ? login : 'use the token of the same account (it may need the permission to read gated repositories)'}`,
    );
  }
  if (code === 'DisabledRepo') return make('the hub has disabled this repository');
  if (code === 'RevisionNotFound') return make(`there is no branch, tag or commit "${revision}"; see ${page}/tree/main`);
  if (code === 'EntryNotFound') return make(`there is no file ${file ?? 'of this name'} at this revision; see ${page}/tree/${revision}`);
  if (status === 401 || (status === 404 && code === 'RepoNotFound')) {
    return make(
      token === undefined
        ? `${endpoint} shows no such model. Check the name; if it is private or gated, ${login}`
        : `${endpoint} shows no such model to the owner of this token. Check the name, and whether the token is valid and may read it`,
    );
  }
  if (status === 403) return make(`${endpoint} forbids it (403): the token has no permission for it`);
  if (status === 404) return make(`${endpoint} has no such model or revision (404)`);
  if (status === 429) return make(`${endpoint} refuses further requests for now (429): wait, or ${login}`, { unreachable: true });
  return make(`${endpoint} answers with status ${status}`, status >= 500 ? { unreachable: true } : {});
}

/** Waits; an abort ends it at once. */
export function wait(ms: number, signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve, reject) => {
    const end = (): void => {
      clearTimeout(timer);
      signal?.removeEventListener('abort', end);
      if (signal?.aborted) reject(cancelled(signal));
      else resolve();
    };
    const timer = setTimeout(end, signal?.aborted ? 0 : ms);
    signal?.addEventListener('abort', end);
  });
}
