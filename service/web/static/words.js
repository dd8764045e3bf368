// Figures as the server writes them: see service/web/words.py.

export const METRICS = {
  latency_ms: "Latency",
  macs: "MACs",
  params: "Parameters",
  size_bytes: "Size of the weights",
  peak_memory_bytes: "Peak memory",
};

const digits = (value) => Number(value).toPrecision(4);

/** A metric's value with its unit. `name` may be one of a cost: "latency_ms@note10". */
export function figure(value, name) {
  if (value === null || value === undefined) return "–";
  if (name.startsWith("latency_ms")) return `${digits(value)} ms`;
  const unit = name.endsWith("_bytes") ? "B" : "";
  const [power, prefix] = [[1e9, "G"], [1e6, "M"], [1e3, "k"]].find(([power]) => value >= power) ?? [1, ""];
  return power === 1 ? `${Math.round(value)} ${unit}`.trimEnd() : `${digits(value / power)} ${prefix}${unit}`;
}

/** Without trailing zeros: a limit is a number that somebody typed. */
export const trimmed = (shown) => shown.replace(/(\.\d*?)0+(?= |$)/, "$1").replace(/\.(?= |$)/, "");

/** A share in [0, 1]. */
export const percent = (share) => (share === null || share === undefined ? "–" : `${(100 * share).toFixed(2)} %`);

/** A cost's name for people: "latency_ms@note10" is "Latency on note10". */
export function costName(name) {
  const [metric, device] = name.split("@");
  return (METRICS[metric] ?? metric) + (device ? ` on ${device}` : "");
}

export const counted = (number, noun) => `${number} ${noun}${number === 1 ? "" : "s"}`;
