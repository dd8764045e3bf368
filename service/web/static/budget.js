// The rows of a budget: metric, value, unit. Units are multiples of the API's, a share of the largest, or a percentile.

import { byId, el } from "./dom.js";

const SHARE = { text: "% of the largest", factor: 0.01, relative: true };
const COUNT = [{ text: "million", factor: 1e6 }, SHARE];
const BYTES = [{ text: "kB", factor: 1e3 }, { text: "MB", factor: 1e6 }, SHARE];
const UNITS = {
  latency_ms: [{ text: "ms", factor: 1 }, { text: "ms, 95 % of runs", factor: 1, quantile: 0.95 }, SHARE],
  macs: COUNT,
  params: COUNT,
  size_bytes: BYTES,
  peak_memory_bytes: BYTES,
};

const part = (row, name) => row.querySelector(`[data-part="${name}"]`);
const rows = (form) => [...form.querySelectorAll(".limit")];
const unitsOf = (row) => UNITS[part(row, "metric").value.split("@")[0]];

/** Make the rows fit the chosen supernet: only devices that can price it, and one row to begin with. */
export function wireBudget(form) {
  const add = byId("add-limit");
  add.onclick = () => part(newRow(form), "metric").focus();
  for (const row of rows(form)) offerDevices(form, row);
  if (!rows(form).length) {
    const first = newRow(form);
    const device = [...part(first, "metric").options].find(({ value, disabled }) => value.startsWith("latency_ms@") && !disabled);
    if (device) {
      choose(first, device.value);
      newRow(form);
    }
  }
}

/** The limits that are filled in, as the API takes them; a value that is no number is a fault of the form. */
export function budgetOf(form) {
  const faults = [];
  const limits = [];
  rows(form).forEach((row, number) => {
    const text = part(row, "max").value.trim().replace(",", ".");
    if (!text) return;
    const unit = unitsOf(row)[part(row, "unit").selectedIndex];
    const max = Number((Number(text) * unit.factor).toPrecision(15));
    if (!(max > 0) || !Number.isFinite(max)) faults.push({ where: `row ${number}`, message: `${text} is not a number above 0; such as 2.5`, row });
    const [metric, device] = part(row, "metric").value.split("@");
    limits.push({ metric, max, ...(device && { device }), ...(unit.relative && { relative: true }), ...(unit.quantile && { quantile: unit.quantile }) });
  });
  if (!faults.length && !limits.length) faults.push({ where: "row 0", message: "a budget needs a limit; fill in one value", row: rows(form)[0] });
  if (faults.length) throw Object.assign(new Error(faults.map(({ message }) => message).join("; ")), { faults });
  return limits;
}

/** Replace the rows by one for each of the costs, rounded up so that a subnet of these costs still fits. */
export function fillBudget(form, costs) {
  rows(form).forEach((row) => row.remove());
  for (const [name, value] of Object.entries(costs)) {
    const row = newRow(form);
    choose(row, name);
    const [unit] = unitsOf(row);
    part(row, "max").value = roundedUp(value / unit.factor);
  }
  markFaults(form, []);
}

/** Show faults at their rows; those of the service name the limit's place in the list of filled rows. */
export function markFaults(form, faults) {
  const filled = rows(form).filter((row) => part(row, "max").value.trim());
  for (const row of rows(form)) {
    part(row, "max").removeAttribute("aria-invalid");
    row.querySelector(".fault")?.remove();
  }
  for (const { where, message, row: known } of faults) {
    const row = known ?? filled[Number(/constraints\.(\d+)/.exec(where)?.[1] ?? NaN)] ?? filled.find((each) => where === `body.constraints.${part(each, "metric").value}`);
    if (!row) continue;
    part(row, "max").setAttribute("aria-invalid", "true");
    row.append(el("p", { class: "fault" }, message));
  }
  faults.find(({ row }) => row)?.row.querySelector("input").focus();
}

function newRow(form) {
  byId("limits").append(byId("limit").content.cloneNode(true));
  const row = rows(form).at(-1);
  offerDevices(form, row);
  part(row, "metric").addEventListener("change", () => choose(row, part(row, "metric").value));
  part(row, "remove").addEventListener("click", () => {
    row.remove();
    byId("add-limit").focus();
  });
  const taken = rows(form).map((each) => part(each, "metric").value);
  const free = [...part(row, "metric").options].find(({ value, disabled }) => !disabled && taken.filter((each) => each === value).length < (value === part(row, "metric").value ? 2 : 1));
  choose(row, free?.value ?? "macs");
  return row;
}

function choose(row, name) {
  part(row, "metric").value = name;
  const options = unitsOf(row).map(({ text }) => el("option", {}, text));
  part(row, "unit").replaceChildren(...options);
}

function offerDevices(form, row) {
  for (const option of part(row, "metric").options) {
    if (!option.dataset.supernets && !option.value.includes("@")) continue;
    option.disabled = option.hidden = !option.dataset.supernets.split(" ").includes(form.elements.supernet.value);
  }
  if (part(row, "metric").selectedOptions[0]?.disabled) choose(row, "macs");
}

/** Four significant digits, never below the value. */
function roundedUp(value) {
  const step = 10 ** (Math.floor(Math.log10(value)) - 3);
  return String(Number((Math.ceil(value / step - 1e-9) * step).toPrecision(4)));
}
