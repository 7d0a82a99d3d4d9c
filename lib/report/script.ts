/**
 * lib/report: the script of the page, as text: details of a mark on hover, tap and focus, arrow keys between marks, sorting and filtering
 * of the table. The page is complete without it but for those. It makes no request, keeps nothing, and writes texts only, never HTML.
 */
export const script = `(() => {
  'use strict';
  const tip = document.getElementById('tip');
  let shown;
  const hide = () => { shown = undefined; tip.hidden = true; };
  const show = (mark) => {
    shown = mark;
    const [title, ...lines] = mark.dataset.tip.split('\\n');
    const strong = document.createElement('strong');
    strong.textContent = title;
    tip.replaceChildren(strong, ...lines.map((line) => {
      const row = document.createElement('span');
      row.textContent = line;
      return row;
    }));
    tip.hidden = false;
    const at = mark.getBoundingClientRect();
    const box = tip.getBoundingClientRect();
    const room = document.documentElement.clientWidth;
    const left = Math.max(8, Math.min(at.left + at.width / 2 - box.width / 2, room - box.width - 8));
    const above = at.top - box.height - 8;
    tip.style.left = left + 'px';
    tip.style.top = (above >= 8 ? above : at.bottom + 8) + 'px';
  };
  const markOf = (event) => event.target instanceof Element ? event.target.closest('[data-tip]') : null;
  let pointer = '';
  document.addEventListener('pointerover', (event) => {
    // Scrolling puts another mark under a pointer that rests; who walks by keyboard must not be interrupted by it.
    const place = event.clientX + ' ' + event.clientY;
    if (place === pointer) return;
    pointer = place;
    const mark = markOf(event);
    if (mark) show(mark);
    else if (shown && shown !== document.activeElement) hide();
  });
  document.addEventListener('focusin', (event) => { const mark = markOf(event); if (mark) show(mark); else hide(); });
  document.addEventListener('focusout', hide);
  addEventListener('scroll', () => { if (shown === document.activeElement) show(shown); else hide(); }, { passive: true, capture: true });

  const keys = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  for (const group of document.querySelectorAll('[data-marks]')) {
    const marks = [...group.querySelectorAll('[data-tip]')];
    const move = (to) => {
      for (const mark of marks) mark.tabIndex = mark === to ? 0 : -1;
      to.focus();
      to.scrollIntoView({ block: 'nearest', inline: 'nearest' });
      show(to);
    };
    group.addEventListener('click', (event) => { const mark = markOf(event); if (mark) move(mark); });
    group.addEventListener('keydown', (event) => {
      if (event.key === 'Escape') return hide();
      const mark = markOf(event);
      const step = keys[event.key];
      if (!mark || !step) return;
      event.preventDefault();
      const [x, y] = [Number(mark.dataset.x), Number(mark.dataset.y)];
      let best, distance = Infinity;
      for (const other of marks) {
        const [dx, dy] = [Number(other.dataset.x) - x, Number(other.dataset.y) - y];
        const along = dx * step[0] + dy * step[1];
        const across = step[0] ? Math.abs(dy) : Math.abs(dx);
        if (along <= 0 || (step[0] && across > 0)) continue;
        if (along * 1000 + across < distance) [best, distance] = [other, along * 1000 + across];
      }
      if (best) move(best);
    });
  }

  const table = document.getElementById('linears');
  if (!table) return;
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const value = (row, column) => {
    const cell = row.cells[column];
    return cell.dataset.v === undefined ? cell.textContent.trim() : cell.dataset.v === '' ? undefined : Number(cell.dataset.v);
  };
  const headers = [...table.tHead.rows[0].cells];
  headers.forEach((header, column) => header.firstElementChild.addEventListener('click', () => {
    const now = header.getAttribute('aria-sort');
    const numbers = header.dataset.numbers !== undefined;
    const falling = now === null ? numbers : now === 'ascending';
    for (const other of headers) other.removeAttribute('aria-sort');
    header.setAttribute('aria-sort', falling ? 'descending' : 'ascending');
    const sign = falling ? -1 : 1;
    const sorted = rows.map((row, index) => ({ row, index, value: value(row, column) })).sort((a, b) => {
      if (a.value === undefined || b.value === undefined) return (a.value === undefined) - (b.value === undefined) || a.index - b.index;
      const order = typeof a.value === 'number' ? a.value - b.value : a.value.localeCompare(b.value, undefined, { numeric: true });
      return sign * order || a.index - b.index;
    });
    body.append(...sorted.map(({ row }) => row));
  }));
  const filter = document.getElementById('filter');
  const count = document.getElementById('count');
  filter.parentElement.hidden = false;
  filter.addEventListener('input', () => {
    const words = filter.value.toLowerCase().split(/\\s+/).filter(Boolean);
    let left = 0;
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
      if (!row.hidden) left++;
    }
    count.textContent = left === rows.length ? '' : left + ' of ' + rows.length;
  });
})();`;
