/** lowbit chat: a conversation on the terminal, or one turn per line of stdin. */
import { createInterface } from 'node:readline';
import type { Command } from 'commander';
import { ChatSession, LowbitError } from '../../index';
import type { Io } from '../io';
import { defined, parseNumber } from '../parse';
import {
  type RunOptions,
  type SamplingFlags,
  addRunOptions,
  addSamplingOptions,
  examples,
  modelKeys,
  samplingOptions,
  withModel,
} from '../runtime';

interface Flags extends RunOptions, SamplingFlags {
  readonly system?: string;
  readonly prompt?: string;
  readonly context?: number;
}

export function chatCommand(command: Command, io: () => Io, interrupt: () => void): void {
  addRunOptions(
    addSamplingOptions(
      command
        .description('Talk with a model; /reset forgets the conversation, /exit or the end of input leaves')
        .argument('<model>', 'model directory, .gguf file or hf:owner/name')
        .option('-s, --system <text>', 'system prompt')
        .option('-p, --prompt <text>', 'ask this one question and leave')
        .option('-c, --context <tokens>', 'context size (default: what the model was made for, at most 4096)', parseNumber),
      'until the model ends its answer',
    ),
  )
    .addHelpText(
      'after',
      examples(
        'lowbit chat ./model --system "Answer in one sentence."',
        'lowbit chat ./model --prompt "Why is the sky blue?" --max-tokens 100 --json',
      ),
    )
    .action((model: string, flags: Flags) => run(io(), model, flags, interrupt));
}

async function run(io: Io, path: string, flags: Flags, interrupt: () => void): Promise<void> {
  await withModel(io, path, flags, async (model, loadMs) => {
    const context = await model.createContext(defined({ contextSize: flags.context }));
    const chat = new ChatSession(context, defined({ systemPrompt: flags.system }));
    const start = performance.now();
    let tokens = 0;
    const decode = { steps: 0, seconds: 0 };
    const ask = async (question: string): Promise<void> => {
      await chat.prompt(question, { ...samplingOptions(flags), onText: (piece) => io.out(piece), signal: io.signal });
      io.out('\n');
      const { tokens: generated, timing } = chat.lastResult!;
      tokens += generated.length;
      decode.seconds += timing.decodeSeconds;
      decode.steps += timing.decodeSeconds * timing.decodeTokensPerSecond;
    };
    if (flags.prompt !== undefined) await ask(flags.prompt);
    else await converse(io, chat, ask, interrupt);
    io.signal.throwIfAborted();
    io.result({
      messages: chat.history,
      tokens,
      decode_tokens_per_second: decode.seconds > 0 ? decode.steps / decode.seconds : 0,
      seconds: (performance.now() - start) / 1000,
      ...modelKeys(model, loadMs),
    });
  });
}

async function converse(io: Io, chat: ChatSession, ask: (question: string) => Promise<void>, interrupt: () => void): Promise<void> {
  const terminal = io.stdin.isTTY && !io.json;
  const lines = createInterface({ input: io.stdin, ...(terminal ? { output: process.stdout, prompt: '> ' } : {}) });
  const close = (): void => lines.close();
  io.signal.addEventListener('abort', close, { once: true });
  lines.on('SIGINT', interrupt); // readline keeps Ctrl-C to itself on a terminal
  try {
    if (terminal) lines.prompt();
    for await (const line of lines) {
      const question = line.trim();
      if (question === '/exit') break;
      if (question === '/reset') chat.reset();
      else if (question !== '') await (terminal ? ask(question).catch((error: unknown) => explain(io, error)) : ask(question));
      if (terminal) lines.prompt();
    }
  } finally {
    io.signal.removeEventListener('abort', close);
    close();
  }
}

/** On a terminal a question that cannot be asked, such as one that no longer fits, ends the turn and not the conversation. */
function explain(io: Io, error: unknown): void {
  if (!(error instanceof LowbitError) || error.code !== 'INVALID_ARGUMENT') throw error;
  io.note(`${error.message}; /reset forgets the conversation`);
}
