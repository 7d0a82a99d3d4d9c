/**
 * A Hugging Face hub of its own on 127.0.0.1, for tests: the routes that models are fetched by, with the headers and error codes of the real
 * one, and large files behind a redirect to another origin as its CDN is. Faults are planted per request. Independent of lib/hub.
 */
import { createHash } from 'node:crypto';
import { type IncomingMessage, type Server, type ServerResponse, createServer } from 'node:http';
import type { AddressInfo } from 'node:net';

export interface Seen {
  readonly origin: 'hub' | 'cdn';
  readonly method: string;
  /** Without the query. */
  readonly path: string;
  readonly range: string | undefined;
  readonly authorization: string | undefined;
}

/** What goes wrong with a request. */
export interface Fault {
  readonly status?: number;
  readonly headers?: Readonly<Record<string, string>>;
  /** Bytes of the body after which the connection is cut. */
  readonly cutAfter?: number;
  /** Bytes after which nothing comes any more until the test ends. */
  readonly stallAfter?: number;
  /** Answer 200 with everything. */
  readonly ignoreRange?: boolean;
  /** Instead of the body. */
  readonly body?: Uint8Array;
}

export interface Repository {
  readonly files: Readonly<Record<string, Uint8Array>>;
  /** Files that are stored as large ones: by SHA-256, behind the redirect. Default: *.safetensors and *.gguf. */
  readonly large?: (path: string) => boolean;
  readonly revisions?: Readonly<Record<string, string>>;
  readonly gated?: boolean;
  readonly private?: boolean;
}

export const commit = 'c0ffee'.padEnd(40, '0');
export const goodToken = 'hf_good';

export const sha256 = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');
export const gitSha1 = (bytes: Uint8Array): string => createHash('sha1').update(`blob ${bytes.length}\0`).update(bytes).digest('hex');
const isLarge = ({ large = (path: string) => /\.(safetensors|gguf)$/.test(path) }: Repository, path: string): boolean => large(path);
export const etagOf = (repository: Repository, path: string): string =>
  (isLarge(repository, path) ? sha256 : gitSha1)(repository.files[path] as Uint8Array);

export class TestHub {
  readonly repositories = new Map<string, Repository>();
  readonly seen: Seen[] = [];
  /** Asked for every request. */
  fault: (request: Seen) => Fault | undefined = () => undefined;
  /** Files per answer of the file list. */
  pageSize = 1000;
  /** Whether the second page of the file list is at another origin. */
  pagesElsewhere = false;
  private readonly contents = new Map<string, Uint8Array>();

  private constructor(
    private readonly hub: Server,
    private readonly cdn: Server,
  ) {
    hub.on('request', (request: IncomingMessage, response: ServerResponse) => void this.answer('hub', request, response));
    cdn.on('request', (request: IncomingMessage, response: ServerResponse) => void this.answer('cdn', request, response));
  }

  static async start(): Promise<TestHub> {
    const servers = [createServer(), createServer()] as const;
    for (const server of servers) await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    return new TestHub(...servers);
  }

  async stop(): Promise<void> {
    for (const server of [this.hub, this.cdn]) {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    }
  }

  get endpoint(): string {
    return originOf(this.hub);
  }

  /** Requests for contents, not for what there is. */
  get downloads(): Seen[] {
    return this.seen.filter(({ path }) => path.includes('/resolve/') || path.startsWith('/content/'));
  }

  reset(): void {
    this.seen.length = 0;
    this.fault = () => undefined;
    this.pageSize = 1000;
    this.pagesElsewhere = false;
  }

  private async answer(origin: 'hub' | 'cdn', request: IncomingMessage, response: ServerResponse): Promise<void> {
    let body = '';
    for await (const chunk of request) body += String(chunk);
    const url = new URL(request.url ?? '/', this.endpoint);
    const { authorization, range } = request.headers;
    const seen: Seen = { origin, method: request.method ?? '', path: decodeURIComponent(url.pathname), range, authorization };
    this.seen.push(seen);
    const fault = this.fault(seen) ?? {};
    if (fault.status !== undefined) return void response.writeHead(fault.status, fault.headers).end('broken on purpose');
    if (origin === 'cdn' && seen.path.startsWith('/content/')) {
      this.send(response, seen, fault, this.contents.get(seen.path.slice('/content/'.length)) as Uint8Array, {});
      return;
    }
    const route = /^\/(?:api\/models\/)?([^/]+\/[^/]+)\/(revision|tree|paths-info|resolve)\/(.*)$/.exec(url.pathname);
    const repository = this.repositories.get(route?.[1] ?? '');
    const refuse = (status: number, code: string): void =>
      void response.writeHead(status, { 'X-Error-Code': code, 'X-Error-Message': code }).end();
    if (route === null || repository === undefined || (repository.private === true && authorization !== `Bearer ${goodToken}`)) {
      refuse(authorization === undefined ? 401 : 404, 'RepoNotFound');
      return;
    }
    const [, name, kind, rest] = route as unknown as [string, string, string, string];
    const cut = kind === 'resolve' ? rest.indexOf('/') : rest.length;
    const revision = decodeURIComponent(rest.slice(0, cut));
    const found = revision === commit ? commit : { main: commit, ...repository.revisions }[revision];
    if (found === undefined) {
      refuse(404, 'RevisionNotFound');
      return;
    }
    const json = (value: unknown, headers: Record<string, string> = {}): void =>
      void response.writeHead(200, { 'content-type': 'application/json', ...headers }).end(JSON.stringify(value));
    if (kind === 'revision') {
      json({ _id: '1', id: name, sha: found, private: repository.private ?? false, gated: repository.gated ? 'manual' : false });
      return;
    }
    if (kind === 'paths-info') {
      const wanted = (JSON.parse(body) as { paths: string[] }).paths;
      json(wanted.filter((path) => Object.hasOwn(repository.files, path)).map((path) => entryOf(repository, path)));
      return;
    }
    if (kind === 'tree') {
      const paths = Object.keys(repository.files).filter((path) => !path.includes('/'));
      const start = Number(url.searchParams.get('cursor') ?? 0);
      const end = start + this.pageSize;
      url.searchParams.set('cursor', String(end));
      const entries = paths.slice(start, end).map((path) => entryOf(repository, path));
      json([...entries, { type: 'directory', path: 'folder', size: 0, oid: gitSha1(Buffer.from('')) }], {
        ...(end < paths.length
          ? { link: `<${this.pagesElsewhere ? originOf(this.cdn) + url.pathname + url.search : url.href}>; rel="next"` }
          : {}),
      });
      return;
    }
    if (repository.gated === true && authorization !== `Bearer ${goodToken}`) {
      refuse(authorization === undefined ? 401 : 403, 'GatedRepo');
      return;
    }
    const path = decodeURIComponent(rest.slice(cut + 1));
    const content = repository.files[path];
    if (content === undefined) {
      refuse(404, 'EntryNotFound');
      return;
    }
    const etag = etagOf(repository, path);
    const headers = { 'X-Repo-Commit': found, ETag: `"${etag}"`, 'Accept-Ranges': 'bytes' };
    if (!isLarge(repository, path)) {
      this.send(response, seen, fault, content, headers);
      return;
    }
    this.contents.set(etag, content);
    response.writeHead(302, {
      ...headers,
      Location: `${originOf(this.cdn)}/content/${etag}`,
      'X-Linked-Etag': `"${etag}"`,
      'X-Linked-Size': String(content.length),
    });
    response.end();
  }

  private send(response: ServerResponse, seen: Seen, fault: Fault, content: Uint8Array, headers: Record<string, string>): void {
    const whole = fault.body ?? content;
    const match = fault.ignoreRange === true ? null : /^bytes=(\d+)-$/.exec(seen.range ?? '');
    const start = Number(match?.[1] ?? 0);
    if (match !== null && start >= whole.length) return void response.writeHead(416, { 'content-range': `bytes */${whole.length}` }).end();
    const part = whole.subarray(start);
    const range = { 'content-range': `bytes ${start}-${whole.length - 1}/${whole.length}` };
    response.writeHead(match === null ? 200 : 206, { ...headers, ...(match === null ? {} : range), 'content-length': part.length });
    const stop = fault.cutAfter ?? fault.stallAfter;
    if (stop === undefined) return void response.end(part);
    response.write(part.subarray(0, stop), () => {
      if (fault.cutAfter !== undefined) response.destroy();
    });
  }
}

const originOf = (server: Server): string => `http://127.0.0.1:${(server.address() as AddressInfo).port}`;

function entryOf(repository: Repository, path: string): Record<string, unknown> {
  const content = repository.files[path] as Uint8Array;
  const common = { type: 'file', path, size: content.length };
  if (!isLarge(repository, path)) return { ...common, oid: gitSha1(content) };
  // Of a large file, git itself holds a pointer.
  const lfs = { oid: sha256(content), size: content.length, pointerSize: 130 };
  return { ...common, oid: gitSha1(Buffer.from(lfs.oid)), lfs, xetHash: 'f'.repeat(64) };
}
