// lib/report without a browser: what is read, what is refused, the table, escaping, axes, names and colours.
import { LowbitError } from '../../lib/errors';
import { renderReport } from '../../lib/report';
import { escape, markup } from '../../lib/report/markup';
import { placeOf, shortNames } from '../../lib/report/names';
import { bitLevels, dark, levelOf, light, type Scheme } from '../../lib/report/palette';
import { linearScale, logScale } from '../../lib/report/scale';
import { formatError } from '../../lib/report/view';
import { hostile, sampleReport } from './sample';

/** The page without its script. */
const bodyOf = (html: string): string => html.replace(/<script>.*<\/script>/s, '');

function failure(work: () => unknown): LowbitError {
  try {
    work();
  } catch (reason) {
    expect(reason).toBeInstanceOf(LowbitError);
    return reason as LowbitError;
  }
  throw new Error('nothing was thrown');
}

/** Fields of one CSV text by RFC 4180; a reader of its own, so that quoting is tested by something else than its writer. */
function parseCsv(text: string): string[][] {
  const rows: string[][] = [[]];
  for (const [, quoted, plain, end] of text.matchAll(/(?:"((?:[^"]|"")*)"|([^",\r\n]*))(,|\r\n)/g)) {
    rows.at(-1)?.push(quoted === undefined ? (plain ?? '') : quoted.replaceAll('""', '"'));
    if (end !== ',') rows.push([]);
  }
  return rows.slice(0, -1);
}

describe('the table', () => {
  test('has one row per linear, dense ones behind, with every number as it is', () => {
    const report = sampleReport();
    const [header, ...rows] = parseCsv(renderReport(report).csv) as [string[], ...string[][]];
    expect(rows).toHaveLength(report.linears.length + report.skipped.length);
    for (const row of rows) expect(row).toHaveLength(header.length);
    const cell = (row: number, column: string): string => rows[row]?.[header.indexOf(column)] ?? 'no such column';
    report.linears.forEach((linear, i) => {
      expect(cell(i, 'name')).toBe(linear.name);
      expect(Number(cell(i, 'error'))).toBe(linear.error);
      expect(Number(cell(i, 'bits'))).toBe(linear.bits);
      expect(cell(i, 'method')).toBe('gptq');
      expect(cell(i, 'fallbacks')).toBe(linear.fallbacks.join('; '));
    });
    expect(cell(9, 'block')).toBe('1');
    expect(cell(9, 'kind')).toBe('self_attn.v_proj');
    expect(cell(rows.length - 1, 'name')).toBe('lm_head');
    expect(cell(rows.length - 1, 'method')).toBe('dense');
    expect(cell(rows.length - 1, 'bits')).toBe('');
  });

  test('quotes what needs it, and no spreadsheet takes a name for a formula', () => {
    const report = sampleReport({ hostileNames: true });
    const names = ['=HYPERLINK("http://x")', 'a,b\r\n"c"', '-1'];
    const linears = report.linears.map((linear, i) => ({ ...linear, name: names[i] ?? linear.name }));
    const rows = parseCsv(renderReport({ ...report, linears }).csv);
    expect(rows.slice(1, 4).map(([name]) => name)).toEqual(['\'=HYPERLINK("http://x")', 'a,b\r\n"c"', "'-1"]);
  });

  test('keys that a later version adds get columns', () => {
    const report = sampleReport();
    const linears = report.linears.map((linear, i) => ({ ...linear, ...(i === 1 && { rank: 32, method: 'spqr', reason: 'cheap' }) }));
    const [header, first, second] = parseCsv(renderReport({ ...report, linears }).csv);
    expect(header?.at(-1)).toBe('rank');
    expect([first?.at(-1), second?.at(-1)]).toEqual(['', '32']);
    expect(second?.[header?.indexOf('method') ?? -1]).toBe('spqr');
  });
});

describe('reading', () => {
  test("the library's own report and that of the file give the same", () => {
    const { checkpoint_format: checkpointFormat, ...report } = sampleReport({ curve: true });
    expect(renderReport({ ...report, checkpointFormat })).toEqual(renderReport(sampleReport({ curve: true })));
  });

  test.each<[string, (report: Record<string, any>) => unknown, string]>([
    ['no object', () => [], 'the report should be an object'],
    ['no model', (report) => ({ ...report, model: undefined }), 'model should be an object'],
    ['linears that are none', (report) => ({ ...report, linears: 5 }), 'linears should be an array'],
    [
      'a name that is no string',
      (report) => ({ ...report, linears: [{ ...report['linears'][0], name: 5 }] }),
      'linears[0].name should be a string',
    ],
    [
      'bits that are not finite',
      (report) => ({ ...report, linears: [{ ...report['linears'][0], bits: null }] }),
      'linears[0].bits should be a number',
    ],
    ['a curve without bytes', (report) => ({ ...report, curve: [{ kl_divergence: 1 }] }), 'curve[0].bytes should be a number'],
    ['too many points', (report) => ({ ...report, curve: Array(1001).fill({}) }), 'curve should be an array of at most 1000 entries'],
    [
      'totals as text',
      (report) => ({ ...report, totals: { ...report['totals'], bytes_after: '1' } }),
      'totals.bytes_after should be a number',
    ],
  ])('%s', (_name, change, message) => {
    const error = failure(() => renderReport(change(sampleReport()), 'x/lowbit_report.json'));
    expect(error.code).toBe('CORRUPT_FILE');
    expect(error.message).toContain(`x/lowbit_report.json is not a report of lowbit: ${message}`);
  });

  test('values that are absent or not numbers leave gaps, not errors', () => {
    const report = sampleReport();
    const linears = report.linears.map(({ name, n, k, bits, bits_per_weight }) => ({ name, n, k, bits, bits_per_weight, error: null }));
    const { totals } = report;
    const { html, csv } = renderReport({ model: report.model, totals: { ...totals, error: null }, linears });
    expect(bodyOf(html)).not.toMatch(/NaN|undefined|null|Infinity/);
    expect(csv).not.toMatch(/NaN|undefined|null/);
    expect(html).not.toContain('Error over depth');
  });

  test('a model of one linear, errors of zero, a huge and a tiny one', () => {
    const report = sampleReport();
    for (const error of [0, 1e-300, 1e300]) {
      const { html } = renderReport({ ...report, linears: [{ ...report.linears[0], error }], skipped: [] });
      expect(bodyOf(html)).not.toMatch(/NaN|undefined|Infinity/);
    }
  });
});

describe('the page', () => {
  test('asks for nothing and allows nothing but its own style and script', () => {
    const { html } = renderReport(sampleReport({ curve: true }));
    expect(html).toMatch(/Content-Security-Policy" content="default-src &#39;none&#39;; img-src data:; style-src &#39;sha256-/);
    expect(html).not.toMatch(/https?:|url\(|@import|\ssrc=|\sstyle=|\son\w+=/);
  });

  test('names cannot become markup', () => {
    const { html } = renderReport(sampleReport({ hostileNames: true }));
    expect(html).not.toContain('<img');
    expect(html).toContain(`<title>${escape(hostile)} · lowbit report</title>`);
  });

  test('markup escapes what is put in, arrays and all, but not itself', () => {
    const inner = markup`<b>${'<&>'}</b>`;
    expect(markup`<p title="${'"\''}">${[inner, '<', 5, undefined]}</p>`.text).toBe('<p title="&quot;&#39;"><b>&lt;&amp;&gt;</b>&lt;5</p>');
    expect(escape('a\u0000b\u001bc')).toBe('a\ufffdb\ufffdc');
  });
});

test('places of linears', () => {
  expect(placeOf('model.layers.12.self_attn.q_proj')).toEqual({ block: 12, kind: 'self_attn.q_proj' });
  expect(placeOf('model.layers.3.mlp.experts.17.up_proj')).toEqual({ block: 3, kind: 'mlp.experts.*.up_proj' });
  expect(placeOf('transformer.h.0.attn.c_attn')).toEqual({ block: 0, kind: 'attn.c_attn' });
  expect(placeOf('lm_head')).toEqual({ block: undefined, kind: 'lm_head' });
  expect(placeOf('7')).toEqual({ block: undefined, kind: '7' });
  expect([...shortNames(['self_attn.q_proj', 'mlp.up_proj', 'mlp.experts.*.up_proj', 'lm_head']).values()]).toEqual([
    'q_proj',
    'mlp.up_proj',
    'mlp.experts.*.up_proj',
    'lm_head',
  ]);
});

test('logarithmic axes hold all values between round ends', () => {
  const { at, ticks } = logScale([0.0013, 0.042], 4);
  expect(ticks).toEqual([0.001, 0.01]);
  expect(at(0.001)).toBe(0);
  expect(at(0.05)).toBeCloseTo(100, 9);
  expect(at(0.01)).toBeCloseTo((100 * Math.log(10)) / Math.log(50), 9);
  expect(at(0)).toBe(0);
  expect(logScale([0.021, 0.04], 4).ticks).toEqual([0.02, 0.05]);
  expect(logScale([1e-8, 1], 4).ticks.length).toBeLessThanOrEqual(4);
  const one = logScale([0.5], 4);
  expect(one.at(0.5) >= 0 && one.at(0.5) <= 100).toBe(true);
});

test('linear axes have round ticks inside', () => {
  const { at, ticks } = linearScale([48e6, 140e6], 6);
  expect(ticks).toEqual([60e6, 80e6, 100e6, 120e6, 140e6]);
  expect(at(48e6)).toBeCloseTo(100 / 22, 9);
  expect(linearScale([7], 5).at(7)).toBeCloseTo(50, 9);
});

test('numbers as people read them', () => {
  expect([0, 0.00213, 0.0006, 1.5e-7, 12.345, 1, 2e9].map(formatError)).toEqual(['0', '0.00213', '6e-4', '1.5e-7', '12.3', '1', '2e9']);
  expect([1, 2.4, 4, 7.2, 16, 32].map(levelOf)).toEqual([1, 2, 4, 8, 16, 16]);
});

describe.each<[string, Scheme]>([
  ['light', light],
  ['dark', dark],
])('colours, %s', (_name, scheme) => {
  /** WCAG 2.1, contrast ratio of two sRGB colours. */
  const contrast = (a: string, b: string): number => {
    const luminance = (colour: string): number => {
      const [red, green, blue] = [1, 3, 5].map((i) => {
        const value = parseInt(colour.slice(i, i + 2), 16) / 255;
        return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
      }) as [number, number, number];
      return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
    };
    const [high, low] = [luminance(a), luminance(b)].sort((x, y) => y - x) as [number, number];
    return (high + 0.05) / (low + 0.05);
  };

  test('texts have a contrast of 4.5, marks one of 3', () => {
    const { page, surface, text, muted, accent, quiet, warning, warningSurface, bits } = scheme;
    const texts = [
      ...[page, surface].flatMap((back) => [text, muted].map((front) => [front, back] as const)),
      [text, warningSurface] as const,
      [warning, warningSurface] as const,
      ...bitLevels.map((level) => [bits[level][1], bits[level][0]] as const),
    ];
    for (const [front, back] of texts) expect([front, back, contrast(front, back) >= 4.5]).toEqual([front, back, true]);
    for (const front of [accent, quiet, warning]) expect([front, contrast(front, surface) >= 3]).toEqual([front, true]);
  });

  test('more bits stand out more', () => {
    const steps = bitLevels.map((level) => contrast(scheme.bits[level][0], scheme.surface));
    steps.reduce((before, step) => {
      expect(step > before).toBe(true);
      return step;
    });
  });
});
