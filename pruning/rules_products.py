"""Rules of sums of products: matrix products, convolutions of any number of groups, attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pruning.flow import Components, Flow, Operand, Work, count_of, joined, operand, rule
from pruning.provenance import Component, Ids, Numbers
from pruning.rules_pointwise import opaque
from pruning.trace import Op, Value


def einsum(
    flow: Flow, op: Op, values: tuple[Value, Value], letters: tuple[str, str], out: str
) -> tuple[Components, tuple[int, ...]]:
    """A sum of products of two tensors whose axes are named by letters.

    Returns:
        Components and shape of the result in the order of `out`.
    """
    sizes = {
        letter: size
        for value, names in zip(values, letters, strict=True)
        for letter, size in zip(names, value.shape, strict=True)
    }
    summed = [letter for letter in letters[0] if letter not in out]
    reason = f"{op} sums over it"
    sides: list[list[tuple[str, Component]]] = []
    for value, names in zip(values, letters, strict=True):
        side = []
        for component in flow.of(value):
            mixed = [axis for axis in component.axes if names[axis] in summed]
            if mixed and len(mixed) < len(component.axes):
                component = flow.collapse(component, mixed, reason)
            side.append(("".join(names[axis] for axis in component.axes), component))
        sides.append(side)
    for letter in summed:
        if sizes[letter] > 1:
            pair = [next((c for names, c in side if letter in names), None) for side in sides]
            flow.contract(op, pair[0], pair[1], (values[0].pure, values[1].pure))
    terms: list[Ids] = []
    covered: set[str] = set()
    for side in sides:
        for names, component in side:
            if not covered & set(names):
                terms.append(component.ids.reshape(-1))
                covered |= set(names)
    scales = not all(value.pure for value in values)
    factor = count_of([size for letter, size in sizes.items() if letter not in covered])
    flow.work.append(Work(str(op), factor, tuple(terms), scales))
    shape = tuple(sizes[letter] for letter in out)
    operands = []
    for value, names, side in zip(values, letters, sides, strict=True):
        placed = []
        for own, component in side:
            if not any(letter in summed for letter in own):
                order = [names.index(letter) for letter in out if letter in names]
                kept = component.moved(lambda a, n=names, o=order: _placed(a, n, o, out))
                placed.append(kept)
                if value.pure and scales:
                    flow.ledger.rows.append(component.ids.reshape(-1))
        own_shape = tuple(sizes[letter] if letter in names else 1 for letter in out)
        operands.append(Operand(own_shape, tuple(placed), flow.why_stays(value)))
    return flow.merge(op, operands, _product_at_zero), shape


def _placed(array: Any, names: str, order: list[int], out: str) -> Any:
    """An operand's array in the axes of the result: summed axes away, missing ones of size 1."""
    rest = [axis for axis in range(len(names)) if axis not in order]
    moved = array.transpose(order + rest)
    moved = moved.reshape(moved.shape[: len(order)])
    return moved.reshape([moved.shape[[names[o] for o in order].index(x)] if x in names else 1 for x in out])


def _plus(flow: Flow, op: Op, components: Components, shape: tuple[int, ...], bias: Operand | None) -> Components:
    if bias is None:
        return components
    return flow.merge(op, [Operand(shape, components), bias], _sum_at_zero)


@rule("mm", "bmm", "matmul", "mv", "dot")
def _matmul(flow: Flow, op: Op) -> Sequence[Components]:
    left, right = op.args[0], op.args[1]
    names = {"mm": ("nk", "km", "nm"), "bmm": ("bnk", "bkm", "bnm"), "mv": ("nk", "k", "n")}.get(op.name)
    if names is None:
        return opaque(flow, op)
    return [einsum(flow, op, (left, right), names[:2], names[2])[0]]


@rule("addmm", "baddbmm", "addmv")
def _addmm(flow: Flow, op: Op) -> Sequence[Components]:
    bias, left, right = op.args[:3]
    names = {"addmm": ("nk", "km", "nm"), "baddbmm": ("bnk", "bkm", "bnm"), "addmv": ("nk", "k", "n")}[op.name]
    components, shape = einsum(flow, op, (left, right), names[:2], names[2])
    beta = op.arg("beta", 1)
    return [_plus(flow, op, components, shape, operand(flow, bias, len(shape)) if beta else None)]


@rule("linear")
def _linear(flow: Flow, op: Op) -> Sequence[Components]:
    x, weight = op.args[:2]
    lead = "abcdefgh"[: len(x.shape) - 1]
    components, shape = einsum(flow, op, (x, weight), (lead + "k", "ok"), lead + "o")
    bias = op.arg("bias")
    return [_plus(flow, op, components, shape, operand(flow, bias, len(shape)) if bias is not None else None)]


@rule("convolution", "conv1d", "conv2d", "conv3d", "_convolution", "mkldnn_convolution", "cudnn_convolution")
def _convolution(flow: Flow, op: Op) -> Sequence[Components]:
    """Channels of input and output, for any number of groups.

    A depthwise convolution ties its input's channels to its rows. Of other groups either whole ones go (if there are
    at least as many as channels in one) or the same channels of each.
    """
    x, weight = op.args[:2]
    result = op.outs[0]
    assert result is not None
    ndim = len(weight.shape)
    transposed, groups = bool(op.arg("transposed", False)), int(op.arg("groups", 1))
    if len(x.shape) != ndim:
        return opaque(flow, op)
    reason = f"{op} mixes positions"
    sides = flow.apart(flow.of(x), range(2, ndim), reason)
    along_batch = tuple(c for c in sides if c.ids.shape[0] > 1 and c.ids.shape[1] == 1)
    flow.freeze([c for c in sides if c.ids.shape[0] > 1 and c.ids.shape[1] > 1], f"{op} mixes channels")
    channels = next((c for c in sides if c.axes == (1,)), None)
    out_axis, in_axis = (1, 0) if transposed else (0, 1)
    parts = flow.apart(flow.of(weight), range(2, ndim), reason)
    for part in parts:
        if len(part.axes) > 1:
            flow.freeze([part], f"{op} has a weight of an unknown make")
    parts = tuple(part for part in parts if len(part.axes) == 1)
    rows, columns = joined(parts, out_axis), joined(parts, in_axis)
    flow.reads(op, channels, whole=groups >= x.shape[1] // groups)
    positions = count_of([result.shape[0], *(x.shape[2:] if transposed else result.shape[2:]), *weight.shape[2:]])
    if groups == 1:
        if x.shape[1] > 1:
            flow.contract(op, channels, columns, (x.pure, weight.pure))
        produced = rows
        terms = [c for c in (rows, columns) if c is not None]
        factor = positions * weight.shape[0] * weight.shape[1]
    else:
        produced, terms = _grouped(flow, op, channels, rows, columns, groups, transposed=transposed)
        factor = positions * weight.shape[0] * weight.shape[1]
    for term in terms:
        factor //= term.ids.size
    flow.work.append(Work(str(op), factor, tuple(t.ids.reshape(-1) for t in terms), scales=not x.pure))
    shape = [1] * ndim
    shape[1] = result.shape[1]
    components = along_batch
    if produced is not None:
        if weight.pure and not x.pure:
            flow.ledger.rows.append(produced.ids.reshape(-1))
        components = (*along_batch, produced.moved(lambda a: a.reshape(shape)))
    bias = op.arg("bias")
    if bias is None:
        return [components]
    offset = tuple(c.moved(lambda a: a.reshape(shape)) for c in flow.of(bias))
    return [_plus(flow, op, components, result.shape, Operand(tuple(shape), offset))]


def _grouped(
    flow: Flow,
    op: Op,
    channels: Component | None,
    rows: Component | None,
    columns: Component | None,
    groups: int,
    *,
    transposed: bool,
) -> tuple[Component | None, list[Component]]:
    """Ties of a convolution with more than one group.

    Returns:
        The component of the output's channels, and the components of the weight that its work is proportional to.
    """
    x, weight = op.args[:2]
    assert op.outs[0] is not None
    inner, outer = x.shape[1] // groups, op.outs[0].shape[1] // groups
    stays = f"{op} reads it with values that stay"
    full, part = (columns, rows) if transposed else (rows, columns)  # the weight's axis over all groups; within one
    if groups >= inner:
        if channels is None or full is None:
            reason = flow.why_stays(x) or stays
            flow.freeze([c for c in (channels, full, part) if c is not None], reason)
            return None, []
        if part is not None:
            flow.freeze([part], f"{op} loses whole groups")
        units = flow.ledger.fresh((groups, 1))
        for side in (channels, full):
            flow.ledger.tie(units, side.ids.reshape(groups, -1), stays)
            flow.ledger.need(units, np.where(side.spread() == 0, side.ids, -1).reshape(groups, -1))
        flow.ledger.rows.append(full.ids.reshape(-1))
        out = units.repeat(outer, 1).reshape(-1)
        zero = np.zeros(1) if (full.zero == 0).all() else np.full(1, np.nan)
        return Component(out, zero, full.why), [full]
    if channels is None:
        flow.freeze([c for c in (columns,) if c is not None], stays)
    else:
        tied = flow.collapse(channels.moved(lambda a: a.reshape(groups, inner)), [0], f"{op} takes it in every group")
        if transposed and columns is not None:
            columns = flow.collapse(columns.moved(lambda a: a.reshape(groups, inner)), [0], stays)
        flow.contract(op, tied, columns, (x.pure, weight.pure))
    terms = [c for c in (rows, columns) if c is not None]
    if rows is None:
        return None, terms
    if transposed:  # the same row for every group
        return Component(np.tile(rows.ids.reshape(-1), groups), rows.zero.reshape(1), rows.why), terms
    ids = flow.ledger.fresh((1, outer))
    own = rows.ids.reshape(groups, outer)
    flow.ledger.tie(ids, own, stays)
    flow.ledger.need(ids, own)
    return Component(np.tile(ids.reshape(-1), groups), rows.zero.reshape(1), rows.why), terms


@rule(
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention",
    "_scaled_dot_product_fused_attention_overrideable",
)
def _attention(flow: Flow, op: Op) -> Sequence[Components]:
    """Heads: queries, keys, values and the mask's own positions of a head go together; its width stays."""
    query, key, value = op.args[:3]
    mask = op.arg("attn_mask") if op.arg("attn_mask") is not None else op.arg("attn_bias")
    ndim = len(query.shape)
    tokens, width = ndim - 2, ndim - 1
    reason = f"{op} mixes the width of a head"
    parts = []
    for tensor, mixed in ((query, [width]), (key, [tokens, width]), (value, [tokens])):
        left = flow.apart(flow.of(tensor), mixed, reason)
        if tensor is value:  # the width of values could shrink, but a head is cut as a whole
            left = tuple(flow.collapse(c, [width], reason) if len(c.axes) > 1 else c for c in left)
            flow.freeze([c for c in left if c.axes == (width,)], reason)
            left = tuple(c for c in left if c.axes != (width,))
        shape = tuple(
            1 if axis in (width,) or (axis == tokens and tensor is not query) else n
            for axis, n in enumerate(tensor.shape)
        )
        parts.append(Operand(shape, left))
    if mask is not None:
        left = flow.apart(operand(flow, mask, ndim).components, [width], reason)
        parts.append(Operand((*operand(flow, mask, ndim).shape[:-1], 1), left))
    components = flow.merge(op, parts, lambda zeros: _attention_at_zero(zeros))
    lead = [n for axis, n in enumerate(query.shape) if axis < tokens]
    heads = [c for c in components if all(axis < tokens for axis in c.axes)]
    terms = [c.ids.reshape(-1) for c in heads]
    used = {axis for c in heads for axis in c.axes}
    factor = count_of([n for axis, n in enumerate(lead) if axis not in used])
    factor *= query.shape[tokens] * key.shape[tokens] * (query.shape[width] + value.shape[width])
    flow.work.append(Work(str(op), factor, tuple(terms), scales=True))
    return [components, *[() for _ in op.outs[1:]]]


def _attention_at_zero(zeros: list[Numbers | None]) -> Numbers:
    """Zero values give a zero result whatever the scores are."""
    values = zeros[2]
    if values is not None and (values == 0).all():
        return np.zeros((1,) * values.ndim)
    known = next(zero for zero in zeros if zero is not None)
    return np.full((1,) * known.ndim, np.nan)


def _product_at_zero(zeros: list[Numbers | None]) -> Numbers:
    """A sum of products is zero where one factor is; nothing else is known of it."""
    known = [zero for zero in zeros if zero is not None]
    shape = np.broadcast_shapes(*(zero.shape for zero in known))
    zero = np.logical_or.reduce([np.broadcast_to(z == 0, shape) for z in known])
    if zero.all():
        return np.zeros((1,) * len(shape))
    return np.where(zero, 0.0, np.nan)


def _sum_at_zero(zeros: list[Numbers | None]) -> Numbers:
    known = [zero for zero in zeros if zero is not None]
    shape = np.broadcast_shapes(*(zero.shape for zero in known))
    if len(known) < len(zeros):
        return np.full((1,) * len(shape), np.nan)
    total = sum(known[1:], known[0])
    return total if total.size > 1 else total.reshape((1,) * len(shape))
