/**
 * lib/report: the colours of the page. Bits are one hue that gains contrast to the page as they grow, so that the map reads without a
 * legend and in grey; the number stands in every cell. test/report/palette.test.ts checks all contrasts (WCAG 2.1: 4.5 for text, 3 for marks).
 */

export interface Scheme {
  readonly page: string;
  readonly surface: string;
  readonly text: string;
  readonly muted: string;
  readonly line: string;
  readonly accent: string;
  readonly quiet: string;
  readonly warning: string;
  readonly warningSurface: string;
  /** Background and text of a cell, by bits. */
  readonly bits: Readonly<Record<BitLevel, readonly [string, string]>>;
}

/** Levels of the map; other numbers take the nearest one. 16 stands for linears left dense. */
export const bitLevels = [1, 2, 3, 4, 5, 6, 8, 16] as const;
export type BitLevel = (typeof bitLevels)[number];

export const levelOf = (bits: number): BitLevel =>
  bitLevels.reduce((best, level) => (Math.abs(level - bits) < Math.abs(best - bits) ? level : best));

export const light: Scheme = {
  page: '#f6f7f9',
  surface: '#ffffff',
  text: '#1a1d23',
  muted: '#596070',
  line: '#e1e4ea',
  accent: '#1d5fbf',
  quiet: '#858d9c',
  warning: '#8a5200',
  warningSurface: '#fff5e3',
  bits: {
    1: ['#f1f6fd', '#1a1d23'],
    2: ['#dce9fa', '#1a1d23'],
    3: ['#bcd5f5', '#1a1d23'],
    4: ['#93bbed', '#10233d'],
    5: ['#6a9fe2', '#0a1a30'],
    6: ['#2f6fc4', '#ffffff'],
    8: ['#174a91', '#ffffff'],
    16: ['#3d4350', '#ffffff'],
  },
};

export const dark: Scheme = {
  page: '#111318',
  surface: '#191c22',
  text: '#e7e9ee',
  muted: '#a2a9b7',
  line: '#2c313b',
  accent: '#7fb3ff',
  quiet: '#79818f',
  warning: '#f2b866',
  warningSurface: '#2b2214',
  bits: {
    1: ['#1b2635', '#e7e9ee'],
    2: ['#1c3150', '#e7e9ee'],
    3: ['#204274', '#ffffff'],
    4: ['#28599e', '#ffffff'],
    5: ['#5b8fd6', '#0a1424'],
    6: ['#86b2ee', '#0a1424'],
    8: ['#bcd6f9', '#0a1424'],
    16: ['#d9dce3', '#16181d'],
  },
};
