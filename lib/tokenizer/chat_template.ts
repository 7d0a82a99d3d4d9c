/**
 * tokenizer: renders chat templates, which are Jinja programs from the checkpoint, in the environment that transformers gives them.
 */
import { LowbitError, describe, invalidArgument } from '../errors';
import { jinja } from './vendor';

/** A message of a conversation. Further keys that a template reads are passed on. */
export interface ChatMessage {
  readonly role: string;
  readonly content: string;
}

/** A template asks for a list of numbers; it comes from a file, so the list is bounded. */
const MAX_RANGE = 100_000;

export class ChatTemplate {
  private readonly program: unknown;

  /**
   * @param source Jinja
   * @param file for messages
   * @throws {LowbitError} UNSUPPORTED when the template cannot be parsed
   */
  constructor(
    source: string,
    private readonly file: string,
  ) {
    try {
      const { tokenize, parse } = jinja();
      this.program = parse(tokenize(source, { lstrip_blocks: true, trim_blocks: true }));
    } catch (cause) {
      throw this.failure('cannot be read', cause);
    }
  }

  /** @throws {LowbitError} INVALID_ARGUMENT when the template refuses the messages, UNSUPPORTED when it fails */
  render(messages: readonly ChatMessage[], variables: Readonly<Record<string, unknown>>): string {
    const { Environment, Interpreter } = jinja();
    const environment = new Environment();
    const globals: Record<string, unknown> = {
      ...CONSTANTS,
      raise_exception: (message: unknown) => {
        throw new LowbitError('INVALID_ARGUMENT', `The chat template of ${this.file} refuses these messages: ${String(message)}`, {
          option: 'messages',
        });
      },
      range,
      strftime_now: (format: unknown) => strftime(new Date(), String(format)),
      ...variables,
      messages,
    };
    for (const [name, value] of Object.entries(globals)) environment.set(name, value);
    let text: unknown;
    try {
      text = new Interpreter(environment).run(this.program).value;
    } catch (cause) {
      throw cause instanceof LowbitError ? cause : this.failure('fails on these messages', cause);
    }
    if (typeof text !== 'string') throw this.failure('yields no text', undefined);
    return text;
  }

  private failure(what: string, cause: unknown): LowbitError {
    const reason = cause instanceof Error ? `: ${cause.message}` : '';
    return new LowbitError('UNSUPPORTED', `The chat template of ${this.file} ${what}${reason}`, { file: this.file }, { cause });
  }
}

const CONSTANTS = { true: true, false: false, none: null, True: true, False: false, None: null };

/** Checks messages as they come from a user. Returns them. */
export function checkMessages(messages: unknown): readonly ChatMessage[] {
  if (!Array.isArray(messages)) throw invalidArgument('messages', 'array of {role, content}', messages);
  for (const [i, message] of (messages as unknown[]).entries()) {
    const { role, content } = (message ?? {}) as Partial<ChatMessage>;
    if (typeof message !== 'object' || typeof role !== 'string' || typeof content !== 'string') {
      const received =
        typeof message === 'object' && message !== null ? `{role: ${describe(role)}, content: ${describe(content)}}` : describe(message);
      throw new LowbitError('INVALID_ARGUMENT', `Expected {role, content} with two strings for messages[${i}] but received ${received}`, {
        option: 'messages',
      });
    }
  }
  return messages as ChatMessage[];
}

function range(start: unknown, stop?: unknown, step: unknown = 1): number[] {
  const [from, to] = stop === undefined || stop === null ? [0, start] : [start, stop];
  if (typeof from !== 'number' || typeof to !== 'number' || typeof step !== 'number' || step === 0)
    throw new Error('range() needs numbers and a step other than 0');
  const length = Math.max(0, Math.ceil((to - from) / step));
  if (!(length <= MAX_RANGE)) throw new Error(`range() of ${length} numbers`);
  return Array.from({ length }, (_, i) => from + i * step);
}

const MONTHS = 'January February March April May June July August September October November December'.split(' ');
const DAYS = 'Sunday Monday Tuesday Wednesday Thursday Friday Saturday'.split(' ');

/** The conversions of Python's strftime that dates in prompts use, in English as the models were trained, local time. */
export function strftime(date: Date, format: string): string {
  const two = (value: number): string => String(value).padStart(2, '0');
  const month = MONTHS[date.getMonth()] as string;
  const day = DAYS[date.getDay()] as string;
  const hour12 = date.getHours() % 12 || 12;
  const values: Readonly<Record<string, string>> = {
    Y: String(date.getFullYear()),
    y: two(date.getFullYear() % 100),
    m: two(date.getMonth() + 1),
    d: two(date.getDate()),
    e: String(date.getDate()).padStart(2, ' '),
    B: month,
    b: month.slice(0, 3),
    A: day,
    a: day.slice(0, 3),
    H: two(date.getHours()),
    I: two(hour12),
    M: two(date.getMinutes()),
    S: two(date.getSeconds()),
    p: date.getHours() < 12 ? 'AM' : 'PM',
    '%': '%',
  };
  return format.replace(/%(-?)(.)/g, (whole, bare: string, code: string) => {
    const value = Object.hasOwn(values, code) ? (values[code] as string) : undefined;
    if (value === undefined) return whole;
    return bare === '' ? value : value.replace(/^[0 ]+(?=.)/, '');
  });
}
