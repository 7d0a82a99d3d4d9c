/**
 * lib/report: texts into HTML without a way to forget escaping: what is interpolated into markup`...` is escaped unless it is Markup itself.
 */

/** HTML that is safe as it is; made by markup`...` and raw() only. */
export class Markup {
  constructor(readonly text: string) {}
}

export type Content = Markup | string | number | undefined | readonly Content[];

export function markup(strings: TemplateStringsArray, ...values: readonly Content[]): Markup {
  const [first = '', ...rest] = strings.map(compact);
  return new Markup(rest.reduce((text, string, i) => text + print(values[i]) + string, first));
}

/** The indentation of the source is none of the page's. */
const compact = (string: string): string => string.replace(/\s*\n\s*/g, '\n');

/** For constants of this room only, never for a text that comes from outside. */
export const raw = (text: string): Markup => new Markup(text);

function print(value: Content): string {
  if (value === undefined) return '';
  if (value instanceof Markup) return value.text;
  if (typeof value === 'object') return value.map(print).join('');
  return escape(String(value));
}

const entities: Readonly<Record<string, string>> = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;', "'": '&#39;' };

/** For text and for quoted attributes. Control characters, which HTML does not allow, become a replacement character. */
export function escape(text: string): string {
  return text
    .replace(/[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f]/g, '\ufffd')
    .replace(/[&<>"']/g, (letter) => entities[letter] as string);
}
