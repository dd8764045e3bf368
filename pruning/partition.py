"""From atoms to sets of units: what goes together, what stays and why, and what any choice of units costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pruning import rules_norms, rules_pointwise, rules_products  # noqa: F401 they register their rules
from pruning.costs import CostTable
from pruning.flow import Flow
from pruning.provenance import Component, Ids
from pruning.rules_moves import AXES, RESHAPES, SAME
from pruning.trace import Op, Trace, Value
from pruning.units import Entries, UnitSet

_SHIFTS = (np.uint64(0), np.uint64(32))
_KEPT = -1  # the unit of a position that no unit owns
_SINGLE = "a single unit; one always stays"
_UNREAD = "nothing reads it"
_MOVES = frozenset((*SAME, *RESHAPES, *AXES))


@dataclass(frozen=True, slots=True, eq=False)
class Partition:
    """The units of a model.

    Attributes:
        sets: units that are tied across the same layers, in the order of the model's parameters.
        frozen: by name of a parameter whose rows stay, all or some, the reason.
        unit_of: by atom, the unit (numbered through all sets) or -1: it stays.
        flow: the atoms of all tensors.
        trace: the recorded run.
        costs: what any choice of units costs.
    """

    sets: tuple[UnitSet, ...]
    frozen: dict[str, str]
    unit_of: Ids
    flow: Flow
    trace: Trace
    costs: CostTable

    def kept(self, ids: Ids, keep: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Which of these atoms stay.

        Args:
            ids: atoms or `FIXED`.
            keep: by unit, numbered through all sets, whether it stays.
        """
        units = np.where(ids >= 0, self.unit_of[ids], _KEPT)
        return np.where(units >= 0, keep[units], True) if len(keep) else np.ones(ids.shape, bool)


def partition(trace: Trace, keep: Sequence[str] = ()) -> Partition:
    """Find the units of a recorded run.

    Args:
        trace: of a model in evaluation mode.
        keep: names of parameters whose rows stay.
    """
    flow = Flow()
    flow.run(trace)
    classes = settle(flow, trace)
    ledger = flow.ledger
    needed = ledger.needed()
    rows = np.zeros(ledger.size + 1, bool)
    for ids in ledger.rows:
        rows[ids] = True
    produced = needed | rows[:-1]
    places = _Places(flow)
    is_parameter = places.parameter[places.leaf]
    marks = produced[places.atom] & np.isin(
        places.leaf, [i for i, name in enumerate(places.names) if name in set(keep)]
    )
    reasons = _Reasons(classes, [*ledger.frozen, (places.atom[marks], "kept as asked")])
    number = int(classes.max()) + 1 if len(classes) else 0
    variable = needed[places.atom] & is_parameter
    valid = np.zeros(number, bool)
    valid[classes[places.atom[variable]]] = True
    valid[reasons.of >= 0] = False
    chosen = valid[classes[places.atom]]
    found = _sets(places, chosen, classes, variable, rows)
    unit_of_class = np.full(number, _KEPT, np.int64)
    for unit, members in enumerate(found.classes):
        unit_of_class[members] = unit
    unit_of = unit_of_class[classes] if number else np.zeros(0, np.int64)
    frozen = _frozen(places, produced, is_parameter, classes, unit_of, reasons, found.single)
    return Partition(found.sets, frozen, unit_of, flow, trace, CostTable.build(flow, trace, unit_of, found.sets))


class _Places:
    """All positions of all axes of parameters and buffers, as arrays of one entry a position."""

    def __init__(self, flow: Flow) -> None:
        leaves = flow.ledger.leaves
        self.names = list(leaves)
        self.shapes = [leaf.shape for leaf in leaves.values()]
        self.parameter = np.array([leaf.kind == "parameter" for leaf in leaves.values()], bool)
        sizes = [(i, axis, n) for i, shape in enumerate(self.shapes) for axis, n in enumerate(shape)]
        lengths = np.array([n for _, _, n in sizes], np.int64)
        self.leaf = np.repeat(np.array([i for i, _, _ in sizes], np.int64), lengths)
        self.axis = np.repeat(np.array([axis for _, axis, _ in sizes], np.int64), lengths)
        total = int(lengths.sum())
        starts = np.cumsum(lengths) - lengths
        self.position = np.arange(total) - np.repeat(starts, lengths)
        first = np.array([leaf.first[axis] for leaf in leaves.values() for axis in range(len(leaf.shape))], np.int64)
        self.atom = self.position + np.repeat(first, lengths)


class _Reasons:
    """By class, the number of the first reason for which it stays, -1: none."""

    def __init__(self, classes: Ids, frozen: Sequence[tuple[Ids, str]]) -> None:
        self.texts = [text for _, text in frozen]
        self.of = np.full(int(classes.max()) + 1 if len(classes) else 0, -1, np.int64)
        for place in range(len(frozen) - 1, -1, -1):
            ids = frozen[place][0]
            self.of[classes[ids[ids >= 0]]] = place


@dataclass(frozen=True, slots=True)
class _Found:
    sets: tuple[UnitSet, ...]
    classes: list[Any]
    single: NDArray[np.int64]


def _sets(
    places: _Places, chosen: NDArray[np.bool_], classes: Ids, variable: NDArray[np.bool_], rows: NDArray[np.bool_]
) -> _Found:
    """Classes that touch the same axes equally often, and in the same roles, are the units of one set."""
    where = np.flatnonzero(chosen)
    if not len(where):
        return _Found((), [], np.zeros(0, np.int64))
    kind = (places.leaf[where] * 8 + places.axis[where]) * 2 + variable[where]
    own = classes[places.atom[where]]
    present = np.zeros(int(classes.max()) + 1, bool)
    present[own] = True
    members = np.flatnonzero(present)
    unit = (np.cumsum(present) - 1)[own]
    # the same axes equally often: sums of well-mixed numbers, exact in float64, one above the other
    mixed = _scrambled(kind)
    low, high = (np.bincount(unit, ((mixed >> shift) & np.uint64(0xFFFFFF)).astype(np.float64)) for shift in _SHIFTS)
    _, group = np.unique(low + 1j * high, return_inverse=True)
    size = np.bincount(group)
    # a unit's first variable; positions are in the order of their atoms, so that the last one written is the first
    first = np.zeros(len(members), np.int64)
    own_variables = np.flatnonzero(variable[where])[::-1]
    first[unit[own_variables]] = places.atom[where[own_variables]]
    by_first = np.argsort(first)
    rank = np.empty(len(members), np.int64)
    rank[by_first] = np.arange(len(members))
    lead = np.zeros(len(size), np.int64)
    lead[group[by_first[::-1]]] = first[by_first[::-1]]
    place_of_group = np.empty(len(size), np.int64)
    place_of_group[np.argsort(lead)] = np.arange(len(size))
    segment = place_of_group[group[unit]] * (2 * 8 * len(places.names)) + kind
    order = np.argsort(segment * len(members) + rank[unit], kind="stable")
    segment = segment[order]
    cuts = np.flatnonzero(np.r_[True, segment[1:] != segment[:-1]])
    ends = np.r_[cuts[1:], len(order)]
    by_set: dict[int, list[tuple[int, Ids]]] = {}
    for start, end in zip(cuts, ends, strict=True):
        place, kind_number = divmod(int(segment[start]), 2 * 8 * len(places.names))
        by_set.setdefault(place, []).append((kind_number, where[order[start:end]]))
    sets: list[UnitSet] = []
    units: list[Any] = []
    used: dict[str, int] = {}
    sorted_groups = np.argsort(lead)
    by_group = by_first[np.argsort(group[by_first], kind="stable")]
    begin = np.cumsum(size) - size
    for place, group_number in enumerate(sorted_groups):
        count = int(size[group_number])
        if count == 1:
            continue
        entries: tuple[list[Entries], list[Entries]] = ([], [])
        producers: list[str] = []
        for kind_number, positions in by_set[place]:
            leaf, axis = divmod(kind_number // 2, 8)
            index = torch.from_numpy(places.position[positions].reshape(count, -1).copy())
            is_variable = bool(kind_number % 2)
            entries[0 if is_variable else 1].append(Entries(places.names[leaf], axis, index))
            if is_variable and rows[places.atom[positions[0]]]:
                producers.append(places.names[leaf])
        name = _set_name(producers or [e.name for e in entries[0]])
        used[name] = used.get(name, 0) + 1
        if used[name] > 1:
            name = f"{name} #{used[name]}"
        sets.append(UnitSet(name, count, tuple(entries[0]), tuple(entries[1])))
        units += list(members[by_group[begin[group_number] : begin[group_number] + count]])
    return _Found(tuple(sets), units, members[size[group] == 1])


def _scrambled(numbers: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Well-mixed 64-bit numbers, so that sums of different ones differ (splitmix64's finaliser)."""
    x = (numbers.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _set_name(producers: Sequence[str]) -> str:
    modules = list(dict.fromkeys(name.rpartition(".")[0] or name for name in producers))
    return modules[0] if len(modules) == 1 else f"{modules[0]} + {len(modules) - 1} more"


def _frozen(
    places: _Places,
    produced: NDArray[np.bool_],
    is_parameter: NDArray[np.bool_],
    classes: Ids,
    unit_of: Ids,
    reasons: _Reasons,
    single: NDArray[np.int64],
) -> dict[str, str]:
    """Why rows of a parameter stay: the reason of the first of them."""
    rows = produced[places.atom] & is_parameter
    stay = rows & (unit_of[places.atom] < 0)
    singles = set(single.tolist())
    total = np.bincount(places.leaf[rows], minlength=len(places.names))
    kept = np.bincount(places.leaf[stay], minlength=len(places.names))
    first = np.full(len(places.names), -1, np.int64)
    where = np.flatnonzero(stay)
    first[places.leaf[where[::-1]]] = where[::-1]
    found = {}
    for leaf in np.flatnonzero(kept):
        owner = int(classes[places.atom[first[leaf]]])
        text = reasons.texts[reasons.of[owner]] if reasons.of[owner] >= 0 else _SINGLE if owner in singles else _UNREAD
        part = "" if kept[leaf] == total[leaf] else f"{kept[leaf]} of {total[leaf]} channels: "
        found[places.names[leaf]] = part + text
    return found | _untouched(places, classes, unit_of, reasons, found)


def _untouched(
    places: _Places, classes: Ids, unit_of: Ids, reasons: _Reasons, found: Mapping[str, str]
) -> dict[str, str]:
    """Why modules of which no parameter is known to produce channels stay: a recurrent layer, a parametrised weight."""
    owned = np.bincount(places.leaf[unit_of[places.atom] >= 0], minlength=len(places.names)) > 0
    told = {name.rpartition(".")[0] for name in found}
    told |= {name.rpartition(".")[0] for name, unit in zip(places.names, owned, strict=True) if unit}
    why = reasons.of[classes[places.atom]]
    where = np.flatnonzero(why >= 0)[::-1]
    first = np.full(len(places.names), -1, np.int64)
    first[places.leaf[where]] = why[where]
    more = {}
    for leaf in np.flatnonzero(places.parameter & (first >= 0)):
        name = places.names[leaf]
        module = name.rpartition(".")[0]
        if module not in told:
            told.add(module)
            more[name] = reasons.texts[first[leaf]]
    return more


def settle(flow: Flow, trace: Trace) -> Ids:
    """Classes of atoms, after tensors whose axes cannot shrink apart have been tied further.

    Where channels are spread over two axes (groups and channels in a group) and any of them may go, the tensor would
    not be a box any more. That is fine while elements are only moved, as in a channel shuffle, since the movement can
    be replaced by one of whole channels; otherwise the shorter axis is tied.
    """
    classes = flow.ledger.classes()
    joint = [(v, c) for v, components in flow.components.items() for c in components if len(c.axes) > 1]
    stuck = _stuck(classes, joint)
    if not stuck:
        return classes
    free = _movable(trace, {id(value) for value, _ in stuck}, flow)
    while stuck:
        for value, component in stuck:
            if id(value) not in free:
                longest = max(component.axes, key=lambda axis: component.ids.shape[axis])
                others = [axis for axis in component.axes if axis != longest]
                flow.collapse(component, others, "its tensor could not be cut to a box")
        classes = flow.ledger.classes()
        stuck = [(v, c) for v, c in _stuck(classes, joint) if id(v) not in free]
    return classes


def _stuck(classes: Ids, joint: Sequence[tuple[Value, Component]]) -> list[tuple[Value, Component]]:
    found = []
    for value, component in joint:
        own = np.where(component.ids >= 0, classes[component.ids], -1)
        varying = [axis for axis in component.axes if (own != own.take([0], axis)).any()]
        if len(varying) > 1:
            found.append((value, component))
    return found


def _movable(trace: Trace, stuck: set[int], flow: Flow) -> set[int]:
    """The stuck tensors that lie between two tensors of one shape, with nothing but movements between them."""
    regions: dict[int, int] = {}

    def find(item: int) -> int:
        while regions.setdefault(item, item) != item:
            item = regions[item]
        return item

    bad: set[int] = set()
    borders: dict[int, set[tuple[int, ...]]] = {}
    touching: list[tuple[Op, list[Value], list[Value]]] = []
    for op in trace.ops:
        inner = [v for v in (*op.tensors, *(o for o in op.outs if o is not None)) if id(v) in stuck]
        if inner:
            outer = [v for v in (*op.tensors, *(o for o in op.outs if o is not None)) if id(v) not in stuck]
            touching.append((op, inner, outer))
            for value in inner[1:]:
                regions[find(id(value))] = find(id(inner[0]))
    for op, inner, outer in touching:
        root = find(id(inner[0]))
        if op.name not in _MOVES:
            bad.add(root)
        for value in outer:
            borders.setdefault(root, set()).add(value.shape)
            if any(len(component.axes) > 1 for component in flow.of(value)):
                bad.add(root)
    return {item for item in stuck if find(item) not in bad and len(borders.get(find(item), ())) == 1}
