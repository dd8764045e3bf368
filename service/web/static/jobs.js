// Jobs as they go on: running ones by their event streams, everything else by reading the page again.

import { byId, el } from "./dom.js";
import { API, call, follow, getPage } from "./http.js";

const STREAMS = 3; // a browser opens six connections to a host, and other requests need some of them
const EVERY_MS = 2000;
const ACTIVE = ["queued", "running"];
const body = byId("jobs");
const followed = new Set();

const short = (id) => id.slice(0, 10);
const part = (row, name) => row.querySelector(`[data-part="${name}"]`);
const tell = (text) => byId("news").replaceChildren(text);

/** Write a job's state into its row; what its end means for the other cells comes with the next reading. */
function update(row, job) {
  const changed = row.dataset.state !== job.state;
  row.dataset.state = job.state;
  part(row, "state").querySelector(".state").replaceWith(el("span", { class: `state ${job.state}` }, job.state));
  const bar = row.querySelector("progress");
  if (bar) {
    bar.value = job.fraction;
    bar.textContent = `${Math.round(100 * job.fraction)} %`;
  }
  part(row, "stage").textContent = job.stage;
  part(row, "time").textContent = `${((Date.parse(job.updated_at) - Date.parse(job.created_at)) / 1000).toFixed(1)} s`;
  if (changed) tell(`Job ${short(job.id)} ${job.state === "running" ? "runs" : `is ${job.state}`}.`);
}

async function watch(row) {
  const id = row.dataset.job;
  followed.add(id);
  try {
    for await (const job of follow({ events_url: `${API}/jobs/${id}/events` })) {
      if (byId(row.id)) update(byId(row.id), job);
    }
  } catch (error) {
    tell(error.message);
    await new Promise((resolve) => setTimeout(resolve, EVERY_MS));
  } finally {
    followed.delete(id);
  }
  await read();
}

/** Bring the rows up to date without moving the focus. */
async function read() {
  let fresh;
  try {
    fresh = (await getPage(location.href)).getElementById("jobs");
  } catch {
    return; // the service is away for a moment; the next reading tells
  }
  const focused = document.activeElement;
  const within = focused?.closest?.("#jobs tr");
  const kept = [...fresh.children].map((row) => {
    const old = row.id && byId(row.id);
    const same = old && old.dataset.state === row.dataset.state && (followed.has(row.dataset.job) || old.innerHTML === row.innerHTML);
    return same ? old : document.adoptNode(row);
  });
  const moves = kept.length !== body.children.length || kept.some((row, number) => row !== body.children[number]);
  if (moves) body.replaceChildren(...kept);
  if (moves && within) {
    const target = document.contains(focused) ? focused : (byId(within.id)?.querySelector("a, button") ?? byId("main"));
    target.focus({ preventScroll: true });
  }
  start();
}

function start() {
  const running = [...body.querySelectorAll("tr[data-job]")].filter((row) => ACTIVE.includes(row.dataset.state));
  running.sort((a, b) => (b.dataset.state === "running") - (a.dataset.state === "running"));
  for (const row of running) {
    if (followed.size >= STREAMS) return;
    if (!followed.has(row.dataset.job)) watch(row);
  }
}

body.addEventListener("submit", async (event) => {
  event.preventDefault();
  const id = event.target.dataset.cancel;
  event.target.querySelector("button").disabled = true;
  try {
    const job = await (await call(`${API}/jobs/${id}/cancel`, { method: "POST" })).json();
    tell(`Job ${short(id)} is ${job.state}.`);
  } catch (error) {
    tell(error.message);
  }
  await read();
});

start();
if (body.dataset.live !== undefined) {
  setInterval(() => {
    if (document.visibilityState === "visible") read();
  }, EVERY_MS);
}
