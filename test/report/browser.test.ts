/**
 * The page in a real browser: Debian's Chromium (apt-get install chromium), or the one that LOWBIT_CHROMIUM names, driven by playwright-core
 * with a new profile. Counted as skipped where there is none.
 */
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import { type BrowserContext, type Page, chromium } from 'playwright-core';
import { renderReport } from '../../lib/report';
import { dark, light } from '../../lib/report/palette';
import { hostile, sampleReport, type SampleOptions } from './sample';

const executable =
  process.env['LOWBIT_CHROMIUM'] ?? ['/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome'].find(existsSync);
const flags = [
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
];
const directory = mkdtempSync(path.join(os.tmpdir(), 'lowbit-browser-'));
let browser: BrowserContext | undefined;
/** Everything that pages said or asked for since the test began. */
let noise: string[] = [];

beforeAll(async () => {
  if (executable === undefined) return;
  browser = await chromium.launchPersistentContext(path.join(directory, 'profile'), {
    executablePath: executable,
    args: flags,
    headless: true,
  });
  browser.on('request', (request) => {
    if (!request.url().startsWith('file:') && !request.url().startsWith('data:')) noise.push(`request ${request.url()}`);
  });
});
beforeEach(() => (noise = []));
afterEach(() => expect(noise).toEqual([]));
afterAll(async () => {
  await browser?.close();
  rmSync(directory, { recursive: true, force: true });
});

/** test, or test.skip with the reason in the name. */
function given(name: string, body: () => Promise<void>): void {
  if (executable !== undefined) test(name, body);
  else test.skip(`${name} (skipped: no Chromium; set LOWBIT_CHROMIUM or apt-get install chromium)`, body);
}

async function open(options: SampleOptions = {}, size = { width: 1100, height: 800 }): Promise<Page> {
  const file = path.join(directory, 'report.html');
  writeFileSync(file, renderReport(sampleReport(options)).html);
  const page = await (browser as BrowserContext).newPage();
  page.on('console', (message) => noise.push(`console ${message.text()}`));
  page.on('pageerror', (error) => noise.push(`error ${error.message}`));
  await page.setViewportSize(size);
  await page.goto(pathToFileURL(file).href);
  return page;
}

const count = (page: Page, selector: string): Promise<number> => page.locator(selector).count();

given('every linear has its marks, and the curve only exists with data', async () => {
  const report = sampleReport();
  const page = await open();
  expect(await count(page, '.bits td.cell')).toBe(report.linears.length + report.skipped.length);
  expect(await count(page, '.bits td.cell.b16')).toBe(report.skipped.length);
  expect(await count(page, '.bits td.fallback')).toBe(1);
  expect(await count(page, '.panel')).toBe(7);
  expect(await count(page, '.panel circle.mark')).toBe(report.linears.length);
  expect(await count(page, '#linears tbody tr')).toBe(report.linears.length);
  expect(await count(page, '.notices li')).toBe(2);
  expect(await count(page, '.curve')).toBe(0);
  await page.close();

  const curved = await open({ curve: true });
  expect(await count(curved, '.curve circle.mark')).toBe(4);
  expect(await count(curved, '.curve circle.chosen')).toBe(1);
  // 1.7 MB at 0.3 is worse than 1.625 MB at 0.2: two segments join the three others.
  expect(await count(curved, '.curve line.series')).toBe(2);
  await curved.close();
});

given('marks lie where their values say', async () => {
  const report = sampleReport();
  const page = await open();
  const heights = await page
    .locator('.panel')
    .first()
    .locator('circle')
    .evaluateAll((circles) => circles.map((circle) => circle.getBoundingClientRect().top));
  const errors = report.linears.filter(({ name }) => name.endsWith('q_proj')).map(({ error }) => error);
  const falling = (values: readonly number[]): number[] =>
    values.map((_, i) => i).sort((a, b) => (values[b] as number) - (values[a] as number));
  expect(falling(heights.map((top) => -top))).toEqual(falling(errors));
  await page.close();
});

given('the table sorts both ways, numbers as numbers, and filters', async () => {
  const report = sampleReport();
  const page = await open();
  const column = (index: number): Promise<string[]> => page.locator(`#linears tbody tr:visible td:nth-child(${index})`).allInnerTexts();
  const header = (name: string) => page.locator('#linears th', { has: page.getByRole('button', { name, exact: true }) });
  const index = 1 + (await page.locator('#linears th').allInnerTexts()).indexOf('rows');
  const rows = report.linears.map(({ n }) => n);
  await header('rows').getByRole('button').click();
  expect(await header('rows').getAttribute('aria-sort')).toBe('descending');
  expect((await column(index)).map(Number)).toEqual([...rows].sort((a, b) => b - a));
  await header('rows').getByRole('button').press('Enter');
  expect(await header('rows').getAttribute('aria-sort')).toBe('ascending');
  expect((await column(index)).map(Number)).toEqual([...rows].sort((a, b) => a - b));
  await header('name').getByRole('button').click();
  expect(await header('rows').getAttribute('aria-sort')).toBeNull();
  const names = report.linears.map(({ name }) => name);
  expect(await column(1)).toEqual([...names].sort((a, b) => a.localeCompare(b, undefined, { numeric: true })));
  await page.getByRole('searchbox').fill('layers.2 V_PROJ');
  expect(await column(1)).toEqual(['model.layers.2.self_attn.v_proj']);
  expect(await page.getByRole('status').innerText()).toBe(`1 of ${names.length}`);
  await page.close();
});

given('details come with the pointer, with a tap, and with the keyboard alone', async () => {
  const page = await open({ curve: true });
  const tip = page.locator('#tip');
  expect(await tip.isVisible()).toBe(false);
  await page.locator('.bits td.fallback').hover();
  expect(await tip.innerText()).toContain('Block 1 · self_attn.v_proj');
  expect(await tip.innerText()).toContain('8 bit, groups of 64, symmetric');
  expect(await tip.innerText()).toContain('Instead: the damping was raised to 0.2');
  await page.locator('h1').hover();
  expect(await tip.isVisible()).toBe(false);

  // A group of marks is one stop of Tab; arrows walk inside.
  for (const group of ['curve', 'bits', 'errors']) expect(await count(page, `[data-marks=${group}] [tabindex="0"]`)).toBe(1);
  await page.locator('[data-marks=bits] [tabindex="0"]').focus();
  expect(await tip.innerText()).toContain('Block 0 · self_attn.q_proj');
  for (const key of ['ArrowRight', 'ArrowRight', 'ArrowDown', 'ArrowLeft']) await page.keyboard.press(key);
  expect(await tip.innerText()).toContain('Block 1 · self_attn.k_proj');
  expect(await page.evaluate('document.activeElement.getAttribute("aria-label")')).toContain('2 bit, groups of 64, symmetric');
  for (let i = 0; i < 20; i++) await page.keyboard.press('ArrowDown');
  await page.keyboard.press('ArrowRight');
  for (let i = 0; i < 20; i++) await page.keyboard.press('ArrowRight');
  expect(await tip.innerText()).toContain('lm_head');
  await page.keyboard.press('Escape');
  expect(await tip.isVisible()).toBe(false);
  expect(await count(page, '[data-marks=bits] [tabindex="0"]')).toBe(1);

  await page.keyboard.press('Tab');
  expect(await tip.innerText()).toContain('Block 0 · self_attn.q_proj');
  await page.keyboard.press('ArrowDown');
  expect(await tip.innerText()).toContain('Block 0 · self_attn.k_proj');
  await page.locator('.curve circle').nth(3).click();
  expect(await tip.innerText()).toContain('8 bit\n2.50 MB, KL divergence 0.004 nats');
  await page.close();
});

given('light and dark follow the system', async () => {
  const page = await open();
  const colour = (): Promise<string> => page.evaluate('getComputedStyle(document.body).backgroundColor');
  const rgb = (hex: string): string => `rgb(${[1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16)).join(', ')})`;
  await page.emulateMedia({ colorScheme: 'light' });
  expect(await colour()).toBe(rgb(light.page));
  await page.emulateMedia({ colorScheme: 'dark' });
  expect(await colour()).toBe(rgb(dark.page));
  await page.close();
});

given('on a phone nothing is wider than the screen, and details stay inside', async () => {
  const page = await open({ blocks: 40, curve: true }, { width: 360, height: 640 });
  expect(await page.evaluate('document.documentElement.scrollWidth')).toBe(360);
  await page.locator('.bits td.cell').nth(39).click();
  const box = await page.locator('#tip').boundingBox();
  expect(box !== null && box.x >= 0 && box.x + box.width <= 360).toBe(true);
  await page.close();
});

given('a name full of markup is shown as it is', async () => {
  const page = await open({ hostileNames: true });
  expect(await page.locator('h1').innerText()).toBe(hostile);
  expect(await page.title()).toContain('<img src=x');
  expect(await count(page, 'img')).toBe(0);
  await page.locator('.bits td.cell').first().hover();
  expect(await page.locator('#tip').innerText()).toContain(hostile);
  await page.close();
});
