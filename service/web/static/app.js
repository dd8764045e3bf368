// The form: posts a budget, follows the job's events, shows the subnet or the problem.

const api = "/api/v1";
const form = document.getElementById("budget");
const message = document.getElementById("message");
const progress = document.getElementById("progress");
const cancel = document.getElementById("cancel");

function say(text, isProblem = false) {
  message.textContent = text;
  message.classList.toggle("problem", isProblem);
}

function problemText(problem) {
  const faults = (problem.faults ?? []).map((fault) => `${fault.where}: ${fault.message}`);
  return faults.length ? faults.join("\n") : problem.detail ?? "the service refused the request";
}

function constraints() {
  return [...form.querySelectorAll("input[data-metric]")]
    .filter((input) => input.value !== "")
    .map(({ value, dataset }) => ({
      metric: dataset.metric,
      ...(dataset.device ? { device: dataset.device } : {}),
      max: Number(value) * Number(dataset.factor ?? 1),
    }));
}

function follow(job) {
  return new Promise((resolve, reject) => {
    const events = new EventSource(job.events_url);
    const show = (event) => {
      const now = JSON.parse(event.data);
      progress.value = now.fraction;
      say(`${now.stage} …`);
      return now;
    };
    events.addEventListener("progress", show);
    events.addEventListener("end", (event) => {
      events.close();
      resolve(show(event));
    });
    events.addEventListener("error", () => {
      if (events.readyState === EventSource.CLOSED) reject(new Error("the service stopped sending events; reload the page"));
    });
  });
}

async function answer(response) {
  const body = await response.json();
  if (!response.ok) throw new Error(problemText(body));
  return body;
}

async function showSubnet(subnet) {
  const fragment = await fetch("/fragments/subnets");
  document.getElementById("subnets").innerHTML = await fragment.text(); // escaped by the server's templates
  document.getElementById(`subnet-${subnet.id}`)?.classList.add("new");
  const { predicted, measured } = subnet;
  const percent = (value) => `${(100 * value).toFixed(2)} %`;
  say(`Done: measured accuracy ${percent(measured.accuracy)} (predicted ${percent(predicted.accuracy)}), ` +
    `${(measured.macs / 1e6).toPrecision(3)} M multiply-adds.`);
}

async function ask() {
  const body = JSON.stringify({ supernet: form.elements.supernet.value, constraints: constraints() });
  const headers = { "Content-Type": "application/json" };
  let request = await answer(await fetch(`${api}/subnet-requests`, { method: "POST", headers, body }));
  if (!request.subnet) {
    cancel.onclick = () => fetch(`${request.job.url}/cancel`, { method: "POST" });
    cancel.hidden = false;
    progress.hidden = false;
    const job = await follow(request.job);
    if (job.state !== "succeeded") throw new Error(job.error?.message ?? `the job was ${job.state}`);
    request = await answer(await fetch(`${api}/subnet-requests/${request.id}`));
  }
  await showSubnet(request.subnet);
}

form?.addEventListener("submit", async (event) => {
  event.preventDefault();
  const button = form.querySelector("button");
  button.disabled = true;
  say("asking …");
  try {
    await ask();
  } catch (error) {
    say(error.message, true);
  } finally {
    button.disabled = false;
    cancel.hidden = true;
    progress.hidden = true;
  }
});
