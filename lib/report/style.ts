/** lib/report: how the page looks, in light and dark, on a wide screen, a phone and paper. Colours are those of palette.ts. */
import { bitLevels, dark, light, type Scheme } from './palette';

function variables(scheme: Scheme): string {
  const { bits, warningSurface, ...names } = scheme;
  const colours = [...Object.entries(names), ['warning-surface', warningSurface] as const].map(([name, colour]) => `--${name}:${colour};`);
  return [...colours, ...bitLevels.map((level) => `--b${level}:${bits[level][0]};--t${level}:${bits[level][1]};`)].join('');
}

export const style = `:root{color-scheme:light dark;${variables(light)}}
@media (prefers-color-scheme:dark){:root{${variables(dark)}}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--text);font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;font-variant-numeric:tabular-nums;-webkit-text-size-adjust:100%}
main{max-width:1080px;margin:0 auto;padding:32px 20px 64px}
h1{font-size:28px;line-height:1.2;letter-spacing:-.01em;margin:0;overflow-wrap:anywhere}
h2{font-size:17px;margin:0}
header p,section>p{color:var(--muted);margin:4px 0 0;max-width:75ch}
section{background:var(--surface);border:1px solid var(--line);border-radius:12px;padding:20px;margin-top:16px;min-width:0}
section>h2+*,section>p+*{margin-top:14px}
section>h2+p{margin-top:2px}
:focus-visible{outline:2px solid var(--accent);outline-offset:2px}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(190px,1fr));gap:12px;margin-top:24px}
.tile{background:var(--surface);border:1px solid var(--line);border-radius:12px;padding:14px 18px}
.tile dt{color:var(--muted);font-size:13px}
.tile dd{margin:0}
.tile .big{font-size:26px;line-height:1.25;font-weight:650;letter-spacing:-.01em}
.tile .small{color:var(--muted);font-size:13px}
.size-row{display:grid;grid-template-columns:56px 1fr 76px;gap:12px;align-items:center;margin-top:6px}
.size-label{color:var(--muted)}
.size-value{text-align:right;white-space:nowrap;font-weight:600}
.size-bar{display:block;width:100%;height:18px;border-radius:4px;background:var(--page)}
.size-before{fill:var(--quiet)}
.size-linears{fill:var(--accent)}
.size-rest{fill:var(--b4)}
.legend{display:flex;flex-wrap:wrap;gap:4px 16px;color:var(--muted);font-size:13px;margin:12px 0 0}
.legend span:empty{display:none}
section>.words,section>* .words{color:var(--muted);font-size:13px;margin-top:12px}
.key{display:inline-block;width:14px;height:14px;border-radius:3px;margin-right:6px;vertical-align:-2px;background:var(--page)}
.size-key-linears{background:var(--accent)}
.size-key-rest{background:var(--b4)}
.key.line-series,.key.line-context{height:3px;border-radius:2px;vertical-align:3px;background:var(--accent)}
.key.line-context{background:var(--quiet)}
.notices{list-style:none;padding:0;margin:0}
.notices li{background:var(--warning-surface);border-left:3px solid var(--warning);border-radius:4px;padding:8px 12px;margin-top:6px;overflow-wrap:anywhere}
.notices b{color:var(--warning);font-weight:600;margin-right:6px}
details>summary{cursor:pointer;color:var(--muted);margin-top:10px}
.scroll{overflow-x:auto;margin-left:-4px;margin-right:-4px;padding:4px}
table{border-collapse:separate;border-spacing:0}
.bits{width:100%;border-spacing:2px}
.bits th{font-weight:400;color:var(--muted);font-size:12px;text-align:center;padding:0;min-width:18px;white-space:nowrap}
.bits th:first-child{position:sticky;left:-4px;z-index:1;text-align:right;padding:0 8px 0 4px;background:var(--surface);width:1px;font-size:13px}
.bits tbody th:first-child{color:var(--text)}
.bits td{height:26px;min-width:18px;text-align:center;font-size:12px;border-radius:3px;padding:0;cursor:default}
${bitLevels.map((level) => `.b${level}{background:var(--b${level});color:var(--t${level})}`).join('\n')}
.cell.fallback,.key.fallback{box-shadow:inset 0 0 0 2px var(--warning)}
.panels{display:grid;grid-template-columns:repeat(auto-fill,minmax(230px,1fr));gap:20px 24px}
.panel{margin:0;min-width:0}
.panel figcaption{display:flex;justify-content:space-between;gap:8px;font-size:13px;margin-bottom:8px;white-space:nowrap}
.panel b{font-weight:600}
.panel figcaption span{color:var(--muted);overflow:hidden;text-overflow:ellipsis}
.plot{padding:6px 8px 6px 52px}
.plot.curve{padding:20px 24px 30px 60px}
.canvas{display:block;width:100%;height:84px;overflow:visible}
.curve .canvas{height:280px}
.grid{stroke:var(--line)}
.tick{fill:var(--muted);font-size:11px}
.callout{fill:var(--text);font-size:13px;font-weight:600;stroke:var(--surface);stroke-width:4;paint-order:stroke;pointer-events:none}
.series{stroke:var(--accent);stroke-width:1.5}
.context{stroke:var(--quiet);stroke-width:1.5;stroke-dasharray:3 3}
.mark{fill:var(--accent);stroke:transparent;stroke-width:12;pointer-events:all;cursor:default}
.mark.fallback{fill:var(--warning)}
.mark.chosen{fill:var(--text)}
.mark:hover,.mark:focus{stroke:var(--accent);stroke-width:3;outline:none;paint-order:stroke}
.mark:hover,.mark:focus{fill:var(--surface)}
.facts{display:grid;grid-template-columns:repeat(auto-fill,minmax(250px,1fr));gap:24px}
.facts>:first-child{grid-column:1/-1}
.facts>:first-child dl{display:block;columns:3 250px;column-gap:24px}
.facts>:first-child dl>div{break-inside:avoid}
.facts h3{font-size:13px;font-weight:600;margin:0 0 6px}
.facts>div>div+div>h3{margin-top:18px}
.facts dl{margin:0;font-size:13px}
.facts dl>div{display:flex;justify-content:space-between;gap:14px;padding:1px 0}
.facts dt{color:var(--muted)}
.facts dd{margin:0;text-align:right;overflow-wrap:anywhere}
.table-head{display:flex;flex-wrap:wrap;justify-content:space-between;align-items:center;gap:8px}
.table-head label{color:var(--muted);font-size:13px}
input{font:inherit;color:inherit;background:var(--page);border:1px solid var(--quiet);border-radius:6px;padding:4px 10px;margin-left:6px;width:210px;max-width:60vw}
.linears{width:100%;font-size:13px}
.linears th{padding:0;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}
.linears th:first-child,.linears td:first-child,.linears .words{text-align:left}
.linears button{font:inherit;font-weight:600;color:var(--muted);background:none;border:0;border-radius:4px;padding:6px 7px;cursor:pointer}
.linears button:hover,.linears [aria-sort] button{color:var(--text)}
.linears th button{position:relative}
.linears th button::after{position:absolute;right:-5px}
.linears [aria-sort=ascending] button::after{content:"\\2191";content:"\\2191"/""}
.linears [aria-sort=descending] button::after{content:"\\2193";content:"\\2193"/""}
.linears td{padding:4px 7px;text-align:right;white-space:nowrap;border-bottom:1px solid var(--line)}
.linears tbody tr:hover td{background:var(--page)}
.linears .words{white-space:normal;min-width:220px}
.linears .words:empty{min-width:0}
#tip{position:fixed;z-index:2;max-width:min(340px,calc(100vw - 16px));background:var(--text);color:var(--surface);border-radius:8px;padding:8px 12px;font-size:13px;line-height:1.45;pointer-events:none;box-shadow:0 4px 16px rgb(0 0 0/.25);overflow-wrap:anywhere}
#tip span,#tip strong{display:block}
footer{color:var(--muted);font-size:13px;margin-top:20px}
[hidden]{display:none!important}
@media (max-width:600px){main{padding:20px 12px 48px}section{padding:16px 14px}h1{font-size:23px}.tiles{grid-template-columns:1fr 1fr;gap:8px}.tile{padding:10px 12px}.tile .big{font-size:20px}.size-row{grid-template-columns:48px 1fr 68px;gap:8px}.bits td{min-width:22px}}
@media print{body{background:none}section,.tile{break-inside:avoid;border-color:#ccc}#tip,.table-head label{display:none}}`;
