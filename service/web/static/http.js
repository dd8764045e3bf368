// Requests to this service and to nothing else. Refusals become errors that carry the problem document.

export const API = "/api/v1";

/** The service refused, or could not be reached; `problem` is its document. */
export class Refusal extends Error {
  constructor(problem) {
    super(problem.detail ?? "the service refused the request");
    this.problem = problem;
  }

  /** The single faults, or the one sentence. */
  get sentences() {
    const faults = this.problem.faults ?? [];
    return faults.length ? faults.map(({ where, message }) => `${where.replace(/^(body|query|path)\./, "")}: ${message}`) : [this.message];
  }
}

/** fetch, with a JSON body where `json` is given; anything but success is a Refusal. */
export async function call(path, { json, headers = {}, ...options } = {}) {
  const body = json === undefined ? options.body : JSON.stringify(json);
  const type = json === undefined ? {} : { "Content-Type": "application/json" };
  let response;
  try {
    response = await fetch(path, { ...options, body, headers: { ...type, ...headers } });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal({ status: 0, detail: "the service does not answer; see whether it still runs, then try again" });
  }
  if (response.ok) return response;
  throw new Refusal(await response.json().catch(() => ({ status: response.status, detail: `the service answered ${response.status}` })));
}

/** The JSON of an endpoint. */
export const getJson = async (path, options) => (await call(path, options)).json();

/** The items of a list, slice by slice, at most `most`. */
export async function getAll(path, parameters, most) {
  const found = [];
  let cursor;
  do {
    const query = new URLSearchParams({ ...parameters, limit: Math.min(200, most - found.length), ...(cursor ? { cursor } : {}) });
    const { items, next_cursor } = await getJson(`${path}?${query}`);
    found.push(...items);
    cursor = next_cursor;
  } while (cursor && found.length < most);
  return found;
}

/** Another page of this service, parsed; nothing in it runs. */
export async function getPage(path) {
  return new DOMParser().parseFromString(await (await call(path)).text(), "text/html");
}

/**
 * The states of a job, each as it comes, to the last. A lost connection is made anew.
 * (EventSource cannot send the header of a key, so the stream is read here.)
 */
export async function* follow(job, signal) {
  for (let lost = 0; ; lost += 1) {
    try {
      const response = await call(job.events_url, { signal, headers: { Accept: "text/event-stream" } });
      for await (const { name, data } of events(response.body)) {
        lost = 0;
        const now = JSON.parse(data);
        yield now;
        if (name === "end") return;
      }
    } catch (error) {
      const mayPass = !(error instanceof Refusal) || [0, 429, 502, 503].includes(error.problem.status);
      if (signal?.aborted || !mayPass || lost >= 20) throw error;
    }
    await new Promise((resolve) => setTimeout(resolve, Math.min(250 * 2 ** lost, 4000)));
  }
}

/** The events of a stream (HTML standard, section 9.2.6). */
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let event = { name: "message", data: [] };
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const lines = (rest + value).split(/\r\n|\n|\r(?!$)/);
      rest = lines.pop();
      for (const line of lines) {
        const [, field, text] = /^([^:]*)(?:: ?(.*))?$/s.exec(line);
        if (line === "") {
          if (event.data.length) yield { name: event.name, data: event.data.join("\n") };
          event = { name: "message", data: [] };
        } else if (field === "event") event.name = text;
        else if (field === "data") event.data.push(text ?? "");
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
