"""What the pages of stored subnets show: filters as a person types them, rows, a comparison side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from sqlalchemy.orm import Session

from service import exports
from service.api.schemas import SubnetOut
from service.errors import Fault, FaultsError, NotFoundError
from service.storage import devices, subnets, supernets
from service.web import words

PAGE_SIZE = 25
MOST_COMPARED = 4
_NAMED = 200
"""Supernets and devices that a list offers to choose from."""


@dataclass(frozen=True)
class Bound:
    """A filter of the browsing form.

    Attributes:
        name: of the field and of the query parameter.
        label: for people, with the unit.
        column: what is bounded, as `subnets.SORTS` has it.
        factor: the column's unit over the field's.
        lower: whether it is a lower bound.
    """

    name: str
    label: str
    column: str
    factor: float
    lower: bool = False


BOUNDS = (
    Bound("min_accuracy", "Measured accuracy ≥, %", "accuracy", 0.01, lower=True),
    Bound("min_predicted", "Predicted accuracy ≥, %", "predicted_accuracy", 0.01, lower=True),
    Bound("max_latency", "Predicted latency ≤, ms", "latency_ms", 1.0),
    Bound("max_macs", "MACs ≤, millions", "macs", 1e6),
    Bound("max_params", "Parameters ≤, millions", "params", 1e6),
)

SORTS = {
    "-created_at": "newest first",
    "created_at": "oldest first",
    "-accuracy": "measured accuracy, best first",
    "-predicted_accuracy": "predicted accuracy, best first",
    "latency_ms": "predicted latency, least first",
    "macs": "MACs, least first",
    "params": "parameters, least first",
}


@dataclass(frozen=True)
class Query:
    """What the browsing form asks for.

    Attributes:
        text: field -> what was typed, for the form to show again.
        faults: field -> what is wrong with it; the list is not filtered by such a field.
        at_least, at_most: column -> bound.
    """

    text: Mapping[str, str]
    faults: Mapping[str, str] = field(default_factory=dict)
    at_least: Mapping[str, float] = field(default_factory=dict)
    at_most: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def read(cls, text: Mapping[str, str]) -> Query:
        """From the query string; an empty field is one that does not matter."""
        given = {name: value.strip()[:1000] for name, value in text.items() if value.strip()}
        faults: dict[str, str] = {}
        at_least: dict[str, float] = {}
        at_most: dict[str, float] = {}
        for bound in BOUNDS:
            if bound.name not in given:
                continue
            value = _number(given[bound.name])
            if value is None:
                faults[bound.name] = f"{given[bound.name][:40]!r} is not a number above 0; such as 2.5"
            elif bound.column == "latency_ms" and "device" not in given:
                faults[bound.name] = "choose the device too: a latency is that of one device"
            else:
                (at_least if bound.lower else at_most)[bound.column] = value * bound.factor
        if given.get("sort", "-created_at") not in SORTS:
            faults["sort"] = f"no order {given['sort'][:40]!r}; choose one of the list"
        elif given.get("sort") == "latency_ms" and "device" not in given:
            faults["sort"] = "choose the device too: a latency is that of one device"
        return cls(given, faults, at_least, at_most)

    @property
    def sort(self) -> str:
        """The order, as `subnet_page` takes it."""
        return "-created_at" if "sort" in self.faults else self.text.get("sort", "-created_at")

    @property
    def pruned(self) -> bool | None:
        """Whether pruned networks alone are wanted, or none of them; None: both."""
        return {"pruned": True, "cut": False}.get(self.text.get("kind", ""))

    def link(self, **changes: str | None) -> str:
        """The page with other values; from its start, unless a cursor is given."""
        values = {**self.text, "cursor": None, **changes}
        query = urlencode({name: value for name, value in values.items() if value})
        return f"/subnets?{query}" if query else "/subnets"


def browse(session: Session, query: Query) -> dict[str, Any]:
    """Values of the browsing page.

    Raises:
        ConfigError: a cursor of another list.
    """
    named = supernets.page(session, _NAMED, None).items
    supernet = query.text.get("supernet")
    record = None if supernet is None else supernets.get(session, supernet)
    found = subnets.subnet_page(
        session,
        PAGE_SIZE,
        query.text.get("cursor"),
        sort=query.sort,
        device=query.text.get("device"),
        supernet=supernet if record is None else record.id,
        pruned=query.pruned,
        at_least=query.at_least,
        at_most=query.at_most,
    )
    return {
        "query": query,
        "bounds": BOUNDS,
        "sorts": SORTS,
        "supernets": named,
        "supernet_names": {each.id: each.name for each in named},
        "devices": devices.device_page(session, _NAMED, None).items,
        "subnets": [SubnetOut.of(each) for each in found.items],
        "next_cursor": found.next_cursor,
        "filtered": bool(query.text.keys() - {"sort", "cursor"}),
    }


def one(session: Session, subnet_id: str) -> dict[str, Any]:
    """Values of a subnet's own page.

    Raises:
        NotFoundError: no such subnet.
    """
    found = subnets.get_subnet(session, subnet_id)
    if found is None:
        raise NotFoundError(f"no subnet {subnet_id[:80]!r}; the stored ones are listed under Subnets")
    subnet = SubnetOut.of(found)
    supernet = supernets.get(session, subnet.supernet)
    return {
        "subnet": subnet,
        "figures": _figures(subnet),
        "against_dense": _against_dense(subnet) if subnet.pruned else [],
        "architecture": _pruning(subnet) if subnet.pruned else architecture(subnet.config),
        "lacking": {
            format: f"{'model' if subnet.pruned else 'subnet'}.{format}"
            for format in exports.lacking(found, exports.MADE_ON_DEMAND)
        },
        "supernet_name": None if supernet is None else supernet.name,
    }


def compared(session: Session, ids: Sequence[str]) -> dict[str, Any]:
    """Values of the page that sets subnets side by side.

    Raises:
        FaultsError: fewer than two different subnets, or too many.
        NotFoundError: one of them does not exist.
    """
    different = list(dict.fromkeys(ids))
    if not 2 <= len(different) <= MOST_COMPARED:
        message = f"{words.counted(len(different), 'subnet')} chosen; choose 2 to {MOST_COMPARED} in the list"
        raise FaultsError([Fault("subnets", message)])
    chosen = [one(session, subnet_id) for subnet_id in different]
    return {"chosen": chosen, "groups": _groups(chosen)}


def architecture(config: Mapping[str, Any]) -> dict[str, str]:
    """A config's elastic choices in words."""
    depths = config.get("depths", [])
    found = {"Resolution": f"{config['resolution']} px", "Depths": " · ".join(map(str, depths))}
    for key, name in (("kernels", "Kernels"), ("expands", "Expansions")):
        if config.get(key):
            found[name] = words.by_stage(depths, config[key])
    if config.get("widths"):
        found["Widths"] = " ".join(f"{value:g}" for value in config["widths"])
    return found


def _pruning(subnet: SubnetOut) -> dict[str, str]:
    """How a network was pruned, in words."""
    card = subnet.card
    source = card["source"]
    if "architecture" in source:
        what = f"{source['architecture']}, {'given' if source['weights'] else 'random'} weights"
    else:
        what = f"subnet {words.short(source['subnet'])}" if "subnet" in source else "a subnet of the supernet"
    return {
        "Resolution": f"{card['resolution']} px",
        "Pruned": what,
        "Method": {"oto": "Only Train Once", "auto-compress": "AutoCompress"}[card["method"]],
        "Target": card["target"],
        "Data": f"{card['data']['name']}; labels: {card['labels']}",
        "Epochs": str(card["settings"]["epochs"]),
    }


@dataclass(frozen=True)
class Figure:
    """One thing that is known about a subnet, as it was predicted and as it was measured.

    Attributes:
        name: for people.
        predicted, measured: in words; a dash where it is not known.
        predicted_value, measured_value: the numbers.
        note: what else is to be said about the measured one.
        great_is_good: whether the greatest is the best.
    """

    name: str
    predicted: str
    measured: str
    predicted_value: float | None
    measured_value: float | None
    note: str
    great_is_good: bool

    @classmethod
    def of(cls, name: str, metric: str, predicted: float | None, measured: float | None, note: str = "") -> Figure:
        """A figure in its metric's unit; "accuracy" is the metric of shares in [0, 1]."""
        great = metric == "accuracy"
        first, second = (
            words.percent(value) if great else words.figure(value, metric) for value in (predicted, measured)
        )
        return cls(name, first, second, predicted, measured, note, great)


def _figures(subnet: SubnetOut) -> list[Figure]:
    predicted, measured = subnet.predicted, subnet.measured
    error = f"{_spread(measured)}, {measured['correct']} of {measured['total']} images"
    before = measured.get("accuracy_before_calibration")
    found = [
        Figure.of("Accuracy", "accuracy", predicted["accuracy"], measured["accuracy"], error),
        Figure.of("Accuracy before calibration", "accuracy", None, before),
    ]
    for device in dict.fromkeys([*predicted["latency_ms"], *measured["latency_ms"]]):
        pair = predicted["latency_ms"].get(device), measured["latency_ms"].get(device)
        note = "not measured: this host is another device" if pair[1] is None else ""
        found.append(Figure.of(words.metric_name("latency_ms", device), "latency_ms", *pair, note))
    for metric in ("macs", "params", "size_bytes", "peak_memory_bytes"):
        pair = predicted.get(metric), measured.get(metric)
        if pair != (None, None):
            found.append(Figure.of(words.METRICS[metric], metric, *pair))
    return found


def _spread(measured: Mapping[str, Any]) -> str:
    """How well the accuracy is known; cards of earlier versions hold no interval."""
    if "accuracy_interval" not in measured:
        return f"± {words.percent(measured['standard_error'])}"
    low, high = (words.percent(end) for end in measured["accuracy_interval"])
    return f"95 %: {low} to {high}"


def _against_dense(subnet: SubnetOut) -> list[Figure]:
    """A pruned network's figures beside those of the network that it was pruned from."""
    dense, measured = subnet.card["dense"], subnet.measured
    found = [Figure.of("Accuracy", "accuracy", dense["accuracy"], measured["accuracy"], _interval(measured))]
    if "test" in measured:
        before, after = dense.get("test", {}).get("accuracy"), measured["test"]
        found.append(Figure.of("Test accuracy", "accuracy", before, after["accuracy"], _interval(after)))
    counted = ("macs", "params", "size_bytes")
    here = "latency_here_ms"
    return [
        *found,
        *(Figure.of(words.METRICS[metric], metric, dense[metric], measured[metric]) for metric in counted),
        Figure.of("Latency on the job's host", "latency_ms", dense[here], measured[here]),
        *(
            Figure.of(words.metric_name("latency_ms", device), "latency_ms", None, value)
            for device, value in measured["latency_ms"].items()
        ),
    ]


def _interval(measured: Mapping[str, Any]) -> str:
    low, high = (words.percent(end) for end in measured["interval"])
    return f"95 %: {low} to {high}; {measured['correct']} of {measured['total']} images"


@dataclass(frozen=True)
class Row:
    """A row of a comparison.

    Attributes:
        name: what is compared.
        cells: text by subnet.
        best: whether a cell is the best of the row; all False where nothing is better.
        notes: smaller text by subnet.
    """

    name: str
    cells: Sequence[str]
    best: Sequence[bool]
    notes: Sequence[str]

    @property
    def differs(self) -> bool:
        """Whether the subnets differ in it."""
        return len(set(self.cells)) > 1


def _groups(chosen: Sequence[Mapping[str, Any]]) -> dict[str, list[Row]]:
    """Title -> rows. What was predicted and what was measured never share a group."""
    figures = [{figure.name: figure for figure in each["figures"]} for each in chosen]
    names = list(dict.fromkeys(name for by_name in figures for name in by_name))
    groups: dict[str, list[Row]] = {"Predicted": [], "Measured": []}
    for name in names:
        found = [by_name.get(name) for by_name in figures]
        great = any(each is not None and each.great_is_good for each in found)
        for group, which in (("Predicted", "predicted"), ("Measured", "measured")):
            cells = ["–" if each is None else str(getattr(each, which)) for each in found]
            values = [None if each is None else getattr(each, f"{which}_value") for each in found]
            notes = ["" if each is None or which == "predicted" else each.note for each in found]
            if any(value is not None for value in values):
                groups[group].append(Row(name, cells, _best(values, great=great), notes))
    choices = [each["architecture"] for each in chosen]
    kinds = dict.fromkeys(name for choice in choices for name in choice)
    groups["Architecture"] = [_plain(kind, [choice.get(kind, "–") for choice in choices]) for kind in kinds]
    groups["Where it comes from"] = [
        _plain("Budget", ["\n".join(map(words.limit, each["subnet"].budget)) for each in chosen]),
        _plain("Supernet", [each["supernet_name"] or words.short(each["subnet"].supernet) for each in chosen]),
        _plain("Seed of the search", [str(each["subnet"].card["seed"]) for each in chosen]),
        _plain("Made, UTC", [words.when(each["subnet"].created_at) for each in chosen]),
    ]
    return groups


def _plain(name: str, cells: Sequence[str]) -> Row:
    return Row(name, cells, [False] * len(cells), [""] * len(cells))


def _best(values: Sequence[float | None], *, great: bool) -> list[bool]:
    known = [value for value in values if value is not None]
    if len(set(known)) < 2:
        return [False] * len(values)
    best = max(known) if great else min(known)
    return [value == best for value in values]


def _number(text: str) -> float | None:
    """A finite number above 0, with a comma or a point; None for anything else."""
    try:
        value = float(text.replace(",", "."))
    except ValueError:
        return None
    return value if math.isfinite(value) and value > 0 else None
