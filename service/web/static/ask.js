// Asking for a subnet: a budget, the job's progress, the answer; and the front to pick a point from.

import { showFront } from "./front.js";
import { byId, el } from "./dom.js";
import { API, Refusal, call, follow, getJson, getPage } from "./http.js";
import { budgetOf, fillBudget, markFaults, wireBudget } from "./budget.js";
import { costName, figure, percent, trimmed } from "./words.js";

const form = byId("ask");
const status = byId("status");
const outcome = byId("outcome");
const submit = form?.querySelector("button.main");
let running = null; // stops following the job of the request under way

const supernet = () => form.elements.supernet.value;

/** Only a change of the words is said: progress within a stage is seen, not heard. */
function say(text) {
  if (status.textContent !== text) status.textContent = text;
}

function showOutcome(...children) {
  outcome.replaceChildren(...children);
  outcome.hidden = false;
  outcome.scrollIntoView({ block: "nearest", behavior: "smooth" });
  outcome.focus({ preventScroll: true });
}

/** The answer, as the subnet's own page shows it. */
async function showSubnet(id) {
  const page = await getPage(`/subnets/${id}`);
  const answer = document.adoptNode(page.getElementById("subnet"));
  showOutcome(el("h2", {}, page.title.startsWith("Pruned") ? "Your pruned network " : "Your subnet ", el("a", { href: `/subnets/${id}` }, el("code", {}, id.slice(0, 10)))), answer);
  say("Done.");
}

function showRefusal(error) {
  const { tightest, nearest, offer } = error.problem ?? {};
  if (tightest && nearest) return showInfeasible(tightest, nearest, offer);
  const sentences = error instanceof Refusal ? error.sentences : [error.message];
  showOutcome(el("div", { class: "notice bad", role: "alert" }, el("h2", {}, "The service refused"), ...sentences.map((text) => el("p", {}, text))));
  return undefined;
}

/** No subnet meets the budget: the limit that is hardest to meet, the subnet that comes nearest, and what may help. */
function showInfeasible(tightest, nearest, offer) {
  const name = tightest.device ? `${tightest.metric}@${tightest.device}` : tightest.metric;
  const asked = tightest.relative ? `${(100 * tightest.max).toPrecision(4)} % of the largest` : trimmed(figure(tightest.max, name));
  const over = Object.entries(nearest.excess).map(([limit, share]) => el("li", {}, `${costName(limit)} is ${(100 * share).toPrecision(3)} % over`));
  const costs = Object.entries(nearest.costs).filter(([cost]) => !cost.includes(":"));
  const button = el("button", { type: "button" }, "Ask for the nearest");
  button.addEventListener("click", () => {
    const limited = new Set(budgetOf(form).map(({ metric, device }) => (device ? `${metric}@${device}` : metric)));
    fillBudget(form, Object.fromEntries(costs.filter(([cost]) => limited.has(cost))));
    form.requestSubmit();
  });
  showOutcome(
    el("div", { class: "notice", role: "alert" }, el("h2", {}, "No subnet meets this budget"),
      el("p", {}, el("strong", {}, `${costName(name)} ≤ ${asked}`), ` is the tightest limit: the least of any subnet is ${figure(tightest.least, name)}.`)),
    el("div", { class: "card" }, el("h2", {}, "The nearest subnet"), over.length ? el("ul", { class: "plain" }, ...over) : null,
      el("dl", { class: "facts small" }, fact("Predicted accuracy", percent(nearest.predicted_accuracy)),
        ...costs.map(([cost, value]) => fact(costName(cost), figure(value, cost))), fact("Resolution", `${nearest.config.resolution} px`)),
      el("div", { class: "actions" }, button)),
    ...(offer ? [pruning(offer)] : []),
  );
}

/** The offer to prune the nearest subnet further, with a button that takes it. */
function pruning({ url, body, note }) {
  const button = el("button", { type: "button" }, "Prune it further");
  button.addEventListener("click", () => attempt(() => order(url, body)));
  return el("div", { class: "card" }, el("h2", {}, "Smaller than any subnet"),
    el("p", {}, `The service ${note}. It trains on ${body.data === "run-images" ? "the images of the supernet’s run" : body.data}, which takes a while.`),
    el("div", { class: "actions" }, button));
}

const fact = (name, value) => el("div", {}, el("dt", {}, name), el("dd", {}, value));

/** Ask, wait, show. */
function ask() {
  const json = { supernet: supernet(), constraints: budgetOf(form), seed: Number(form.elements.seed.value || 0) };
  return order(`${API}/subnet-requests`, json);
}

/** Order a network (a subnet request or a pruning run), wait, show. */
async function order(url, json) {
  let request = await getJson(url, { method: "POST", json });
  if (!request.subnet) {
    const job = await wait(request.job);
    if (job.state === "cancelled") return say("Cancelled.");
    if (job.state !== "succeeded") throw new Refusal({ detail: job.error?.message ?? `the job was ${job.state}; ask again`, ...(job.error?.details ?? {}) });
    request = await getJson(`${url}/${request.id}`);
  }
  await showSubnet(request.subnet.id);
  return picture();
}

/** Do what a button asks for, and say how it ends. */
async function attempt(action) {
  markFaults(form, []);
  submit.disabled = true;
  outcome.hidden = true;
  say("Asking …");
  try {
    await action();
  } catch (error) {
    if (error.faults) {
      say("Not sent: see the marked limit.");
      markFaults(form, error.faults); // found here, so the focus goes to the field
    } else {
      say("Refused.");
      markFaults(form, error.problem?.faults ?? []);
      showRefusal(error);
    }
  } finally {
    submit.disabled = false;
    byId("working").hidden = byId("cancel").hidden = true;
    byId("progress").value = 0;
  }
}

async function wait(job) {
  running = { job, stop: new AbortController() };
  byId("working").hidden = byId("cancel").hidden = false;
  const bar = byId("progress");
  let now = job;
  for await (now of follow(job, running.stop.signal)) {
    bar.value = now.fraction;
    bar.textContent = `${Math.round(100 * now.fraction)} %`;
    const words = now.state === "queued" ? "Waiting for its turn" : now.stage;
    say(`${words[0].toUpperCase()}${words.slice(1)} …`);
  }
  return now;
}

/** The front of the chosen supernet; where nothing can be shown, the picture says why. */
function picture() {
  return showFront(supernet(), async (costs) => {
    fillBudget(form, costs);
    form.requestSubmit();
  });
}

if (form) {
  wireBudget(form);
  form.elements.supernet.addEventListener("change", () => {
    wireBudget(form);
    picture();
  });
  byId("axis").addEventListener("change", picture);
  byId("cancel").addEventListener("click", async () => {
    byId("cancel").disabled = true;
    try {
      await call(running.job.url + "/cancel", { method: "POST" });
    } catch (error) {
      say(error.message);
    } finally {
      byId("cancel").disabled = false;
    }
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    attempt(ask);
  });
  picture();
}
