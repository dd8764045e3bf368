// Two latency tables as pictures: drawn from the page's own tables, which hold the same figures.

import { byId } from "./dom.js";
import { drawPlot } from "./picture.js";
import { figure } from "./words.js";

const tick = (value) => String(Number(value.toPrecision(3)));

for (const holder of document.querySelectorAll("figure[data-table]")) {
  const { table, x, y, noun, log } = holder.dataset;
  const rows = [...byId(table).querySelectorAll("tr[data-x]")];
  const ofPoint = new Map();
  const points = rows.map((row) => {
    const [first, second] = [Number(row.dataset.x), Number(row.dataset.y)];
    const figures = `${figure(first, "latency_ms")} on ${x}, ${figure(second, "latency_ms")} on ${y}`;
    const point = { x: first, y: second, label: `${row.dataset.label}: ${figures}`, short: `${row.dataset.label}: ${(second / first).toPrecision(3)}` };
    ofPoint.set(point, row);
    return point;
  });
  const shown = log === undefined ? points : points.filter((point) => point.x > 0 && point.y > 0);
  drawPlot(holder, {
    label: `${noun}: latency on ${y} against latency on ${x}`,
    x: { name: `${x}, ms`, format: tick, log: log !== undefined },
    y: { name: `${y}, ms`, format: tick, log: log !== undefined },
    series: [{ name: noun, kind: "pairs", size: 4, points: shown }],
    diagonal: true,
    onPick: (point) => {
      for (const row of rows) row.classList.toggle("chosen", row === ofPoint.get(point));
      const holder = ofPoint.get(point).closest(".scroll");
      holder.scrollTop = ofPoint.get(point).offsetTop - holder.clientHeight / 2;
    },
  });
}
