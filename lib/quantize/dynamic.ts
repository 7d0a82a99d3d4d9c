/**
 * lib/quantize: rules that give single linears their own settings, in GPTQModel's words and order.
 *
 * A rule is a regular expression on the module name ("model.layers.0.self_attn.q_proj"), matched from its start as
 * Python's re.match does. "-:" in front, or the value false, leaves the matching linears dense; "+:" or nothing in front overrides
 * settings. Skipping rules are asked first, then overrides in the order given; the first match decides.
 * This file decides settings; it does not know shapes or files.
 */
import { LowbitError, invalidArgument } from '../errors';
import { oneOf } from '../options';
import { blockTypes, type BlockType } from './gguf_types';
import { checkEach, settingRules, type SolveSettings } from './settings';

/** What a rule may change for the linears it matches. */
export type DynamicOverrides = Partial<SolveSettings> & {
  /** With format 'gguf', where it decides bits, group and symmetry. */
  readonly ggufType?: BlockType;
};

/** Rules by regular expression; see the head of this file. Example: `{ '-:.*down_proj': {}, '.*\\.v_proj': { bits: 8 } }`. */
export type DynamicRules = Readonly<Record<string, DynamicOverrides | false>>;

const overrideRules = { ...settingRules, ggufType: oneOf(...blockTypes) };

interface Rule {
  readonly key: string; // as the user wrote it
  readonly source: string; // without prefix
  readonly pattern: RegExp;
  readonly overrides: DynamicOverrides | false;
}

/** What the rules say about one linear: false = stays dense, undefined = no rule matches. */
export interface DynamicDecision {
  readonly rule: string;
  readonly overrides: DynamicOverrides | false;
}

export class DynamicTable {
  private constructor(private readonly rules: readonly Rule[]) {}

  /** Checks rules and compiles them. Problems are appended; rules with problems are left out of the table. */
  static parse(rules: unknown, problems: LowbitError[]): DynamicTable {
    if (rules === undefined) return new DynamicTable([]);
    if (typeof rules !== 'object' || rules === null || Array.isArray(rules)) {
      problems.push(invalidArgument('dynamic', 'an object of regular expressions to overrides or false', rules));
      return new DynamicTable([]);
    }
    const parsed: Rule[] = [];
    for (const [key, value] of Object.entries(rules)) {
      const rule = parseRule(key, value, problems);
      if (rule !== undefined) parsed.push(rule);
    }
    return new DynamicTable([...parsed.filter((rule) => rule.overrides === false), ...parsed.filter((rule) => rule.overrides !== false)]);
  }

  /** These rules, then others. */
  with(others: DynamicTable): DynamicTable {
    const all = [...this.rules, ...others.rules];
    return new DynamicTable([...all.filter((rule) => rule.overrides === false), ...all.filter((rule) => rule.overrides !== false)]);
  }

  decide(name: string): DynamicDecision | undefined {
    const rule = this.rules.find(({ pattern }) => pattern.test(name));
    return rule && { rule: rule.key, overrides: rule.overrides };
  }

  /** Rules whose expression matches none of the names: nearly always a typing error. */
  unmatched(names: readonly string[]): string[] {
    return this.rules.filter(({ pattern }) => !names.some((name) => pattern.test(name))).map(({ key }) => key);
  }

  /** As quantization_config.dynamic stores it: snake_case overrides, skipping rules with "-:". Undefined when there are no rules. */
  toConfig(): Record<string, Record<string, unknown>> | undefined {
    if (this.rules.length === 0) return undefined;
    return Object.fromEntries(
      this.rules.map((rule) =>
        rule.overrides === false
          ? [`-:${rule.source}`, {}]
          : [rule.key, Object.fromEntries(Object.entries(rule.overrides).map(([k, v]) => [snakeCase(k), v]))],
      ),
    );
  }
}

/** groupSize -> group_size */
export function snakeCase(name: string): string {
  return name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
}

function parseRule(key: string, value: unknown, problems: LowbitError[]): Rule | undefined {
  const option = `dynamic["${key}"]`;
  const negative = key.startsWith('-:');
  const source = negative || key.startsWith('+:') ? key.slice(2) : key;
  const before = problems.length;
  if (source === '') problems.push(wrong(`Expected a regular expression as key of dynamic but received "${key}"`, option));
  let pattern: RegExp;
  try {
    pattern = new RegExp(`^(?:${source})`);
  } catch (cause) {
    problems.push(
      wrong(`Expected a valid regular expression as key of dynamic but received "${key}": ${(cause as Error).message}`, option, cause),
    );
    return undefined;
  }
  let overrides: DynamicOverrides | false = false;
  if (value !== false) {
    if (typeof value !== 'object' || value === null || Array.isArray(value)) {
      problems.push(invalidArgument(option, 'an object of overrides or false', value));
      return undefined;
    }
    const settings = checkEach(option, value, overrideRules, problems, option) as DynamicOverrides;
    const names = Object.keys(value);
    if (negative && names.length > 0) {
      problems.push(
        wrong(`Expected no overrides for ${option}, because "-:" leaves linears dense, but received ${names.join(', ')}`, option),
      );
    } else if (!negative && names.length === 0) {
      problems.push(
        wrong(
          `Expected at least one override for ${option} but received none; use false or the prefix "-:" to leave linears dense`,
          option,
        ),
      );
    }
    if (!negative) overrides = settings;
  }
  return problems.length === before ? { key, source, pattern, overrides } : undefined;
}

function wrong(message: string, option: string, cause?: unknown): LowbitError {
  return new LowbitError('INVALID_ARGUMENT', message, { option }, { cause });
}
