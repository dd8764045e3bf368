"""What of a model can go, what stays and why: as text, as data, and as a picture of the graph coloured by set."""

from __future__ import annotations

import html
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from pruning.trace import Op, Value
from pruning.units import Entries, UnitSet

if TYPE_CHECKING:
    from pruning.groups import ZeroInvariantGroups

_MERGES = frozenset({"add", "mul", "cat", "sub", "div", "bmm", "stack"})
_BOX, _GAP, _STEP = (190, 30), 24, 52  # pixels: a node, between nodes of a row, from row to row
_SHOWN_COLOURS = 6  # sets that one node can show side by side


def as_dict(groups: ZeroInvariantGroups) -> dict[str, Any]:
    """What can go, what stays and why, as JSON can hold it."""
    cost = groups.count()
    return {
        "model": type(groups.model).__name__,
        "units": len(groups),
        "prunable_share": groups.prunable_share,
        "macs": cost.macs,
        "params": cost.params,
        "sets": [
            {
                "name": group.name,
                "units": group.units,
                "variables": [_entries(entries) for entries in group.variables],
                "consumers": [_entries(entries) for entries in group.consumers],
            }
            for group in groups.sets
        ],
        "frozen": dict(groups.frozen),
    }


def _entries(entries: Entries) -> dict[str, Any]:
    return {"name": entries.name, "axis": entries.axis, "index": entries.index.tolist()}


def as_text(groups: ZeroInvariantGroups) -> str:
    """One line a set of units, then the reasons of what stays."""
    cost = groups.count()
    lines = [
        f"{type(groups.model).__name__}: {len(groups):,} units in {len(groups.sets)} sets; "
        f"{groups.prunable_share:.1%} of {cost.params:,} parameters can go; {cost.macs:,} MACs",
        "",
        f"{'units':>6}  {'needed':>7}  {'sliced':>7}  set",
    ]
    for group in groups.sets:
        own, read = (_positions(entries) for entries in (group.variables, group.consumers))
        lines.append(f"{group.units:6,}  {own:7,}  {read:7,}  {group.name}")
    lines += ["", "needed: tensors whose entries have to be zero; sliced: tensors that are cut along"]
    if groups.frozen:
        reasons: dict[str, list[str]] = {}
        for name, reason in groups.frozen.items():
            reasons.setdefault(reason, []).append(name)
        lines += ["", "stays:"]
        for reason, names in reasons.items():
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            lines.append(f"  {', '.join(names[:3])}{more}: {reason}")
    return "\n".join(lines)


def _positions(entries: tuple[Entries, ...]) -> int:
    return len({item.name for item in entries})


# The picture ----------------------------------------------------------------------------------------------------------


@dataclass(slots=True, eq=False)
class _Node:
    label: str
    row: int
    sets: list[int]
    reason: str
    reads: list[_Node] = field(default_factory=list)
    column: float = 0.0


def as_svg(groups: ZeroInvariantGroups) -> str:
    """The model's layers and the places where they meet, from top to bottom, in the colours of their sets of units."""
    nodes = _nodes(groups)
    rows: dict[int, list[_Node]] = {}
    for node in nodes:
        rows.setdefault(node.row, []).append(node)
    widest = max(len(row) for row in rows.values())
    for row in rows.values():  # below what they read, as far as the order allows
        row.sort(key=lambda node: sum(n.column for n in node.reads) / max(len(node.reads), 1))
        for place, node in enumerate(row):
            node.column = place - (len(row) - 1) / 2
    width = widest * (_BOX[0] + _GAP) + 2 * _GAP
    height = (max(rows) + 1) * _STEP + 2 * _GAP
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'font-family="sans-serif" font-size="11">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for node in nodes:
        for source in node.reads:
            x1, y1, x2, y2 = *_centre(source, width), *_centre(node, width)
            y1, y2 = y1 + _BOX[1] / 2, y2 - _BOX[1] / 2
            middle = (y1 + y2) / 2
            parts.append(
                f'<path d="M{x1:g} {y1:g}C{x1:g} {middle:g} {x2:g} {middle:g} {x2:g} {y2:g}" '
                f'fill="none" stroke="#888"/>'
            )
    parts += [part for node in nodes for part in _box(node, groups.sets, width)]
    return "\n".join([*parts, "</svg>", ""])


def _centre(node: _Node, width: int) -> tuple[float, float]:
    return width / 2 + node.column * (_BOX[0] + _GAP), _GAP + node.row * _STEP + _BOX[1] / 2


def _box(node: _Node, sets: tuple[UnitSet, ...], width: int) -> list[str]:
    x, y = _centre(node, width)
    x, y = x - _BOX[0] / 2, y - _BOX[1] / 2
    told = "; ".join(f"{sets[number].name}: {sets[number].units} units" for number in node.sets) or node.reason
    parts = [f"<g><title>{html.escape(f'{node.label}: {told}' if told else node.label)}</title>"]
    shown = node.sets[:_SHOWN_COLOURS]
    step = _BOX[0] / max(len(shown), 1)
    for place, number in enumerate(shown):
        left, colour = x + place * step, _colour(number)
        parts.append(f'<rect x="{left:g}" y="{y:g}" width="{step:g}" height="{_BOX[1]}" fill="{colour}"/>')
    fill = "none" if shown else "#e4e4e4"
    parts.append(f'<rect x="{x:g}" y="{y:g}" width="{_BOX[0]}" height="{_BOX[1]}" rx="3" fill="{fill}" stroke="#444"/>')
    text = node.label if len(node.label) <= 32 else f"...{node.label[-30:]}"
    parts.append(
        f'<text x="{x + _BOX[0] / 2:g}" y="{y + _BOX[1] / 2 + 4:g}" text-anchor="middle">{html.escape(text)}</text></g>'
    )
    return parts


def _colour(number: int) -> str:
    """Hues a golden angle apart, so that neighbouring sets differ."""
    return f"hsl({number * 137.508 % 360:.0f} 70% {(82, 74, 88)[number % 3]}%)"


def _nodes(groups: ZeroInvariantGroups) -> list[_Node]:
    """Operators with parameters, places where tensors meet, inputs and outputs; the rest is a part of what it reads."""
    found = groups.partition
    starts = np.cumsum([0, *(group.units for group in groups.sets)])
    of: dict[Value, list[_Node]] = {}
    nodes: list[_Node] = []
    for op in found.trace.ops:
        moving = [value for value in op.tensors if not value.pure]
        reads: dict[int, _Node] = {}
        for value in moving:
            if value.kind == "input" and value not in of:
                of[value] = [_Node("input", 0, [], "")]
                nodes += of[value]
            reads |= {id(node): node for node in of.get(value, [])}
        sources = list(reads.values())
        if moving and (any(value.pure and value.name for value in op.tensors) or _meets(op, moving)):
            row = 1 + max((node.row for node in sources), default=-1)
            sets, reason = _sets_of(groups, op, starts)
            sources = [_Node(_label(op), row, sets, reason, sources)]
            nodes += sources
        for result in op.outs:
            if moving and result is not None:
                of[result] = sources
    row = 1 + max((node.row for node in nodes), default=0)
    ends = {id(node): node for value in found.trace.outputs for node in of.get(value, [])}
    return [*nodes, _Node("output", row, [], "", list(ends.values()))]


def _meets(op: Op, moving: list[Value]) -> bool:
    return op.name in _MERGES and len(moving) > 1


def _label(op: Op) -> str:
    names = [value.name for value in op.tensors if value.name]
    path = names[-1].rpartition(".")[0] if names else op.where
    return f"{path or op.where or 'model'}: {op.name.removeprefix('native_')}"


def _sets_of(groups: ZeroInvariantGroups, op: Op, starts: Any) -> tuple[list[int], str]:
    """Numbers of the sets that the result's channels belong to, or why they stay."""
    found = groups.partition
    result = op.outs[0]
    sets: dict[int, None] = {}
    for component in found.flow.of(result):
        units = found.unit_of[component.ids[component.ids >= 0]]
        units = np.unique(units[units >= 0])
        sets |= dict.fromkeys((np.unique(np.searchsorted(starts, units, "right")) - 1).tolist())
    if sets:
        return list(sets), ""
    names = [value.name for value in op.tensors if value.name in groups.frozen]
    return [], groups.frozen[names[0]] if names else found.flow.why_stays(result) if result is not None else ""
