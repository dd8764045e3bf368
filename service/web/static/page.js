// Loaded by every page: files that the service makes when somebody asks for them.

import { call, follow } from "./http.js";

document.addEventListener("click", (event) => {
  const link = event.target.closest?.("a[data-make]");
  if (!link) return;
  event.preventDefault();
  make(link, link.parentElement.querySelector("[role=status]"));
});

/** Have a file made, say how far that is, then follow the link as it is. */
async function make(link, status) {
  if (link.getAttribute("aria-disabled")) return;
  link.setAttribute("aria-disabled", "true");
  status.textContent = "is being made \u2026";
  try {
    // a GET, which alone has a file made, but of one byte where somebody else had it made meanwhile
    const answer = await call(link.getAttribute("href"), { headers: { Prefer: "wait=0", Range: "bytes=0-0" } });
    if (answer.status === 202) {
      let job;
      for await (job of follow({ events_url: `${answer.headers.get("Location")}/events` })) {
        status.textContent = `is being made: ${job.stage}`;
      }
      if (job.state !== "succeeded") throw new Error(job.error?.message ?? `the job was ${job.state}`);
    }
    link.removeAttribute("data-make");
    status.textContent = "is made";
    link.click();
  } catch (error) {
    status.textContent = `cannot be made: ${error.message}`;
  } finally {
    link.removeAttribute("aria-disabled");
  }
}
