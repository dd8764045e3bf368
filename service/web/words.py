"""Figures, limits and times as the page writes them; the same in `static/words.js`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

METRICS = {
    "latency_ms": "Latency",
    "macs": "MACs",
    "params": "Parameters",
    "size_bytes": "Size of the weights",
    "peak_memory_bytes": "Peak memory",
}
"""Metric -> its name for people."""

_NO_BREAK = "\N{NO-BREAK SPACE}"
_POWERS = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


def percent(share: float | None) -> str:
    """0.9931 as "99.31 %"; a dash for None."""
    return "–" if share is None else f"{100 * share:.2f} %"


def figure(value: float | None, metric: str) -> str:
    """A metric's value with its unit, four significant digits: "1.874 ms", "3.068 M", "848.4 kB"; a dash for None."""
    if value is None:
        return "–"
    if metric.startswith("latency_ms"):
        return f"{_digits(value)} ms"
    unit = "B" if metric.endswith("_bytes") else ""
    for power, prefix in _POWERS:
        if value >= power:
            return f"{_digits(value / power)} {prefix}{unit}"
    return f"{value:.0f} {unit}".rstrip()


def metric_name(metric: str, device: str | None = None) -> str:
    """The name for people: "latency_ms" on "note10" is "Latency on note10"."""
    name = METRICS.get(metric, metric)
    return name if device is None else f"{name} on {device}"


def limit(values: Mapping[str, Any], of: str = "the largest") -> str:
    """A limit as `Limit.to_dict` gives it: "Latency on note10 ≤ 20 ms", not broken after the "≤"."""
    name = metric_name(values["metric"], values.get("device"))
    value = values["max"]
    shown = f"{100 * value:.4g} %" if values.get("relative") else _trimmed(figure(value, values["metric"]))
    share = values.get("quantile")
    most = f"≤ {shown}".replace(" ", _NO_BREAK)
    of_what = f" of {of}" if values.get("relative") else ""
    return f"{name} {most}{of_what}" + ("" if share is None else f" in {100 * share:g} % of runs")


def short(digest: str) -> str:
    """The beginning of a digest: enough to tell it from others by eye."""
    return digest[:10]


def when(time: str) -> str:
    """A stored time to the minute: "2026-11-25 14:05"; all are in UTC."""
    return time[:16].replace("T", " ")


def by_stage(depths: Sequence[int], values: Sequence[float]) -> str:
    """A value a block, those of a stage together: "3 5 · 5 5 7"; the blocks that the depth leaves out are not there."""
    most, rest = divmod(len(values), len(depths)) if depths else (0, 1)
    if rest or most < max(depths, default=0):
        return " ".join(f"{value:g}" for value in values)
    stages = (values[most * stage : most * stage + depth] for stage, depth in enumerate(depths))
    return " · ".join(" ".join(f"{value:g}" for value in stage) for stage in stages)


def counted(number: int, noun: str) -> str:
    """1, "row" as "1 row"; 2 as "2 rows"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _trimmed(shown: str) -> str:
    """Without trailing zeros: a limit is a number that somebody typed."""
    number, _, unit = shown.partition(" ")
    return f"{number.rstrip('0').rstrip('.') if '.' in number else number} {unit}".rstrip()


def _digits(value: float) -> str:
    """Four significant digits, without an exponent below 10,000; trailing zeros stay, so that columns align."""
    text = f"{value:#.4g}"
    return text.rstrip(".") if "e" not in text else f"{value:.4g}"
