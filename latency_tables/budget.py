"""Budgets: upper limits on named costs, from text (`macs<=3M, latency_ms@note10<=20`) or from the service's JSON.

A limit may be a share of the largest subnet's cost (`macs<=60%`), and one on a latency may be about a quantile of the
runs (`latency_ms@note10<=20 p95`: 95 % of them take 20 ms or less).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from supernet.errors import ConfigError

METRICS = ("latency_ms", "macs", "params", "peak_memory_bytes", "size_bytes")
NAME_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,63}$"

_COUNT_UNITS = {"": Decimal(1), "K": Decimal(10**3), "M": Decimal(10**6), "G": Decimal(10**9)}
_BYTE_UNITS = {
    "": Decimal(1),
    "B": Decimal(1),
    "kB": Decimal(10**3),
    "MB": Decimal(10**6),
    "GB": Decimal(10**9),
    "KiB": Decimal(2**10),
    "MiB": Decimal(2**20),
    "GiB": Decimal(2**30),
}
_TIME_UNITS = {"": Decimal(1), "ms": Decimal(1), "us": Decimal("0.001"), "s": Decimal(1000)}
_UNITS = {
    "latency_ms": _TIME_UNITS,
    "macs": _COUNT_UNITS,
    "params": _COUNT_UNITS,
    "peak_memory_bytes": _BYTE_UNITS,
    "size_bytes": _BYTE_UNITS,
}

_PIECE = re.compile(
    r"(?P<metric>[^\s@<>=]*)\s*(?:@\s*(?P<device>[^\s<>=]*))?\s*(?P<sign>[<>=]+)\s*(?P<value>.*?)"
    r"(?:\s+[pP](?P<percentile>\d{1,2}(?:\.\d{1,3})?))?"
)
_NUMBER = re.compile(
    r"(?P<number>[+-]?(?:\d{1,40}\.?\d{0,40}|\.\d{1,40})(?:[eE][+-]?\d{1,3})?)\s*(?P<unit>%|[A-Za-z]*)"
)
_PIECE_LENGTH = 200  # far above any real limit; keeps the pattern's backtracking short
MAX_LIMITS = 32
_FIELDS = ("metric", "device", "max", "relative", "quantile")
_EXAMPLE = "write it as macs<=300M, latency_ms@note10<=20"


def device_fault(device: object) -> str | None:
    """What is wrong with a device's name, or None."""
    if isinstance(device, str) and re.fullmatch(NAME_PATTERN[1:-1], device):
        return None
    return (
        f"device name {_shown(device)}; allowed: 1 to 64 lower-case letters, digits, '.', '_' or '-', "
        "a letter or digit first"
    )


def latency_name(device: str, quantile: float | None = None) -> str:
    """How the latency on a device is named among costs: ``latency_ms@note10``, ``latency_ms@note10:p95``."""
    return f"latency_ms@{device}" + ("" if quantile is None else f":{_percentile(quantile)}")


@dataclass(frozen=True)
class Limit:
    """One upper limit.

    Attributes:
        metric: one of `METRICS`.
        device: where the latency is measured; None for the other metrics.
        max: the greatest allowed value, in the metric's unit (ms, multiply-adds, numbers, bytes); finite, above 0.
        relative: whether `max` is a share of the largest subnet's cost instead (0.6 is 60 %).
        quantile: of the latency of many runs, the share that must be within the limit, 0.5 to 0.999; None: the
            typical run, as the table's rows have it.

    Raises:
        ConfigError: any of these is not so.
    """

    metric: str
    device: str | None
    max: float
    relative: bool = False
    quantile: float | None = None

    def __post_init__(self) -> None:
        faults = _limit_faults(self.metric, self.device, self.max, self.relative, self.quantile)
        if faults:
            raise ConfigError(f"limit: {'; '.join(faults)}; {_EXAMPLE}")
        object.__setattr__(self, "max", float(self.max))

    @classmethod
    def on(cls, name: str, value: float) -> Limit:
        """A limit on a metric as costs are named, without a percentile: ``latency_ms@note10``."""
        metric, _, device = name.partition("@")
        return cls(metric, device or None, value)

    @property
    def name(self) -> str:
        """The metric as costs are named: ``macs``, ``latency_ms@note10``, ``latency_ms@note10:p95``."""
        return self.metric if self.device is None else latency_name(self.device, self.quantile)

    def __str__(self) -> str:
        name = self.metric if self.device is None else latency_name(self.device)
        value = f"{_plain(float(Decimal(repr(self.max)) * 100))}%" if self.relative else str(_plain(self.max))
        return f"{name}<={value}" + ("" if self.quantile is None else f" {_percentile(self.quantile)}")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; `relative` and `quantile` only where they say something."""
        found: dict[str, Any] = {"metric": self.metric, "device": self.device, "max": _plain(self.max)}
        if self.relative:
            found["relative"] = True
        if self.quantile is not None:
            found["quantile"] = self.quantile
        return found


@dataclass(frozen=True)
class Budget:
    """Limits that must all hold. Order does not matter: they are kept sorted by name.

    Raises:
        ConfigError: there are no limits, more than `MAX_LIMITS`, or two for the same metric and device.
    """

    limits: tuple[Limit, ...]

    def __post_init__(self) -> None:
        if not self.limits:
            raise ConfigError(f"the budget is empty; {_EXAMPLE}")
        if len(self.limits) > MAX_LIMITS:
            raise ConfigError(f"the budget has {len(self.limits)} limits; allowed: 1 to {MAX_LIMITS}")
        names = [limit.name for limit in self.limits]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ConfigError(f"budget: more than one limit for {', '.join(twice)}; allowed: one each; keep the lowest")
        object.__setattr__(self, "limits", tuple(sorted(self.limits, key=lambda limit: limit.name)))

    @property
    def names(self) -> tuple[str, ...]:
        """The limited metrics, as costs are named."""
        return tuple(limit.name for limit in self.limits)

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Read limits that are separated by commas.

        Units: K, M, G (powers of 1000) for macs and params; B, kB, MB, GB, KiB, MiB, GiB for size_bytes and
        peak_memory_bytes; ms (also when nothing is written), us and s for latency_ms; % of the largest subnet's cost
        for all. A latency's limit may end in a percentile, such as p95.

        Raises:
            ConfigError: every piece that is wrong, why, and what is allowed.
        """
        if not text.strip():
            raise ConfigError(f"the budget is empty; {_EXAMPLE}")
        limits: list[Limit] = []
        faults: list[str] = []
        pieces = [piece.strip() for piece in text.split(",", MAX_LIMITS)]
        if len(pieces) > MAX_LIMITS:
            raise ConfigError(f"the budget has more than {MAX_LIMITS} limits; allowed: 1 to {MAX_LIMITS}; {_EXAMPLE}")
        for piece in pieces:
            limit, wrong = _parse_piece(piece)
            faults += [f"{_shown(piece)}: {fault}" for fault in wrong]
            if limit is not None:
                limits.append(limit)
        if faults:
            raise ConfigError(f"budget: {'; '.join(faults)}; {_EXAMPLE}")
        return cls(tuple(limits))

    def __str__(self) -> str:
        """Canonical text; `parse` gives an equal budget back."""
        return ", ".join(map(str, self.limits))

    @classmethod
    def from_dict(cls, data: Sequence[Mapping[str, Any]]) -> Budget:
        """The inverse of `to_dict`: a list of objects {metric, device, max, relative, quantile}.

        Only metric and max must be there.

        Raises:
            ConfigError: every entry that is wrong, why, and what is allowed.
        """
        if not isinstance(data, list | tuple):
            raise ConfigError(f"a budget is a list of limits {{{', '.join(_FIELDS)}}}, got {type(data).__name__}")
        if len(data) > MAX_LIMITS:
            raise ConfigError(f"the budget has {len(data)} limits; allowed: 1 to {MAX_LIMITS}")
        limits: list[Limit] = []
        faults: list[str] = []
        for number, entry in enumerate(data):
            wrong = _entry_faults(entry)
            if wrong:
                faults += [f"limit {number}: {fault}" for fault in wrong]
            else:
                limits.append(Limit(**entry) if "device" in entry else Limit(device=None, **entry))
        if faults:
            raise ConfigError(f"budget: {'; '.join(faults)}")
        return cls(tuple(limits))

    def to_dict(self) -> list[dict[str, Any]]:
        """Plain JSON types: one object a limit."""
        return [limit.to_dict() for limit in self.limits]

    def absolute(self, of_largest: Callable[[str], float]) -> Budget:
        """The budget with every share of the largest subnet's cost multiplied out.

        Args:
            of_largest: a metric as costs are named -> that cost of the largest subnet.

        Raises:
            ConfigError: two limits for the same metric and device come out.
        """
        return Budget(
            tuple(
                replace(limit, max=limit.max * of_largest(limit.name), relative=False) if limit.relative else limit
                for limit in self.limits
            )
        )

    def violations(self, costs: Mapping[str, float]) -> dict[str, float]:
        """The limits that `costs` exceed.

        Args:
            costs: value by metric name; others than the limited ones are ignored.

        Returns:
            Metric name -> relative excess, (cost - max) / max, for the exceeded limits only.

        Raises:
            ConfigError: a limited metric has no cost, or NaN: what was not measured never passes; a limit is relative.
        """
        relative = [str(limit) for limit in self.limits if limit.relative]
        if relative:
            raise ConfigError(f"{', '.join(relative)}: shares of the largest subnet's cost; make the budget absolute")
        unknown = [name for name in self.names if math.isnan(costs.get(name, math.nan))]
        if unknown:
            raise ConfigError(
                f"no cost is known for {', '.join(unknown)}; known: {', '.join(sorted(costs)) or 'none'}; "
                "load a latency table for the device, or drop the limit"
            )
        return {limit.name: costs[limit.name] / limit.max - 1 for limit in self.limits if costs[limit.name] > limit.max}


def _parse_piece(piece: str) -> tuple[Limit | None, list[str]]:
    match = _PIECE.fullmatch(piece) if len(piece) <= _PIECE_LENGTH else None
    if match is None:
        return None, ["not a limit" if piece else "nothing between two commas"]
    metric, device, sign = match["metric"], match["device"], match["sign"]
    percentile = match["percentile"]
    quantile = None if percentile is None else float(Decimal(percentile) / 100)
    faults = _name_faults(metric, device) + _quantile_faults(metric, quantile)
    if sign != "<=":
        hint = "use <=, limits are inclusive" if sign == "<" else "only <= is allowed"
        faults.append(f"sign {sign!r}; {hint}")
    value, relative = math.nan, False
    if metric in METRICS:
        parsed = _parse_value(metric, match["value"])
        if isinstance(parsed, str):
            faults.append(parsed)
        else:
            value, relative = parsed
            faults += _max_faults(value)
    return (None, faults) if faults else (Limit(metric, device, value, relative, quantile), [])


def _parse_value(metric: str, text: str) -> tuple[float, bool] | str:
    """The value in the metric's unit and whether it is a share, or what is wrong with it."""
    match = _NUMBER.fullmatch(text)
    if match is None:
        return f"value {_shown(text)}; allowed: a finite number above 0 and a unit ({_allowed_units(metric)})"
    if match["unit"] == "%":
        return float(Decimal(match["number"]) / 100), True
    factor = _UNITS[metric].get(match["unit"])
    if factor is None:
        return f"unit {match['unit']!r}; allowed for {metric}: {_allowed_units(metric)}"
    return float(Decimal(match["number"]) * factor), False  # decimal, so that 2.3M is exactly 2300000


def _allowed_units(metric: str) -> str:
    return ", ".join([*(unit or "none" for unit in _UNITS[metric]), "%"])


def _entry_faults(entry: object) -> list[str]:
    if not isinstance(entry, Mapping):
        return [f"expected an object {{{', '.join(_FIELDS)}}}, got {type(entry).__name__}"]
    faults = [f"unknown field {_shown(name)}; allowed: {', '.join(_FIELDS)}" for name in entry if name not in _FIELDS]
    faults += [f"field {name!r} is missing" for name in ("metric", "max") if name not in entry]
    return faults or _limit_faults(
        entry["metric"], entry.get("device"), entry["max"], entry.get("relative", False), entry.get("quantile")
    )


def _limit_faults(metric: object, device: object, value: object, relative: object, quantile: object) -> list[str]:
    faults = _name_faults(metric, device) + _max_faults(value) + _quantile_faults(metric, quantile)
    if not isinstance(relative, bool):
        faults.append(f"relative is {_shown(relative)}; allowed: true, false")
    return faults


def _quantile_faults(metric: object, quantile: object) -> list[str]:
    if quantile is None:
        return []
    if metric != "latency_ms":
        return [f"{metric} is the same in every run; leave the percentile out"]
    if isinstance(quantile, int | float) and not isinstance(quantile, bool) and 0.5 <= quantile <= 0.999:
        return []
    shown = _percentile(quantile) if isinstance(quantile, float) else _shown(quantile)
    return [f"percentile {shown}; allowed: p50 to p99.9 (a quantile of 0.5 to 0.999)"]


def _name_faults(metric: object, device: object) -> list[str]:
    if metric not in METRICS:
        return [f"unknown metric {_shown(metric)}; allowed: {', '.join(METRICS)}"]
    if metric != "latency_ms":
        return [] if device is None else [f"{metric} is the same on every device; leave @{device} out"]
    if device is None:
        return ["latency_ms needs a device; write latency_ms@<device>"]
    fault = device_fault(device)
    return [fault] if fault else []


def _max_faults(value: object) -> list[str]:
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if math.isfinite(number) and number > 0:
            return []
    return [f"max is {_shown(value)}; allowed: a finite number above 0"]


def _percentile(quantile: float) -> str:
    return f"p{_plain(float(Decimal(repr(float(quantile))) * 100))}"


def _plain(value: float) -> float | int:
    """An integer where it is one of moderate length, so that 3000000.0 reads 3000000."""
    return int(value) if value.is_integer() and value < 1e15 else value


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
