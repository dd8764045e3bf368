"""Rules of operators that compute: they tie channels that meet, and decide what a zero channel becomes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from pruning.flow import Components, Flow, Operand, Work, count_of, joined, operand, rule
from pruning.provenance import Component, Ids, Numbers
from pruning.rules_moves import along
from pruning.trace import OVERWRITTEN, Op, Value

_NORM_REASON = "normalises over its channels together"


@rule("opaque", OVERWRITTEN)
def _opaque(flow: Flow, op: Op) -> Sequence[Components]:
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
        key = (op.func, numbers, repr([a for a in op.args if not isinstance(a, Value)]), repr(op.kwargs), values == [])
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


# Sums of products -----------------------------------------------------------------------------------------------------


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
        return _opaque(flow, op)
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
        return _opaque(flow, op)
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


# Norms ----------------------------------------------------------------------------------------------------------------


@rule(
    "native_batch_norm",
    "cudnn_batch_norm",
    "miopen_batch_norm",
    "batch_norm",
    "_native_batch_norm_legit_no_training",
    "_native_batch_norm_legit",
    "_batch_norm_no_update",
)
def _batch_norm(flow: Flow, op: Op) -> Sequence[Components]:
    """Channel by channel: with weight and bias zero, zero; without them, minus the running mean."""
    x = op.args[0]
    ndim = len(x.shape)
    running = [op.arg(name) for name in ("running_mean", "running_var")]
    components = flow.of(x)
    own = any(mean is None for mean in running) or bool(op.arg("training", op.name == "_native_batch_norm_legit"))
    if own:
        mixed = [axis for axis in range(ndim) if axis != 1]
        components = flow.apart(components, mixed, f"{op} {_NORM_REASON}")
    else:
        rest = range(2, ndim)
        components = tuple(flow.collapse(c, rest, f"{op} scales channels") if 1 in c.axes else c for c in components)
    shape = tuple(x.shape[1] if axis == 1 else 1 for axis in range(ndim))
    names = ("weight", "bias", *(() if own else ("running_mean", "running_var")))
    operands = [Operand(x.shape, components, flow.why_stays(x))] + [
        _vector(flow, op.arg(name), shape) for name in names
    ]
    given = [op.arg(name) is not None for name in ("weight", "bias")]

    def at_zero(zeros: list[Numbers | None]) -> Numbers:
        return _affine_at_zero(zeros[0], zeros[1], zeros[2], given, centred=own)

    return [flow.merge(op, operands, at_zero, by_zero=True), *[() for _ in op.outs[1:]]]


def _vector(flow: Flow, value: Value | None, shape: tuple[int, ...]) -> Operand:
    """A vector of one number a channel as an operand."""
    if value is None:
        return Operand((1,) * len(shape), ())
    return Operand(shape, tuple(c.moved(lambda a: a.reshape(shape)) for c in flow.of(value)))


def _affine_at_zero(
    x: Numbers | None, weight: Numbers | None, bias: Numbers | None, given: list[bool], *, centred: bool
) -> Numbers:
    """What ``normalised(x) * weight + bias`` is; `centred`: a constant x has the normalised value 0."""
    known = next(zero for zero in (x, weight, bias) if zero is not None)
    ones = (1,) * known.ndim
    scaled = np.full(ones, np.nan)
    if (given[0] and weight is not None and (weight == 0).all()) or (
        centred and x is not None and not np.isnan(x).any()
    ):
        scaled = np.zeros(ones)
    if not given[1]:
        return scaled
    return scaled + bias if bias is not None else np.full(ones, np.nan)


@rule("native_group_norm", "group_norm")
def _group_norm(flow: Flow, op: Op) -> Sequence[Components]:
    """The channels of a norm group go together; a single group stays as it is."""
    x, groups = op.args[0], int(op.arg("group", op.arg("num_groups", 1)))
    ndim = len(x.shape)
    reason = f"{op} {_NORM_REASON}"
    components = flow.apart(flow.of(x), range(2, ndim), reason)
    kept = []
    for component in components:
        if 1 in component.axes:
            if groups == 1 or len(component.axes) > 1:
                flow.freeze([component], reason)
                continue
            if groups < x.shape[1]:
                split = component.moved(lambda a: a.reshape(groups, -1))
                tied = flow.collapse(split, [1], reason)
                shape = tuple(x.shape[1] if axis == 1 else 1 for axis in range(ndim))
                ids = tied.ids.repeat(x.shape[1] // groups, 1).reshape(shape)
                component = Component(
                    ids,
                    tied.zero.repeat(x.shape[1] // groups, 1).reshape(shape)
                    if tied.zero.size > 1
                    else tied.zero.reshape((1,) * ndim),
                    tied.why,
                )
        kept.append(component)
    shape = tuple(x.shape[1] if axis == 1 else 1 for axis in range(ndim))
    weight, bias = op.arg("weight"), op.arg("bias")
    flow.reads(op, joined(tuple(kept), 1), whole=True)
    operands = [
        Operand(x.shape, tuple(kept), flow.why_stays(x)),
        _vector(flow, weight, shape),
        _vector(flow, bias, shape),
    ]
    given = [weight is not None, bias is not None]

    def at_zero(zeros: list[Numbers | None]) -> Numbers:
        return _affine_at_zero(zeros[0], zeros[1], zeros[2], given, centred=True)

    return [flow.merge(op, operands, at_zero, by_zero=True), *[() for _ in op.outs[1:]]]


@rule("native_layer_norm", "layer_norm", "_fused_rms_norm", "rms_norm", "_fused_rms_norm_")
def _layer_norm(flow: Flow, op: Op) -> Sequence[Components]:
    """Mixes all that it normalises over, so that only what lies on other axes goes."""
    x = op.args[0]
    ndim = len(x.shape)
    mixed = list(range(ndim - len(op.args[1]), ndim))
    left = flow.apart(flow.of(x), mixed, f"{op} {_NORM_REASON}")
    weight, bias = op.arg("weight"), op.arg("bias")
    for value in (weight, bias):
        flow.freeze(flow.of(value), f"{op} {_NORM_REASON}")
    kept = []
    for component in left:
        zero = np.where(component.zero == 0, 0.0 if bias is None else np.nan, np.nan)
        kept.append(Component(component.ids, zero, component.why or ("" if bias is None else f"{op} adds its bias")))
    return [tuple(kept), *[() for _ in op.outs[1:]]]


@rule(
    "_softmax", "softmax", "_safe_softmax", "_log_softmax", "log_softmax", "cumsum", "cumprod", "logcumsumexp", "sort"
)
def _along_axis(flow: Flow, op: Op) -> Sequence[Components]:
    """Mixes one axis; what it makes of zero is not zero."""
    left = flow.apart(flow.of(op.args[0]), [op.arg("dim", -1)], f"{op} is over channels")
    kept = tuple(Component(c.ids, np.full((1,) * c.ids.ndim, np.nan), c.why or f"{op} is not zero") for c in left)
    return [kept for _ in op.outs]


# Reductions and windows -----------------------------------------------------------------------------------------------


@rule(
    "sum",
    "mean",
    "amax",
    "amin",
    "max",
    "min",
    "var",
    "std",
    "prod",
    "linalg_vector_norm",
    "norm",
    "argmax",
    "argmin",
    "any",
    "all",
    "logsumexp",
    "var_mean",
    "std_mean",
)
def _reduce(flow: Flow, op: Op) -> Sequence[Components]:
    """A sum over channels is exact where they are zero; what divides by their number or compares them is not."""
    x = op.args[0]
    ndim = len(x.shape)
    dims = op.arg("dim")
    dims = [dims] if isinstance(dims, int) else list(dims or range(ndim))
    dims = [dim % ndim for dim in dims] if ndim else []
    keep = bool(op.arg("keepdim", False))
    order = op.arg("ord", 2)
    adds = op.name == "sum" or (op.name == "linalg_vector_norm" and order not in (0, float("inf"), float("-inf")))
    kept = []
    for component in flow.of(x):
        inside = [axis for axis in component.axes if axis in dims]
        if inside and len(inside) == len(component.axes):
            if adds and len(inside) == 1:
                flow.sums(op, component)
            else:
                flow.freeze([component], f"{op} is over channels")
            continue
        component = flow.collapse(component, inside, f"{op} is over channels")
        same = op.name in ("mean", "amax", "amin", "max", "min")
        zero = component.zero
        if not same:
            goes = op.name in ("sum", "linalg_vector_norm", "norm", "any")
            zero = np.where(zero == 0, 0.0 if goes else np.nan, np.nan)
        component = Component(component.ids, zero, component.why or ("" if (zero == 0).all() else f"{op} is not zero"))
        if not keep:
            component = component.moved(lambda a: a.reshape([n for axis, n in enumerate(a.shape) if axis not in dims]))
        kept.append(component)
    return [tuple(kept) for _ in op.outs]


_WINDOWS = {
    "max_pool1d": 1, "max_pool2d": 2, "max_pool3d": 3, "max_pool2d_with_indices": 2, "max_pool3d_with_indices": 3,
    "avg_pool1d": 1, "avg_pool2d": 2, "avg_pool3d": 3, "_adaptive_avg_pool2d": 2, "_adaptive_avg_pool3d": 3,
    "adaptive_avg_pool1d": 1, "adaptive_max_pool1d": 1, "adaptive_max_pool2d": 2, "adaptive_max_pool3d": 3,
    "upsample_nearest1d": 1, "upsample_nearest2d": 2, "upsample_nearest3d": 3, "_upsample_nearest_exact2d": 2,
    "upsample_linear1d": 1, "upsample_bilinear2d": 2, "upsample_bicubic2d": 2, "upsample_trilinear3d": 3,
    "_upsample_bilinear2d_aa": 2, "_upsample_bicubic2d_aa": 2, "reflection_pad1d": 1, "reflection_pad2d": 2,
    "replication_pad1d": 1, "replication_pad2d": 2, "grid_sampler_2d": 2,
}  # fmt: skip


@rule(*_WINDOWS)
def _window(flow: Flow, op: Op) -> Sequence[Components]:
    """Works within a channel, over its positions."""
    x = op.args[0]
    spatial = range(len(x.shape) - _WINDOWS[op.name], len(x.shape))
    left = flow.apart(flow.of(x), spatial, f"{op} mixes positions")
    for value in list(op.tensors)[1:]:
        flow.freeze(flow.of(value), f"{op} reads positions from it")
    kept = []
    for component in left:
        same = "max_pool" in op.name or "nearest" in op.name or "adaptive" in op.name
        zero = component.zero if same else np.where(component.zero == 0, 0.0, np.nan)
        kept.append(Component(component.ids, zero, component.why))
    return [tuple(kept), *[tuple(kept) for _ in op.outs[1:]]]
