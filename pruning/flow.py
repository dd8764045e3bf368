"""The passage of atoms through a recorded run: one rule an operator, and what rules share."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import torch

from pruning.provenance import FIXED, Component, Ids, Ledger, Numbers, aligned
from pruning.trace import Op, Trace, Value

Components = tuple[Component, ...]
Rule = Callable[["Flow", Op], Sequence[Components]]
RULES: dict[str, Rule] = {}


@dataclass(frozen=True, slots=True, eq=False)
class Work:
    """Multiply-adds of one operator: a constant times the number of kept positions of each array of atoms.

    Attributes:
        op: the operator and its module.
        factor: product of the sizes that no unit changes.
        axes: arrays of atoms, one dimension each.
        scales: whether it grows with the number of examples.
    """

    op: str
    factor: int
    axes: tuple[Ids, ...]
    scales: bool


@dataclass(frozen=True, slots=True, eq=False)
class Channels:
    """The input's channels of a convolution or a group norm, which fix its number of groups.

    Attributes:
        count: their number.
        ids: their atoms, None: all stay.
        whole: whole groups go, and not the same channels of each.
    """

    count: int
    ids: Ids | None
    whole: bool


@dataclass(frozen=True, slots=True, eq=False)
class Operand:
    """What one operand brings to an operator, in the axes of the operator's result.

    Attributes:
        shape: its own, of the result's number of axes.
        components: of the same number of axes.
        stays: why it has no component where it has none.
    """

    shape: tuple[int, ...]
    components: Components
    stays: str = ""


@dataclass(slots=True)
class Flow:
    """Atoms of every tensor of a run.

    Attributes:
        ledger: what has been found about the atoms.
        components: of each tensor.
        work: multiply-adds of each operator.
        stays: of tensors without components, the reason.
        channels: by result of a convolution or group norm, and by name of its weight, its input's channels.
    """

    ledger: Ledger = field(default_factory=Ledger)
    components: dict[Value, Components] = field(default_factory=dict)
    work: list[Work] = field(default_factory=list)
    channels: dict[Value | str, Channels] = field(default_factory=dict)
    stays: dict[Value, str] = field(default_factory=dict)
    _scalars: dict[Any, float] = field(default_factory=dict)

    def run(self, trace: Trace) -> None:
        """Pass the atoms of all parameters and buffers through all operators."""
        for name, leaf in trace.leaves.items():
            self.ledger.leaf(name, leaf.kind, leaf.shape)
        for op in trace.ops:
            before = len(self.ledger.frozen)
            results = rule_of(op)(self, op)
            for value, components in zip(op.outs, results, strict=False):
                if value is not None:
                    self.components[value] = self._clean(components, op)
                    if not components:
                        self.stays[value] = self._reason(op, before)
        for value in trace.outputs:
            for component in self.of(value):
                self.ledger.freeze(component.ids, "an output of the model")

    def of(self, value: Value | None) -> Components:
        """The components of a tensor; a parameter's and a buffer's: one for each axis."""
        if value is None:
            return ()
        found = self.components.get(value)
        if found is None:
            found = self._leaf(value) if value.kind in ("parameter", "buffer") else ()
            self.components[value] = found
        return found

    def _reason(self, op: Op, before: int) -> str:
        """Why the result of an operator has no components: what froze them here, or in what it reads."""
        if len(self.ledger.frozen) > before:
            return self.ledger.frozen[before][1]
        return next((found for value in op.tensors if (found := self.why_stays(value))), "")

    def why_stays(self, value: Value) -> str:
        """Why a tensor has no components."""
        return "it meets the model's input" if value.kind == "input" else self.stays.get(value, "")

    def reads(self, op: Op, component: Component | None, *, whole: bool) -> None:
        """Note which channels a convolution or a group norm reads."""
        result, weight = op.outs[0], op.arg("weight")
        assert result is not None
        channels = Channels(op.args[0].shape[1], component.ids.reshape(-1) if component is not None else None, whole)
        self.channels[result] = channels
        if weight is not None and weight.name:
            self.channels[weight.name] = channels

    def freeze(self, components: Sequence[Component], reason: str) -> None:
        """All atoms of these components stay."""
        for component in components:
            self.ledger.freeze(component.ids, reason)

    def collapse(self, component: Component, axes: Sequence[int], reason: str) -> Component:
        """Tie all that lies along `axes`: what is left depends on the other axes only."""
        axes = [axis for axis in axes if component.ids.shape[axis] > 1]
        if not axes:
            return component
        first = component.ids[tuple(slice(0, 1) if a in axes else slice(None) for a in range(component.ids.ndim))]
        ids = self.ledger.fresh_for([first])
        self.ledger.tie(ids, component.ids, reason)
        self.ledger.need(ids, component.ids)
        spread = component.spread()
        low, high = spread.min(tuple(axes), keepdims=True), spread.max(tuple(axes), keepdims=True)
        return Component(ids, np.where(low == high, low, np.nan), component.why, component.free)

    def apart(self, components: Sequence[Component], axes: Sequence[int], reason: str) -> Components:
        """What is left of components where an operator mixes all positions of `axes`.

        A component that depends on other axes, too, is tied along `axes`; one that does not is frozen.
        """
        left = []
        for component in components:
            mixing = {axis % component.ids.ndim for axis in axes}
            mixed = [axis for axis in component.axes if axis in mixing]
            if not mixed:
                left.append(component)
            elif len(mixed) < len(component.axes):
                left.append(self.collapse(component, mixed, reason))
            else:
                self.freeze([component], reason)
        return tuple(left)

    def merge(
        self,
        op: Op,
        operands: Sequence[Operand],
        at_zero: Callable[[list[Numbers | None]], Numbers],
        *,
        by_zero: bool = False,
    ) -> Components:
        """Components of a result that is computed position by position from operands that broadcast.

        Args:
            op: for reasons.
            operands: in the axes of the result.
            at_zero: the result's value from the operands', None: an operand of which no number is known.
            by_zero: one operand that is zero makes the result zero, so that only those have to be zero that are.
        """
        items = [(place, component) for place, operand in enumerate(operands) for component in operand.components]
        result = []
        while items:
            group = [items.pop(0)]
            axes = set(group[0][1].axes)
            more = True
            while more:
                touching = [item for item in items if axes & set(item[1].axes)]
                for item in touching:
                    items.remove(item)
                    axes |= set(item[1].axes)
                group += touching
                more = bool(touching)
            members = {place for place, _ in group}
            absent = [o for place, o in enumerate(operands) if place not in members]
            fixed = [operand for operand in absent if any(operand.shape[axis] > 1 for axis in axes)]
            if fixed:
                reason = next((operand.stays for operand in fixed if operand.stays), "")
                self.freeze([c for _, c in group], reason or f"{op} combines it with values that stay")
                continue
            result.append(self._join(op, group, len(operands), at_zero, by_zero=by_zero))
        return tuple(result)

    def _join(
        self,
        op: Op,
        group: list[tuple[int, Component]],
        count: int,
        at_zero: Callable[[list[Numbers | None]], Numbers],
        *,
        by_zero: bool,
    ) -> Component:
        zeros: list[Numbers | None] = [None] * count
        for place, component in group:
            zeros[place] = component.zero
        zero = at_zero(zeros)
        why = ""
        if not is_zero(zero):
            sources = [component for _, component in group if not is_zero(component.zero)]
            why = sources[0].why if sources else f"{op} maps zero to {_number(zero)}"
        if len(group) == 1:
            ids = group[0][1].ids
        else:
            parts = [component for _, component in group]
            ids = self.ledger.fresh_for([part.ids for part in parts])
            for part in parts:
                self.ledger.tie(ids, part.ids, f"{op} combines it with values that stay")
                source = part.ids
                if by_zero and not is_zero(part.zero) and any((p.zero == 0).any() for p in parts):
                    source = np.where(part.spread() == 0, part.ids, FIXED)
                self.ledger.need(ids, source)
        return Component(ids, zero, why, all(component.free for _, component in group))

    def contract(self, op: Op, left: Component | None, right: Component | None, pure: tuple[bool, bool]) -> None:
        """Two components of one axis that an operator sums over: tied, and zero on the side that is not a weight.

        Args:
            op: for reasons.
            left: of one operand, None: positions that stay.
            right: of the other one.
            pure: of each operand, whether it is a weight.
        """
        if left is None or right is None:
            self.freeze([c for c in (left, right) if c is not None], f"{op} reads it with values that stay")
            return
        self.ledger.tie(left.ids.reshape(-1), right.ids.reshape(-1), f"{op} reads it with values that stay")
        if any(is_zero(side.zero) and not weight for side, weight in ((left, pure[0]), (right, pure[1]))):
            for side, weight in ((left, pure[0]), (right, pure[1])):
                if not weight:
                    self.ledger.require(side.ids)
            return
        sides = [(left, pure[0]), (right, pure[1])]
        moving = [side for side, weight in sides if not weight] or [left]
        spread = [side.spread().reshape(-1) for side in moving]
        zero = np.logical_or.reduce([values == 0 for values in spread])
        for side in moving:
            ids = side.ids.reshape(-1)
            self.ledger.require(ids[zero])
            if not zero.all():
                self.ledger.freeze(ids[~zero], side.why or f"{op} reads values that are not zero")

    def sums(self, op: Op, component: Component) -> None:
        """A component that an operator sums over alone: exact where it is zero."""
        zero = component.spread() == 0
        self.ledger.require(component.ids[zero])
        if not zero.all():
            self.ledger.freeze(component.ids[~zero], component.why or f"{op} reads values that are not zero")

    def scalar(self, key: Any, compute: Callable[[], float]) -> float:
        """A number that depends on `key` only, computed once."""
        if key not in self._scalars:
            self._scalars[key] = compute()
        return self._scalars[key]

    def _leaf(self, value: Value) -> Components:
        leaf = self.ledger.leaf(value.name, value.kind, value.shape)
        ndim = len(value.shape)
        zero = np.full((1,) * ndim, 0.0 if value.kind == "parameter" else np.nan)
        why = "" if value.kind == "parameter" else f"buffer {value.name!r} is not zero"
        components = []
        for axis, size in enumerate(value.shape):
            if size > 1:
                ids = np.arange(leaf.first[axis], leaf.first[axis] + size, dtype=np.int64)
                components.append(Component(ids.reshape((1,) * axis + (size,) + (1,) * (ndim - axis - 1)), zero, why))
        return tuple(components)

    def _clean(self, components: Components, op: Op) -> Components:
        """Without components that depend on no axis, or share an axis with another one."""
        kept = []
        used: set[int] = set()
        clash: set[int] = set()
        if any(component.free for component in components):
            owned = {axis for component in components if not component.free for axis in component.axes}
            self.freeze([c for c in components if c.free and owned & set(c.axes)], f"{op} repeats it")
            components = tuple(c for c in components if not (c.free and owned & set(c.axes)))
        for component in components:
            clash |= used & set(component.axes)
            used |= set(component.axes)
        for component in components:
            if not component.axes:
                self.freeze([component], f"{op} takes a single channel out")
            elif clash & set(component.axes):
                self.freeze([component], f"{op} merges two axes that could be pruned")
            else:
                kept.append(component)
        return tuple(kept)


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register a rule for operators of these names."""

    def register(function: Rule) -> Rule:
        for name in names:
            assert name not in RULES, name
            RULES[name] = function
        return function

    return register


def rule_of(op: Op) -> Rule:
    """The rule for an operator; operators that nobody described freeze what they touch."""
    found = RULES.get(op.name)
    if found is None:
        found = RULES["pointwise"] if _is_pointwise(op.func, op.name) else RULES["opaque"]
    return found


@cache
def _is_pointwise(func: Any, name: str) -> bool:
    """Whether torch says that an operator, or its functional form, works element by element."""
    if func is None:
        return False
    if torch.Tag.pointwise in func.tags:
        return True
    packet = getattr(torch.ops.aten, name, None)
    return packet is not None and any(
        torch.Tag.pointwise in getattr(packet, overload).tags for overload in packet.overloads()
    )


def operand(flow: Flow, value: Value, ndim: int) -> Operand:
    """A tensor as an operand of an operator whose result has `ndim` axes and that broadcasts."""
    shape = (1,) * (ndim - len(value.shape)) + value.shape
    return Operand(shape, tuple(aligned(c, ndim) for c in flow.of(value)), flow.why_stays(value))


def is_zero(zero: Numbers) -> bool:
    """Whether all numbers are zero."""
    return bool(zero.item() == 0) if zero.size == 1 else bool((zero == 0).all())


def joined(components: Sequence[Component], axis: int) -> Component | None:
    """The component that depends on `axis`, None: no one does."""
    return next((c for c in components if c.ids.shape[axis] > 1), None)


def count_of(sizes: Sequence[int]) -> int:
    """Product of sizes."""
    return math.prod(sizes)


def _number(zero: Numbers) -> str:
    values = np.unique(zero)
    return f"{values[0]:.3g}" if len(values) == 1 and np.isfinite(values[0]) else "values that are not known"
