// lib/quantize dynamic rules: GPTQModel's semantics, and messages for rules that cannot be meant.
import { type LowbitError } from '../../lib/errors';
import { DynamicTable, snakeCase } from '../../lib/quantize/dynamic';

function parse(rules: unknown): DynamicTable {
  const problems: LowbitError[] = [];
  const table = DynamicTable.parse(rules, problems);
  expect(problems).toEqual([]);
  return table;
}

function problemsOf(rules: unknown): string[] {
  const problems: LowbitError[] = [];
  DynamicTable.parse(rules, problems);
  for (const problem of problems) expect(problem.code).toBe('INVALID_ARGUMENT');
  return problems.map(({ message }) => message);
}

const q = 'model.layers.0.self_attn.q_proj';
const down = 'model.layers.12.mlp.down_proj';

test('no rules decide nothing', () => {
  for (const rules of [undefined, {}]) {
    expect(parse(rules).decide(q)).toBeUndefined();
    expect(parse(rules).toConfig()).toBeUndefined();
  }
});

test('expressions match from the start of the name and not to its end', () => {
  const table = parse({ 'model\\.layers\\.1': { bits: 8 }, layers: { bits: 2 } });
  expect(table.decide(down)?.overrides).toEqual({ bits: 8 });
  expect(table.decide(q)).toBeUndefined();
  expect(parse({ 'x|.*q_proj': { bits: 8 } }).decide(q)?.overrides).toEqual({ bits: 8 });
});

test('the first match decides; rules that skip are asked before all others', () => {
  const table = parse({ '.*_proj': { bits: 8 }, '.*q_proj': { bits: 2 }, '-:.*down_proj': {}, '.*layers\\.3\\..*': false });
  expect(table.decide(q)).toEqual({ rule: '.*_proj', overrides: { bits: 8 } });
  expect(table.decide(down)).toEqual({ rule: '-:.*down_proj', overrides: false });
  expect(table.decide('model.layers.3.self_attn.q_proj')?.overrides).toBe(false);
});

test('"+:" is the same as no prefix', () => {
  expect(parse({ '+:.*q_proj': { groupSize: 32, sym: false } }).decide(q)?.overrides).toEqual({ groupSize: 32, sym: false });
});

test('rules that match nothing are found', () => {
  expect(parse({ '.*q_proj': { bits: 8 }, '-:.*gate': {}, q_proj: false }).unmatched([q, down])).toEqual(['-:.*gate', 'q_proj']);
});

test('the stored form has snake_case names and marks rules that skip', () => {
  expect(parse({ '+:.*q_proj': { groupSize: 64, descAct: true, mse: 2.4 }, '.*k_proj': false, '-:.*v_proj': {} }).toConfig()).toEqual({
    '-:.*k_proj': {},
    '-:.*v_proj': {},
    '+:.*q_proj': { group_size: 64, desc_act: true, mse: 2.4 },
  });
  expect(snakeCase('dampAutoIncrement')).toBe('damp_auto_increment');
});

test.each([
  [3, 'Expected an object of regular expressions to overrides or false for dynamic but received 3 of type number'],
  [['.*'], 'Expected an object of regular expressions to overrides or false for dynamic but received an instance of Array'],
  [{ '-:': {} }, 'Expected a regular expression as key of dynamic but received "-:"'],
  [{ '.*': true }, 'Expected an object of overrides or false for dynamic[".*"] but received true of type boolean'],
  [{ '.*': {} }, 'Expected at least one override for dynamic[".*"] but received none; use false or the prefix "-:" to leave linears dense'],
  [{ '-:.*': { bits: 4 } }, 'Expected no overrides for dynamic["-:.*"], because "-:" leaves linears dense, but received bits'],
  [{ '.*': { bits: 7 } }, 'Expected one of 2, 3, 4, 5, 6, 8 for bits but received 7 of type number in dynamic[".*"]'],
])('%p is refused', (rules, message) => {
  expect(problemsOf(rules)).toEqual([message]);
});

test('an invalid expression is refused with the reason', () => {
  expect(problemsOf({ '(': { bits: 4 } })[0]).toMatch(/^Expected a valid regular expression as key of dynamic but received "\(": /);
});

test('unknown overrides are refused with the nearest name', () => {
  expect(problemsOf({ '.*': { group_size: 64 } })[0]).toContain('Unknown option "group_size" for dynamic[".*"]. Did you mean "groupSize"?');
});
