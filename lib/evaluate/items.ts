/** Multiple-choice questions, from JSON Lines or objects: their form, checked. No model is needed. */
import { createReadStream } from 'node:fs';
import { createInterface } from 'node:readline';
import { LowbitError, describe } from '../errors';

/** A question as users write it. Other keys are left alone. */
export interface MultipleChoiceItem {
  /** The text that the choices continue, as it is. Either this or `question`. */
  readonly context?: string;
  /** Becomes the context "Question: ...\nAnswer:". */
  readonly question?: string;
  /** 2 to 1000 texts, none empty. */
  readonly choices: readonly string[];
  /** The right choice: its index from 0, its text, or its letter ("A" is the first). */
  readonly answer: number | string;
}

export interface Question {
  /** File and line, or index, for messages. */
  readonly label: string;
  readonly context: string;
  readonly choices: readonly string[];
  readonly answer: number;
}

const maxChoices = 1000;
/** Characters of one line; the longest questions of public sets have some ten thousand. */
const maxLine = 4e6;
const maxItems = 1e6;

/**
 * Reads questions, one JSON object a line; empty lines are left out.
 *
 * @throws {LowbitError} IO when the file cannot be read; INVALID_ARGUMENT naming file and line
 */
export async function readQuestions(file: string, limit: number): Promise<Question[]> {
  const questions: Question[] = [];
  const stream = createReadStream(file, { encoding: 'utf8' });
  let line = 0;
  try {
    for await (const text of createInterface({ input: stream, crlfDelay: Infinity })) {
      line++;
      if (text.length > maxLine) throw bad(`${file}:${line}`, `the line has more than ${maxLine} characters`);
      const content = line === 1 ? text.replace(/^\uFEFF/, '') : text;
      if (content.trim() === '') continue;
      questions.push(questionOf(parse(content, `${file}:${line}`), `${file}:${line}`));
      if (questions.length >= Math.min(limit, maxItems)) break;
    }
  } catch (cause) {
    if (cause instanceof LowbitError) throw cause;
    const { code } = cause as NodeJS.ErrnoException;
    throw new LowbitError(
      'IO',
      `Cannot read ${file}: ${code === 'ENOENT' ? 'there is no such file' : (code ?? String(cause))}`,
      { file },
      { cause },
    );
  } finally {
    stream.destroy();
  }
  if (questions.length === 0) throw bad(file, 'the file holds no questions: expected one JSON object a line');
  return questions;
}

/** @throws {LowbitError} INVALID_ARGUMENT naming the item */
export function questionsOf(items: readonly unknown[], limit: number): Question[] {
  if (items.length === 0) throw bad('items', 'the list is empty');
  return items.slice(0, limit).map((item, i) => questionOf(item, `items[${i}]`));
}

function parse(text: string, label: string): unknown {
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw bad(label, `the line is no JSON: ${(cause as Error).message.slice(0, 200)}`);
  }
}

function questionOf(value: unknown, label: string): Question {
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw bad(label, 'expected an object with context or question, choices and answer');
  const { context, question, choices, answer } = value as Record<string, unknown>;
  if ((context === undefined) === (question === undefined)) throw bad(label, 'expected exactly one of the keys "context" and "question"');
  const text = context ?? question;
  if (typeof text !== 'string') throw bad(label, `expected a string for "${context === undefined ? 'question' : 'context'}"`);
  if (!Array.isArray(choices) || choices.length < 2 || choices.length > maxChoices)
    throw bad(label, `expected 2 to ${maxChoices} texts for "choices"`);
  const wrong = choices.findIndex((choice) => typeof choice !== 'string' || choice === '');
  if (wrong >= 0) throw bad(label, `expected a text that is not empty for "choices"[${wrong}]`);
  return {
    label,
    context: context === undefined ? `Question: ${text}\nAnswer:` : text,
    choices: choices as string[],
    answer: answerOf(answer, choices as string[], label),
  };
}

function answerOf(answer: unknown, choices: readonly string[], label: string): number {
  let index = -1;
  if (typeof answer === 'number') index = answer;
  else if (typeof answer === 'string') {
    index = choices.indexOf(answer);
    if (index < 0 && /^[A-Z]$/.test(answer)) index = answer.charCodeAt(0) - 'A'.charCodeAt(0);
  }
  if (!Number.isInteger(index) || index < 0 || index >= choices.length) {
    throw bad(
      label,
      `expected an index from 0 to ${choices.length - 1}, a letter or the text of a choice for "answer" but received ${describe(answer)}`,
    );
  }
  return index;
}

function bad(label: string, problem: string): LowbitError {
  return new LowbitError('INVALID_ARGUMENT', `${label}: ${problem}`, { option: label.startsWith('items') ? 'items' : 'file', at: label });
}
