// Latency tables: a file is checked before it is stored, and the report says what is missing and what is doubtful.

import { byId, el } from "./dom.js";
import { API, call, getPage } from "./http.js";
import { counted, percent } from "./words.js";

const TYPES = { json: "application/json", yaml: "application/yaml", yml: "application/yaml", csv: "text/csv" };
const SHOWN = 40;
const upload = byId("upload");
const report = byId("report");
const device = byId("device");

/** Keep a button from being pressed twice; show what goes wrong in `place`. */
async function guarded(button, place, work) {
  button.disabled = true;
  try {
    await work();
  } catch (error) {
    const sentences = error.sentences ?? [error.message];
    place.replaceChildren(el("div", { class: "notice bad", role: "alert" }, ...sentences.map((text) => el("p", {}, text))));
  } finally {
    button.disabled = false;
  }
}

async function send(dryRun) {
  const [file] = upload.elements.file.files;
  const type = TYPES[file.name.split(".").pop().toLowerCase()];
  if (!type) throw new Error(`${file.name} is no latency table; allowed endings: .json, .yaml, .csv; make one with: onceforall tables convert`);
  const path = `${API}/devices/${encodeURIComponent(upload.elements.device.value)}/latency-tables?dry_run=${dryRun}`;
  const response = await call(path, { method: "POST", body: file, headers: { "Content-Type": type } });
  return { ...(await response.json()), status: response.status };
}

function list(title, items) {
  if (!items.length) return null;
  const shown = items.slice(0, SHOWN).map((item) => el("li", {}, el("code", {}, item)));
  const rest = items.length > SHOWN ? el("p", { class: "muted" }, `and ${items.length - SHOWN} more`) : null;
  return el("details", { open: items.length <= 8 }, el("summary", {}, title), el("ul", { class: "keys" }, ...shown), rest);
}

function facts(table) {
  const entries = [["Coverage", percent(table.coverage)], ["Layers", table.rows], ["Missing", table.missing.length], ["Doubtful", table.outliers.length]];
  if (table.unknown.length) entries.push(["Not needed", table.unknown.length]);
  return el("dl", { class: "facts small" }, ...entries.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, String(value)))));
}

function showReport(table) {
  const verdict = table.complete
    ? el("div", { class: "notice good" }, el("p", {}, `Complete: every layer of ${table.space} has a latency.`))
    : el("div", { class: "notice" }, el("p", {}, `${counted(table.missing.length, "layer")} of ${table.space} without a latency. It can be stored, but prices no request before a complete one follows; measure the missing ones with: `, el("code", {}, `onceforall profile RUN_FOLDER --device ${table.device}`)));
  const store = el("button", { type: "button" }, `Store as version ${table.version}`);
  store.addEventListener("click", () => guarded(store, report, async () => showStored(await send(false))));
  report.replaceChildren(
    el("h3", {}, "Checked, not stored yet"), verdict, facts(table),
    list("Missing layers", table.missing) ?? "",
    list("Doubtful rows", table.outliers) ?? "",
    list("Rows that no subnet needs", table.unknown) ?? "",
    el("div", { class: "actions" }, store),
  );
  report.focus();
}

async function showStored(table) {
  const text = table.stored ? `Stored as version ${table.version} of ${table.device}.` : `This very table is stored already, as version ${table.version} of ${table.device}.`;
  report.replaceChildren(el("div", { class: "notice good" }, el("p", {}, text)));
  report.focus();
  await refresh();
}

/** The list of tables and the choice of devices, read again. */
async function refresh() {
  const page = await getPage(location.href);
  const section = document.querySelector("section[aria-labelledby=devices-title]");
  section.replaceWith(document.adoptNode(page.querySelector("section[aria-labelledby=devices-title]")));
  const chosen = upload.elements.device.value;
  upload.elements.device.replaceChildren(...page.querySelectorAll("#upload select[name=device] option"));
  if (chosen) upload.elements.device.value = chosen;
  wireComparison();
}

upload.addEventListener("submit", (event) => {
  event.preventDefault();
  guarded(event.submitter, report, async () => {
    const table = await send(true);
    if (isStored(table)) await showStored(table);
    else showReport(table);
  });
});
for (const field of [upload.elements.file, upload.elements.device]) field.addEventListener("change", () => report.replaceChildren());

/** A dry run of a table that is stored already answers with that one. */
const isStored = (table) => document.getElementById(`table-${table.id}`) !== null;

device.addEventListener("submit", (event) => {
  event.preventDefault();
  const answer = device.querySelector(".answer");
  guarded(event.submitter, answer, async () => {
    const { name, hardware, runtime, precision, threads, batch } = device.elements;
    const json = { name: name.value, runtime: runtime.value, precision: precision.value, threads: Number(threads.value), batch: Number(batch.value) };
    if (hardware.value) json.hardware = hardware.value;
    const response = await call(`${API}/devices`, { method: "POST", json });
    await refresh();
    upload.elements.device.value = json.name; // first, so that what is said next is true
    answer.replaceChildren(el("p", { class: "notice good" }, response.status === 201 ? `${json.name} is described; upload its table now.` : `${json.name} was described so already.`));
  });
});

/** The button works once two different tables are chosen; whether their spaces fit, the service says. */
function wireComparison() {
  const form = byId("compare");
  if (!form) return;
  const button = form.querySelector("button");
  const show = () => {
    const [a, b] = ["a", "b"].map((name) => form.querySelector(`input[name=${name}]:checked`)?.value);
    button.disabled = !a || !b || a === b;
    byId("chosen").textContent = !a || !b ? "Choose two tables of one search space to compare them." : a === b ? "Choose two different tables." : "Two tables chosen.";
  };
  form.addEventListener("change", show);
  show();
}

wireComparison();
