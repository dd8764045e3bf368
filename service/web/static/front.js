// The accuracy against cost of a supernet's subnets: the front to pick a point from, and what is stored already.

import { byId, el } from "./dom.js";
import { API, Refusal, follow, getAll, getJson } from "./http.js";
import { drawPlot } from "./picture.js";
import { METRICS, costName, figure, percent } from "./words.js";

const MOST_STORED = 600; // drawn and listed; the rest is a page away
const PATIENCE_MS = 500; // before the stored subnets are drawn without the front
const PRICED_AT_ONCE = 100; // as many as the service takes
const SCALES = { macs: [1e6, "millions"], params: [1e6, "millions"], size_bytes: [1e3, "kB"], peak_memory_bytes: [1e3, "kB"] };
let latest = 0; // a picture that comes late does not replace a newer one

/**
 * Draw the front of a supernet.
 *
 * supernet: its id. onAsk(costs): called when a person asks for the picked point, with the cost on the chosen axis.
 */
export async function showFront(supernet, onAsk) {
  const turn = (latest += 1);
  const holder = byId("picture");
  const name = () => `${supernet} ${byId("axis").value}`;
  offerAxes(supernet);
  const axis = byId("axis").value;
  const drawn = holder.dataset.drawn;
  if (drawn !== name()) holder.replaceChildren(el("p", { class: "waiting", role: "status" }, "Drawing the front …"));
  const show = (front, note) => {
    holder.dataset.drawn = name();
    draw(holder, axis, pointsOf(axis, front, stored), note, onAsk);
  };
  let stored;
  try {
    let said = "The front is being searched …";
    const searched = frontOf(supernet, axis, ({ fraction }) => {
      said = `The front is being searched: ${Math.round(100 * fraction)} %`;
      if (turn === latest) holder.querySelector(".note")?.replaceChildren(said);
    });
    searched.catch(() => {}); // it is awaited below, after what may fail before
    stored = await getAll(`${API}/subnets`, { supernet, sort: "-accuracy", pruned: false }, MOST_STORED);
    let front = await Promise.race([searched, new Promise((resolve) => setTimeout(resolve, PATIENCE_MS))]);
    if (front === undefined && turn === latest && drawn !== name()) show(null, said); // what there is, until it comes
    front = await searched;
    await price(axis, front?.table, stored).catch(() => {}); // without it, fewer stored subnets are drawn
    if (turn === latest) show(front);
  } catch (error) {
    if (turn === latest) holder.replaceChildren(el("p", { class: "waiting", role: "alert" }, `The front cannot be drawn: ${error.message}`));
  }
}

/** Only the costs that this supernet can be priced with, the first device first. */
function offerAxes(supernet) {
  const select = byId("axis");
  const before = select.value;
  const devices = [...byId("limit").content.querySelectorAll("option[data-supernets]")].filter(({ dataset }) => dataset.supernets.split(" ").includes(supernet));
  const names = [...devices.map(({ value }) => value), ...Object.keys(METRICS).filter((metric) => metric !== "latency_ms")];
  select.replaceChildren(...names.map((name) => el("option", { value: name }, costName(name))));
  if (names.includes(before)) select.value = before;
}

/** The service's front, searched by a job when somebody asks first; null where there is none. */
async function frontOf(supernet, axis, onProgress) {
  const [metric, device] = axis.split("@");
  const query = new URLSearchParams({ supernet, metric, ...(device && { device }) });
  try {
    let answer = await getJson(`${API}/pareto-fronts?${query}`);
    if (!answer.points) {
      let { job } = answer;
      for await (job of follow(job)) onProgress(job);
      if (job.state !== "succeeded") return null;
      answer = await getJson(`${API}/pareto-fronts?${query}`);
    }
    return answer;
  } catch (error) {
    if (error instanceof Refusal && [404, 422].includes(error.problem.status)) return null;
    throw error;
  }
}

/** Latencies, by the front's table, of stored subnets that were asked for without a limit on that device. */
async function price(axis, table, stored) {
  const lacking = table ? stored.filter(({ predicted }) => predicted.costs[axis] === undefined) : [];
  for (let first = 0; first < lacking.length; first += PRICED_AT_ONCE) {
    const some = lacking.slice(first, first + PRICED_AT_ONCE);
    const json = { subnets: some.map(({ config }) => config) };
    const { items } = await getJson(`${API}/latency-tables/${table}/estimate`, { method: "POST", json });
    items.forEach(({ latency_ms }, number) => {
      some[number].predicted.costs[axis] = latency_ms;
    });
  }
}

/** Series of points; without a front of the service, that of the stored subnets' predictions. */
function pointsOf(axis, front, stored) {
  const measured = stored.map((subnet) => pointOfStored(axis, subnet)).filter(({ x }) => x !== undefined);
  const byConfig = new Map(stored.map((subnet) => [canonical(subnet.config), subnet]));
  const found = front?.points.map((item) => pointOfFront(axis, item, byConfig)) ?? undominated(stored.map((subnet) => pointOfStored(axis, subnet, "predicted")).filter(({ x }) => x !== undefined));
  return { front: found.filter(({ x }) => x !== undefined), stored: measured, ofService: front !== null };
}

function pointOfFront(axis, item, byConfig) {
  const subnet = byConfig.get(canonical(item.config));
  return described({ x: item.costs[axis], y: item.predicted_accuracy, config: item.config, costs: item.costs, subnet, kind: "predicted" }, axis);
}

function pointOfStored(axis, subnet, kind = "measured") {
  const costs = subnet.predicted.costs;
  return described({ x: costs[axis], y: subnet[kind].accuracy, config: subnet.config, costs, subnet, kind }, axis);
}

function described(point, axis) {
  const what = `${percent(point.y)} ${point.kind} accuracy`;
  const key = `${point.kind} ${canonical(point.config)}`;
  return { ...point, key, label: `${what}, ${costName(axis)} ${figure(point.x, axis)}${point.subnet ? ", stored" : ""}`, short: `${percent(point.y)} · ${figure(point.x, axis)}` };
}

/** A config as text that equal configs share. */
const canonical = (config) => JSON.stringify(Object.entries(config).sort(([a], [b]) => (a < b ? -1 : 1)));

/** The points of which none is both cheaper and better. */
function undominated(points) {
  let best = -Infinity;
  const sorted = [...points].sort((a, b) => a.x - b.x || b.y - a.y);
  return sorted.filter(({ y }) => y > best && ((best = y), true));
}

function draw(holder, axis, { front, stored, ofService }, note, onAsk) {
  const picked = byId("picked");
  picked.replaceChildren(el("p", { class: "muted" }, "Pick a point: click it, or use the arrow keys in the picture."));
  showTable(axis, front, stored, (point) => plot?.pick(point));
  byId("front-data").hidden = !(front.length + stored.length);
  if (!front.length && !stored.length) {
    holder.replaceChildren(el("p", { class: "waiting note" }, note ?? "Nothing to draw yet: ask for a subnet, and its point appears here."));
    return;
  }
  const [factor, unit] = SCALES[axis] ?? [1, "ms"];
  const dense = front.length > 40;
  const plot = drawPlot(holder, {
    label: `Accuracy against ${costName(axis)}`,
    x: { name: `${costName(axis)}, ${unit}`, format: (value) => String(Number((value / factor).toPrecision(4))) },
    y: { name: "Accuracy, %", format: (value) => String(Number((100 * value).toPrecision(5))) },
    series: [
      { name: ofService ? "front, predicted" : "front of the stored subnets, predicted", kind: dense ? "front dense" : "front", line: true, size: dense ? 2.5 : 5, points: front },
      { name: "stored subnets, measured", kind: "stored", mark: "square", size: 4, points: stored },
    ],
    note,
    before: holder.dataset.picked,
    onPick: (point) => {
      holder.dataset.picked = point.key;
      showPicked(picked, axis, point, onAsk);
    },
  });
}

function showPicked(picked, axis, point, onAsk) {
  const { subnet } = point;
  const costs = Object.entries(point.costs).filter(([name]) => !name.includes(":"));
  const facts = [
    ["Predicted accuracy", percent(subnet ? subnet.predicted.accuracy : point.y)],
    ...(subnet ? [["Measured accuracy", percent(subnet.measured.accuracy)]] : []),
    ...costs.map(([name, value]) => [costName(name), figure(value, name)]),
    ["Resolution", `${point.config.resolution} px`],
  ];
  const ask = el("button", { type: "button" }, `Ask for ${figure(point.x, axis)}`);
  ask.addEventListener("click", () => onAsk({ [axis]: point.x }));
  const files = subnet && el("ul", { class: "files" }, ...subnet.files.map((file) => el("li", {}, el("a", { href: file.url, download: file.name }, file.name), " ", el("span", { class: "muted" }, figure(file.size_bytes, "size_bytes")))));
  picked.replaceChildren(
    el("h3", {}, subnet ? el("a", { href: `/subnets/${subnet.id}` }, "Stored subnet ", el("code", {}, subnet.id.slice(0, 10))) : "A subnet of the front"),
    el("dl", { class: "facts small" }, ...facts.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value)))),
    subnet ? files : el("div", { class: "actions" }, ask),
  );
}

function showTable(axis, front, stored, pick) {
  const row = (point) => {
    const button = el("button", { type: "button", class: "quiet", "aria-label": `Pick ${point.label}` }, "Pick");
    button.addEventListener("click", () => pick(point));
    return el("tr", {}, el("td", { class: "number" }, figure(point.x, axis)), el("td", { class: "number" }, percent(point.y)), el("td", {}, point.kind), el("td", {}, point.subnet ? "stored" : "not made yet"), el("td", {}, button));
  };
  const names = [["number", costName(axis)], ["number", "Accuracy"], ["", "Accuracy is"], ["", "Subnet"], ["", "Choose"]];
  const sorted = [...front, ...stored].sort((a, b) => a.x - b.x);
  byId("front-data").querySelector(".scroll").replaceChildren(
    el("table", { class: "figures" }, el("thead", {}, el("tr", {}, ...names.map(([kind, name]) => el("th", { scope: "col", class: kind }, name)))), el("tbody", {}, ...sorted.map(row))),
  );
}
