"""Rules of operators that work element by element, decided by evaluating them at zero, and of unknown operators."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from pruning.flow import Components, Flow, Operand, operand, rule
from pruning.provenance import Numbers
from pruning.rules_moves import along
from pruning.trace import OVERWRITTEN, Op, Value


@rule("opaque", OVERWRITTEN)
def opaque(flow: Flow, op: Op) -> Sequence[Components]:
    """What nobody described: all that enters stays."""
    reason = (
        "its memory is written through another view"
        if op.name == OVERWRITTEN
        else f"{op} is not known to keep channels apart"
    )
    for value in op.tensors:
        flow.freeze(flow.of(value), reason)
    return [() for _ in op.outs]


@rule("pointwise", "_prelu_kernel", "hardswish", "mish", "selu", "celu", "log_sigmoid_forward", "fill", "lerp")
def _pointwise(flow: Flow, op: Op) -> Sequence[Components]:
    """Element by element: operands that meet are tied; what zero becomes is found by evaluating the operator."""
    result = op.outs[0]
    if result is None:
        return [()]
    values = list(op.tensors)
    if not any(flow.of(value) for value in values):
        return [()]
    ndim = len(result.shape)
    operands = [operand(flow, value, ndim) for value in values]
    return [
        flow.merge(op, operands, lambda zeros: _evaluate(flow, op, values, zeros), by_zero=op.name in ("mul", "div"))
    ]


@rule("glu")
def _glu(flow: Flow, op: Op) -> Sequence[Components]:
    """One half times the sigmoid of the other: channel by channel, they go together."""
    x = op.args[0]
    axis = op.arg("dim", -1) % len(x.shape)
    half = x.shape[axis] // 2
    shape = tuple(half if a == axis else n for a, n in enumerate(x.shape))
    parts = []
    for start in (0, half):
        own = range(start, start + half)
        taken = [along(c, axis, partial(np.take, indices=own, axis=axis)) for c in flow.of(x)]
        parts.append(Operand(shape, tuple(taken)))

    def at_zero(zeros: list[Numbers | None]) -> Numbers:
        known = next(zero for zero in zeros if zero is not None)
        exact = zeros[0] is not None and bool((zeros[0] == 0).all())
        return np.full((1,) * known.ndim, 0.0 if exact else np.nan)

    return [flow.merge(op, parts, at_zero)]


@rule("copy")
def _copy(flow: Flow, op: Op) -> Sequence[Components]:
    result = op.outs[0]
    assert result is not None
    return [operand(flow, op.args[1], len(result.shape)).components]


def _evaluate(flow: Flow, op: Op, values: list[Value], zeros: list[Numbers | None]) -> Numbers:
    """The result where each operand has the given number; NaN where that cannot be told."""
    known = [zero for zero in zeros if zero is not None]
    shape = np.broadcast_shapes(*(zero.shape for zero in known))
    if op.name == "mul" and any((zero == 0).any() for zero in known):
        whole = len(known) == len(zeros) == 2
        product = known[0] * known[1] if whole else np.full(shape, np.nan)
        for zero in known:
            product = np.where(zero == 0, 0.0, product)
        return product
    if op.name == "div" and zeros[0] is not None and (zeros[0] == 0).all():
        below = zeros[1] if len(zeros) > 1 else None
        if below is None or not (below == 0).any():
            return np.zeros((1,) * len(shape))
    if len(known) < len(zeros):
        if op.name in ("where", "masked_fill") and all((zero == 0).all() for zero in known):
            picked = [op.arg("value")] if op.name == "masked_fill" else []
            unknown = [v for v, zero in zip(values, zeros, strict=True) if zero is None and v.dtype != torch.bool]
            if not unknown and all(number == 0 for number in picked):
                return np.zeros((1,) * len(shape))
        return np.full((1,) * len(shape), np.nan)
    if all(zero.size == 1 for zero in known):
        numbers = tuple(zero.item() for zero in known)
        key = (op.func, numbers, repr([a for a in op.args if not isinstance(a, Value)]), repr(op.kwargs))
        if not any(isinstance(v, Value) for v in op.kwargs.values()):
            places = tuple(i for i, a in enumerate(op.args) if isinstance(a, Value))
            number = flow.scalar((*key, places), lambda: float(_run(op, values, known).reshape(-1)[0]))
            return np.full((1,) * len(shape), number)
    return _run(op, values, [np.broadcast_to(zero, shape) for zero in known])


def _run(op: Op, values: list[Value], numbers: list[Numbers]) -> Numbers:
    """The operator on these numbers in place of its tensors."""
    shape = numbers[0].shape
    tensors = {id(value): torch.from_numpy(np.array(n, np.float64)) for value, n in zip(values, numbers, strict=True)}

    def fill(item: Any) -> Any:
        if isinstance(item, Value):
            return tensors[id(item)].clone()
        if isinstance(item, list | tuple):
            return type(item)(fill(part) for part in item)
        return item

    try:
        result = op.func(*fill(op.args), **{name: fill(item) for name, item in op.kwargs.items()})
        found = (result[0] if isinstance(result, tuple | list) else result).to(torch.float64).numpy()
    except (RuntimeError, TypeError, ValueError, NotImplementedError):  # not an operator of real numbers
        return np.full(shape, np.nan)
    bad = ~np.isfinite(found)
    for n in numbers:
        bad = bad | np.isnan(n)
    return np.where(bad, np.nan, found)
