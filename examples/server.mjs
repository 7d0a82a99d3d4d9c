/**
 * A text server with server-sent events on plain node:http. node examples/server.mjs <model> [port]
 *
 *   curl -N localhost:8080/generate -d '{"prompt": "Once upon a time", "maxTokens": 50}'
 *
 * Requests run together, up to eight in one pass over the weights; those beyond the context's sequences wait for their turn. A
 * client that leaves aborts its work only.
 */
import { createServer } from 'node:http';
import process from 'node:process';
import { LowbitError, loadModel } from 'lowbit';

const [path, port = '8080'] = process.argv.slice(2);
const model = await loadModel(path);
const context = await model.createContext({ sequences: 8, contextSize: Math.min(1024, model.contextLength) });
const mostWaiting = 64;
let requests = 0;

async function body(request) {
  let text = '';
  for await (const chunk of request.setEncoding('utf8')) {
    text += chunk;
    if (text.length > 1 << 20) throw new LowbitError('INVALID_ARGUMENT', 'The request is larger than 1 MiB');
  }
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw new LowbitError('INVALID_ARGUMENT', 'The request body is not JSON', {}, { cause });
  }
}

async function generate(request, response) {
  const abort = new AbortController();
  response.once('close', () => abort.abort());
  const send = (event) => response.write(`data: ${JSON.stringify(event)}\n\n`);
  try {
    const { prompt, maxTokens = 128, temperature = 0.7, topP = 0.95, stop } = await body(request);
    const stream = context.generate(prompt, { maxTokens, temperature, topP, stop, sequence: 'any', signal: abort.signal });
    response.writeHead(200, { 'content-type': 'text/event-stream', 'cache-control': 'no-cache' });
    for await (const text of stream) send({ text });
    send({ finishReason: stream.result.finishReason, tokens: stream.result.tokens.length });
  } catch (error) {
    if (abort.signal.aborted) return; // the client has left
    const { code = 'INTERNAL', message } = error;
    if (response.headersSent) send({ error: { code, message } });
    else
      response
        .writeHead(code === 'INVALID_ARGUMENT' ? 400 : 500, { 'content-type': 'application/json' })
        .write(JSON.stringify({ error: { code, message } }));
  } finally {
    response.end();
  }
}

const server = createServer(async (request, response) => {
  if (request.method !== 'POST' || request.url !== '/generate') return response.writeHead(404).end();
  if (requests === context.sequences + mostWaiting) return response.writeHead(503, { 'retry-after': '1' }).end();
  requests++;
  await generate(request, response);
  requests--;
});
server.listen(Number(port), '127.0.0.1', () => console.log(`listening on http://127.0.0.1:${server.address().port}/generate`));

process.once('SIGINT', () => {
  server.close(() => void model.dispose());
  server.closeAllConnections();
});
