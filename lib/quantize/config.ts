/**
 * lib/quantize: the JSON that makes a directory a GPTQ checkpoint: quantization_config, in config.json and as quantize_config.json.
 * Keys are those that GPTQModel writes and transformers and vLLM read. This file makes text; sidefiles.ts writes it.
 */
import { LowbitError } from '../errors';
import type { CheckpointFormat } from './layout';
import type { ResolvedOptions } from './options';

export function quantizationConfig(options: ResolvedOptions, checkpointFormat: CheckpointFormat, version: string): Record<string, unknown> {
  const { settings, method } = options;
  const dynamic = options.dynamic.toConfig();
  const gptqOnly = {
    damp_percent: settings.dampPercent,
    damp_auto_increment: settings.dampAutoIncrement,
    static_groups: settings.staticGroups,
    true_sequential: true,
    act_group_aware: settings.actGroupAware && !settings.descAct,
  };
  return {
    bits: settings.bits,
    group_size: settings.groupSize,
    // What readers have to know: whether the file holds an order of columns.
    desc_act: method === 'gptq' && settings.descAct && !settings.staticGroups,
    sym: settings.sym,
    lm_head: false,
    quant_method: 'gptq',
    method: 'gptq',
    checkpoint_format: checkpointFormat,
    format: checkpointFormat,
    pack_dtype: 'int32',
    ...(dynamic && { dynamic }),
    meta: { quantizer: [`lowbit:${version}`], mse: settings.mse, ...(method === 'gptq' ? gptqOnly : { algorithm: 'rtn' }) },
  };
}

/**
 * config.json with these keys set, or removed where undefined, every other character as it was: parsing and printing again would turn 10000.0 into
 * 10000, and readers that check types refuse an integer where they expect a float.
 */
export function editConfigText(text: string, changes: Readonly<Record<string, unknown>>, file: string): string {
  const bad = (cause: unknown): LowbitError =>
    new LowbitError('CORRUPT_FILE', `${file} is not a JSON object: ${(cause as Error).message}`, { file }, { cause });
  let body: string;
  try {
    const parsed: unknown = JSON.parse(text);
    if (typeof parsed !== 'object' || parsed === null || Array.isArray(parsed)) throw new Error('expected { at its start');
    body = withoutKeys(text, new Set(Object.keys(changes)));
  } catch (cause) {
    throw bad(cause);
  }
  for (const [key, value] of Object.entries(changes)) {
    if (value === undefined) continue;
    body = `${body}${body.endsWith('{') ? '' : ','}\n  ${JSON.stringify(key)}: ${indent(JSON.stringify(value, null, 2))}`;
  }
  return `${body}\n}\n`;
}

/** A JSON object (one that parses) up to its last member, without some of them. */
function withoutKeys(text: string, keys: ReadonlySet<string>): string {
  const start = text.indexOf('{') + 1;
  let body = text.slice(0, start);
  let member = start; // where the one being read begins
  let depth = 0;
  let first = true;
  for (let at = start; at < text.length; at++) {
    const char = text[at] as string;
    if (char === '"') {
      at++;
      while (text[at] !== '"') at += text[at] === '\\' ? 2 : 1;
    } else if (depth > 0 && (char === '}' || char === ']')) depth--;
    else if (char === '{' || char === '[') depth++;
    else if (depth === 0 && (char === ',' || char === '}')) {
      const raw = text.slice(member, at).trimEnd();
      const name = /^\s*("(?:[^"\\]|\\.)*")/.exec(raw)?.[1];
      if (name !== undefined && !keys.has(JSON.parse(name) as string)) {
        body += `${first ? '' : ','}${raw}`;
        first = false;
      }
      if (char === '}') break;
      member = at + 1;
    }
  }
  return body;
}

/** config.json from parsed keys, for sources without such a file. */
export function configText(config: Readonly<Record<string, unknown>>, quantization?: Record<string, unknown>): string {
  return `${printJson({ ...config, quantization_config: quantization })}\n`;
}

/** Keys whose value is a float in the configuration classes of transformers, which check types. */
const floatKeys = new Set([
  'attention_dropout',
  'attention_factor',
  'attn_logit_softcapping',
  'beta_fast',
  'beta_slow',
  'factor',
  'final_logit_softcapping',
  'high_freq_factor',
  'initializer_range',
  'low_freq_factor',
  'partial_rotary_factor',
  'rms_norm_eps',
  'rope_local_base_freq',
  'rope_theta',
]);

/** JSON with two spaces; whole numbers under floatKeys keep their ".0". */
function printJson(value: unknown, key = '', depth = 0): string {
  const pad = '  '.repeat(depth + 1);
  const close = '  '.repeat(depth);
  if (Array.isArray(value)) {
    if (value.length === 0) return '[]';
    return `[\n${value.map((item) => pad + printJson(item, '', depth + 1)).join(',\n')}\n${close}]`;
  }
  if (typeof value === 'object' && value !== null) {
    const entries = Object.entries(value).filter(([, item]) => item !== undefined);
    if (entries.length === 0) return '{}';
    return `{\n${entries.map(([name, item]) => `${pad}${JSON.stringify(name)}: ${printJson(item, name, depth + 1)}`).join(',\n')}\n${close}}`;
  }
  if (typeof value === 'number' && Number.isInteger(value) && floatKeys.has(key)) return value.toFixed(1);
  return JSON.stringify(value);
}

function indent(text: string): string {
  return text.replace(/\n/g, '\n  ');
}
