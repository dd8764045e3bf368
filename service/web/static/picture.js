// A scatter plot as inline SVG. Its points are radio buttons: arrow keys go from one to the next, each tells its figures.

import { el, svg } from "./dom.js";

const MARGIN = { top: 14, right: 16, bottom: 44, left: 62 };
const HEIGHT = 360;
const REACH = 24; // pixels between the pointer and the point that it means
const MARKS = {
  circle: (size) => svg("circle", { class: "mark", r: size }),
  square: (size) => svg("rect", { class: "mark", x: -size, y: -size, width: 2 * size, height: 2 * size, rx: 1 }),
};

/**
 * Draw into `figure`, and again whenever its width changes.
 *
 * plot: {
 *   label: what the picture shows, for screen readers,
 *   x, y: { name, format(value), log },
 *   series: [{ name, kind (a class of style.css), mark ("circle" or "square"), size, line, points: [{ x, y, label, short, key }] }],
 *   diagonal: whether to draw y = x,
 *   before: key of the point that was chosen in an earlier picture of the same,
 *   note: a sentence below the picture,
 *   onPick(point): called when a point is chosen,
 * }
 * Returns { pick(point) }.
 */
export function drawPlot(figure, plot) {
  figure.plotWatcher?.disconnect();
  plot = { ...plot, diagonal: plot.diagonal && overlap(plot.series.flatMap(({ points }) => points)) };
  const all = plot.series.flatMap((series) => series.points.map((point) => ({ series, point })));
  all.sort((a, b) => a.point.x - b.point.x || a.point.y - b.point.y);
  const before = plot.before && all.find(({ point }) => point.key === plot.before)?.point;
  const state = { picked: null, focused: before ?? all[0]?.point ?? null };
  const hadFocus = figure.contains(document.activeElement);
  const holder = el("div");
  figure.replaceChildren(holder, caption(plot));

  const pick = (point) => {
    state.picked = state.focused = point;
    for (const [each, node] of state.nodes) {
      node.setAttribute("aria-checked", each === point);
      node.setAttribute("tabindex", each === point ? 0 : -1);
    }
    plot.onPick?.(point);
  };
  const draw = () => {
    const width = Math.floor(holder.clientWidth);
    if (width < 120 || width === state.width) return;
    state.width = width;
    const hadFocus = holder.contains(document.activeElement);
    state.nodes = new Map();
    holder.replaceChildren(picture(plot, all, width, state, pick));
    if (hadFocus) state.nodes.get(state.focused)?.focus();
  };
  draw();
  if (before) pick(before);
  if (hadFocus) state.nodes?.get(state.focused)?.focus();
  figure.plotWatcher = new ResizeObserver(draw);
  figure.plotWatcher.observe(holder);
  return { pick };
}

function picture(plot, all, width, state, pick) {
  const x = scale(all.map(({ point }) => point.x), [MARGIN.left, width - MARGIN.right], plot.x, Math.max(3, Math.floor(width / 85)));
  const y = scale(all.map(({ point }) => point.y), [HEIGHT - MARGIN.bottom, MARGIN.top], plot.y, 8);
  const root = svg("svg", { width, height: HEIGHT, viewBox: `0 0 ${width} ${HEIGHT}`, role: "group", "aria-label": plot.label });
  root.append(axes(plot, x, y, width));
  for (const series of plot.series.filter(({ line, points }) => line && points.length > 1)) {
    const sorted = [...series.points].sort((a, b) => a.x - b.x);
    const path = sorted.map((point, number) => `${number ? "L" : "M"}${x.at(point.x).toFixed(1)} ${y.at(point.y).toFixed(1)}`).join("");
    root.append(svg("path", { class: `line ${series.kind}`, d: path, "aria-hidden": "true" }));
  }
  const readout = svg("g", { class: "readout", "aria-hidden": "true", visibility: "hidden" });
  const group = svg("g", { role: "radiogroup", "aria-label": "Points, by rising cost; arrow keys go from one to the next" });
  const places = all.map(({ point }) => [x.at(point.x), y.at(point.y)]);
  const show = (number) => showReadout(readout, all[number].point.short ?? all[number].point.label, places[number], width);
  const hide = () => readout.setAttribute("visibility", "hidden");
  all.forEach(({ series, point }, number) => {
    const size = series.size ?? 5;
    const node = svg("g", {
      class: `point ${series.kind}`, role: "radio", "aria-checked": String(point === state.picked), "aria-label": point.label,
      tabindex: point === state.focused ? 0 : -1, transform: `translate(${places[number].map((value) => value.toFixed(1)).join(" ")})`,
      focus: () => show(number), blur: hide,
      keydown: (event) => {
        const target = next(event.key, number, all.length);
        if (target === undefined) return;
        event.preventDefault();
        pick(all[target].point);
        state.nodes.get(all[target].point).focus();
      },
    }, MARKS[series.mark ?? "circle"](size), svg("circle", { class: "ring", r: size + 4 }));
    state.nodes.set(point, node);
    group.append(node);
  });
  root.append(group, readout);
  followPointer(root, places, {
    over(number) {
      root.querySelector(".near")?.classList.remove("near");
      if (number === null) return hide();
      state.nodes.get(all[number].point).classList.add("near");
      return show(number);
    },
    picked(number) {
      pick(all[number].point);
      state.nodes.get(all[number].point).focus();
    },
  });
  return root;
}

/** The pointer means the nearest point within reach: marks may lie upon each other. */
function followPointer(root, places, { over, picked }) {
  const nearest = (event) => {
    const box = root.getBoundingClientRect();
    const distances = places.map(([x, y]) => Math.hypot(event.clientX - box.left - x, event.clientY - box.top - y));
    const number = distances.indexOf(Math.min(...distances));
    return distances[number] <= REACH ? number : null;
  };
  root.addEventListener("pointermove", (event) => over(nearest(event)));
  root.addEventListener("pointerleave", () => over(null));
  root.addEventListener("click", (event) => {
    const number = nearest(event);
    if (number !== null) picked(number);
  });
}

/** The number of the point that a key leads to; undefined for keys that mean nothing here. */
function next(key, number, count) {
  const steps = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 };
  if (key in steps) return (number + steps[key] + count) % count;
  const leaps = { PageUp: 10, PageDown: -10 };
  if (key in leaps) return Math.min(Math.max(number + leaps[key], 0), count - 1);
  return { Home: 0, End: count - 1, " ": number, Enter: number }[key];
}

function showReadout(readout, text, [x, y], width) {
  const label = svg("text", { "text-anchor": "middle", y: 4 }, text);
  readout.replaceChildren(label);
  readout.setAttribute("visibility", "visible");
  const half = label.getComputedTextLength() / 2 + 8;
  const middle = Math.min(Math.max(x, half + 2), width - half - 2);
  readout.prepend(svg("rect", { x: -half, y: -11, width: 2 * half, height: 22, rx: 4 }));
  readout.setAttribute("transform", `translate(${middle} ${y > 50 ? y - 26 : y + 28})`);
}

function axes(plot, x, y, width) {
  const group = svg("g", { "aria-hidden": "true" });
  const bottom = HEIGHT - MARGIN.bottom;
  for (const tick of y.ticks) {
    group.append(
      svg("line", { class: "grid", x1: MARGIN.left, x2: width - MARGIN.right, y1: y.at(tick), y2: y.at(tick) }),
      svg("text", { x: MARGIN.left - 10, y: y.at(tick) + 4, "text-anchor": "end" }, y.format(tick)),
    );
  }
  for (const tick of x.ticks) {
    group.append(
      svg("line", { class: "grid", x1: x.at(tick), x2: x.at(tick), y1: MARGIN.top, y2: bottom }),
      svg("text", { x: x.at(tick), y: bottom + 18, "text-anchor": "middle" }, x.format(tick)),
    );
  }
  group.append(
    svg("text", { class: "axis-name", x: (MARGIN.left + width - MARGIN.right) / 2, y: HEIGHT - 5, "text-anchor": "middle" }, plot.x.name),
    svg("text", { class: "axis-name", transform: `translate(13 ${(MARGIN.top + bottom) / 2}) rotate(-90)`, "text-anchor": "middle" }, plot.y.name),
  );
  if (plot.diagonal) {
    const [low, high] = [Math.max(x.low, y.low), Math.min(x.high, y.high)];
    if (low < high) group.append(svg("line", { class: "diagonal", x1: x.at(low), y1: y.at(low), x2: x.at(high), y2: y.at(high) }));
  }
  return group;
}

function caption(plot) {
  const entries = plot.series.filter(({ points }) => points.length).map((series) => {
    const key = svg("svg", { width: 16, height: 16, viewBox: "-8 -8 16 16", "aria-hidden": "true" }, svg("g", { class: series.kind }, MARKS[series.mark ?? "circle"](4.5)));
    return el("span", { class: "legend" }, key, `${series.name} (${series.points.length})`);
  });
  if (plot.diagonal) {
    const key = svg("svg", { width: 20, height: 16, viewBox: "0 0 20 16", "aria-hidden": "true" }, svg("line", { class: "diagonal", x1: 1, x2: 19, y1: 14, y2: 2 }));
    entries.push(el("span", { class: "legend" }, key, "equal"));
  }
  const note = plot.note && el("span", { class: "note", role: "status" }, plot.note);
  return el("figcaption", {}, ...entries, note);
}

/** Whether the ranges of x and y have values in common: otherwise the line of equality is outside of the picture. */
function overlap(points) {
  const [xs, ys] = [points.map(({ x }) => x), points.map(({ y }) => y)];
  return Math.max(Math.min(...xs), Math.min(...ys)) < Math.min(Math.max(...xs), Math.max(...ys));
}

/** A mapping of values to pixels with round ticks. */
function scale(values, [from, to], { log = false, format }, count) {
  const forth = log ? Math.log : (value) => value;
  let [low, high] = [Math.min(...values), Math.max(...values)];
  if (low === high) [low, high] = log ? [low / 1.5, high * 1.5] : [low - Math.abs(low) * 0.1 - 1e-9, high + Math.abs(high) * 0.1 + 1e-9];
  const pad = (forth(high) - forth(low)) * 0.05;
  [low, high] = log ? [low / Math.exp(pad), high * Math.exp(pad)] : [low - pad, high + pad];
  const at = (value) => from + ((forth(value) - forth(low)) / (forth(high) - forth(low))) * (to - from);
  return { at, low, high, ticks: log ? logTicks(low, high, count) : linearTicks(low, high, count), format };
}

function linearTicks(low, high, count) {
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough);
  const ticks = [];
  for (let number = Math.ceil(low / step); number * step <= high; number += 1) ticks.push(Number((number * step).toPrecision(12)));
  return ticks;
}

function logTicks(low, high, count) {
  const powers = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power += 1) powers.push(power);
  const inside = (factors) => powers.flatMap((power) => factors.map((factor) => Number((factor * 10 ** power).toPrecision(12)))).filter((tick) => tick >= low && tick <= high);
  const sets = [[1, 2, 3, 4, 5, 6, 7, 8, 9], [1, 2, 5], [1, 3], [1]].map(inside);
  const fitting = sets.find((ticks) => ticks.length <= count + 1 && ticks.length > 1);
  return fitting ?? linearTicks(low, high, count);
}
