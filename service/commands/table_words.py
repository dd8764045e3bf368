"""Latency tables in words and columns, for people with 80 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from latency_tables import Corrected, Correction, Coverage, LatencyTable, Provenance, TableComparison

WIDTH = 80
UNKNOWN = "unknown"
NAMED = 10
"""Most names that a list shows before it counts the rest."""
_NUMBERS = 23  # 9, 8 and 6 columns for three figures of a row
_LAYER = WIDTH - _NUMBERS
_FACT = 32
"""Longest name of a fact that has its text beside it, not below."""
_FITTED = "fitted to the median of whole subnets' quickest passes; a spread, to single passes"


def provenance_words(provenance: Provenance) -> dict[str, str]:
    """Each fact about the measurement, by what a person calls it."""
    versions = _facts(provenance.runtime_versions)
    figure = _FITTED if "bundle" in provenance.runtime_versions else f"the {provenance.statistic} of its timings"
    rounds = f"{_word(provenance.repeats)}, after {_word(provenance.warmup)} of warm-up"
    facts = {
        "hardware": _facts(provenance.hardware),
        "runtime": _word(provenance.runtime) + (f" ({versions})" if provenance.runtime_versions else ""),
        "precision": _word(provenance.precision),
        "memory format": _word(provenance.memory_format),
        "threads": _word(provenance.threads),
        "batch": _word(provenance.batch),
        "date": _word(provenance.date),
        "rounds": UNKNOWN if provenance.repeats is provenance.warmup is None else rounds,
        "a latency is": figure,
    }
    return facts if provenance.correction is None else facts | {"corrected": _correction_words(provenance.correction)}


def corrected_facts(found: Corrected) -> dict[str, Any]:
    """What came of a correction, for scripts."""
    correction = found.table.provenance.correction
    return {
        "corrected": found.changed,
        "subnets": found.subnets,
        "error_before": found.error_before,
        "error_after": found.error_after,
        "correction": None if correction is None else asdict(correction),
    }


def corrected_lines(found: Corrected) -> list[str]:
    """What came of a correction, for people."""
    correction = found.table.provenance.correction
    lines = [] if correction is None else wrapped("rows: ", _parameter_words(correction))
    lines += wrapped("", f"median error of {found.subnets} whole subnets: {100 * found.error_before:.2f} %")
    lines += wrapped("", f"corrected, each left out of its fit: {100 * found.error_after:.2f} %")
    if correction is None:
        lines += wrapped("", "that is hardly better, if at all, so the table is left as it is")
    return lines


def _correction_words(correction: Correction) -> str:
    return (
        f"{_parameter_words(correction)}; fitted to {correction.subnets} whole subnets, median error "
        f"{100 * correction.error_before:.2f} % before, {100 * correction.error_after:.2f} % after (each left out of "
        f"its fit); uncorrected table {correction.uncorrected[:12]}"
    )


def _parameter_words(correction: Correction) -> str:
    return (
        f"times {correction.scale:.4g}, {correction.per_layer_ms:+.4g} ms a layer, {correction.constant_ms:+.4g} ms a "
        "subnet"
    )


def fact_lines(facts: Mapping[str, str]) -> list[str]:
    """One fact a line, the names in a column of their own."""
    width = max((len(name) for name in facts if len(name) <= _FACT), default=0) + 2
    lines = []
    for name, text in facts.items():
        if len(name) > _FACT:
            lines += wrapped("", name)
        lines += wrapped(f"{name if len(name) <= _FACT else '':<{width}}", text)
    return lines


def row_lines(table: LatencyTable) -> list[str]:
    """The table's rows in columns."""
    lines = _columns("layer", (f"{table.provenance.statistic} ms", "spread", "count"))
    for key, row in table.rows.items():
        lines += _columns(key, (_ms(row.median_ms), _ms(row.spread_ms), _whole(row.count)))
    return lines


def coverage_words(coverage: Coverage) -> str:
    """The resolutions of which all subnets can be estimated."""
    if coverage.complete:
        return f"all {len(coverage.resolutions)}"
    return f"{', '.join(map(str, coverage.covered)) or 'none'} (of {len(coverage.resolutions)})"


def missing_lines(coverage: Coverage, resolutions: Iterable[int]) -> list[str]:
    """Missing rows: all by name where they are few, else the first by resolution, and where the rest is."""
    parts = {resolution: coverage.resolutions[resolution] for resolution in resolutions}
    where: dict[str, list[int]] = {}
    for resolution, part in parts.items():
        for key in part.missing:
            where.setdefault(key, []).append(resolution)
    lines = [f"missing: {len(where) or 'none'}{', by resolution' if len(where) > NAMED else ''}"]
    if len(where) <= NAMED:
        for key, sizes in where.items():
            at = "all resolutions" if len(sizes) == len(parts) > 1 else ", ".join(map(str, sizes))
            lines += wrapped("  ", f"{key} (at {at})")
        return lines
    for resolution, part in parts.items():
        if part.missing:
            others = f" and {len(part.missing) - 1} more" if len(part.missing) > 1 else ""
            text = f"{len(part.missing)} of {part.needed}: {part.missing[0]}{others}"
            lines += wrapped(f"  {resolution:>4}: ", text)
    return [*lines, "  (all of them with --json)"]


def list_lines(title: str, items: Sequence[str]) -> list[str]:
    """A title with the number of items, the first of them, one a line, and where to find the rest."""
    lines = [f"{title}: {len(items) or 'none'}"]
    for item in items[:NAMED]:
        lines += wrapped("  ", item)
    if len(items) > NAMED:
        lines.append(f"  and {len(items) - NAMED} more (all of them with --json)")
    return lines


def comparison_lines(found: TableComparison, shown: int) -> list[str]:
    """What two tables, called A and B, have alone and in common."""
    lines = list_lines("rows only in A", found.only_first) + list_lines("rows only in B", found.only_second)
    ratio = "" if found.median_ratio is None else f"; B takes {found.median_ratio:.3f} times as long (median)"
    lines.append(f"common rows: {len(found.ratios) or 'none'}{ratio}")
    different = [row for row in found.ratios if row.first_ms != row.second_ms]
    if different:
        lines += _columns("those that differ most", ("A ms", "B ms", "B/A"))
    for row in different[:shown]:
        lines += _columns(row.layer, (_ms(row.first_ms), _ms(row.second_ms), _times(row.ratio)))
    lines.append(f"stated differently: {'' if found.differences else 'nothing'}".rstrip())
    pairs = {f"  {name}": f"{_word(a)} | {_word(b)}" for name, (a, b) in found.differences.items()}
    return lines + fact_lines(pairs)


def wrapped(label: str, text: str) -> list[str]:
    """The label and the text, continued under the text's begin."""
    indent = " " * len(label)
    return textwrap.wrap(
        text, WIDTH, initial_indent=label, subsequent_indent=indent, break_on_hyphens=False, break_long_words=True
    ) or [label.rstrip()]


def _columns(first: str, numbers: tuple[str, str, str]) -> list[str]:
    cells = f"{numbers[0]:>9}{numbers[1]:>8}{numbers[2]:>6}"
    if len(first) <= _LAYER:
        return [f"{first:<{_LAYER}}{cells}"]
    return [*wrapped("", first), f"{'':<{_LAYER}}{cells}"]


def _ms(value: float) -> str:
    return f"{value:.4f}" if value < 100 else f"{value:.1f}" if value < 1e5 else f"{value:.0e}"


def _whole(number: int) -> str:
    return str(number) if number < 1e5 else f"{number:.0e}"


def _times(ratio: float) -> str:
    """A ratio in at most 5 characters."""
    if ratio < 0.01 or ratio >= 1e5:
        return f"{ratio:.0e}"
    if 0.1 <= ratio < 9.9995:
        return f"{ratio:.3f}"
    return f"{ratio:.2g}" if ratio < 1 else f"{ratio:.3g}" if ratio < 999 else f"{ratio:.0f}"


def _word(value: str | int | float | None) -> str:
    return UNKNOWN if value is None else str(value)


def _facts(facts: Mapping[str, str | int]) -> str:
    return ", ".join(f"{name} {value}" for name, value in facts.items()) or UNKNOWN
