"""Rules of operators that move elements, repeat them or leave some out: index maps, which tie nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from pruning.flow import Components, Flow, Operand, operand, rule
from pruning.provenance import FIXED, Component, reshape
from pruning.trace import Op, Value

# Operators whose result holds the elements of their input in their order
SAME = ("clone", "contiguous", "alias", "detach", "_to_copy", "lift", "lift_fresh", "lift_fresh_copy", "to", "dropout")
RESHAPES = ("view", "reshape", "_unsafe_view", "_reshape_alias", "squeeze", "unsqueeze", "flatten", "unflatten")
AXES = ("permute", "transpose", "t", "numpy_T", "movedim")


def along(component: Component, axis: int, function: Callable[[Any], Any]) -> Component:
    """The component after `function` along an axis, if it depends on it."""
    if component.ids.shape[axis] == 1:
        return component
    return component.moved(function)


def along_all(components: Components, axis: int, function: Callable[[Any], Any]) -> Components:
    """`along` for each component."""
    return tuple(along(component, axis, function) for component in components)


@rule(*SAME)
def _same(flow: Flow, op: Op) -> Sequence[Components]:
    return [flow.of(op.args[0])]


@rule(*RESHAPES)
def _reshape(flow: Flow, op: Op) -> Sequence[Components]:
    source, result = op.args[0], op.outs[0]
    assert result is not None
    if 0 in source.shape:
        return [()]
    return [tuple(c.moved(lambda a: reshape(a, source.shape, result.shape)) for c in flow.of(source))]


@rule("permute")
def _permute(flow: Flow, op: Op) -> Sequence[Components]:
    return [tuple(c.moved(lambda a: a.transpose(op.arg("dims"))) for c in flow.of(op.args[0]))]


@rule("transpose")
def _transpose(flow: Flow, op: Op) -> Sequence[Components]:
    one, two = op.arg("dim0"), op.arg("dim1")
    return [tuple(c.moved(lambda a: a.swapaxes(one, two)) for c in flow.of(op.args[0]))]


@rule("t", "numpy_T")
def _t(flow: Flow, op: Op) -> Sequence[Components]:
    return [tuple(c.moved(lambda a: a.T) for c in flow.of(op.args[0]))]


@rule("expand", "expand_as", "broadcast_to")
def _expand(flow: Flow, op: Op) -> Sequence[Components]:
    """Positions that repeat one value are channels of their own, which go with whatever they meet."""
    result = op.outs[0]
    assert result is not None
    ndim = len(result.shape)
    source = operand(flow, op.args[0], ndim)
    free = []
    for axis in range(1, ndim):
        if source.shape[axis] == 1 < result.shape[axis]:
            ids = flow.ledger.fresh([result.shape[axis] if a == axis else 1 for a in range(ndim)])
            free.append(Component(ids, np.full((1,) * ndim, np.nan), f"{op} repeats one value", free=True))
    return [(*source.components, *free)]


@rule("repeat", "tile")
def _repeat(flow: Flow, op: Op) -> Sequence[Components]:
    result = op.outs[0]
    assert result is not None
    ndim = len(result.shape)
    repeats = list(op.args[1])
    repeats = [1] * (ndim - len(repeats)) + repeats
    return [
        tuple(
            c.moved(lambda a: np.tile(a, [n if size > 1 else 1 for n, size in zip(repeats, a.shape, strict=True)]))
            for c in operand(flow, op.args[0], ndim).components
        )
    ]


@rule("select")
def _select(flow: Flow, op: Op) -> Sequence[Components]:
    axis, index = op.arg("dim"), op.arg("index", 0)
    return [_picked(flow.of(op.args[0]), axis, index)]


@rule("unbind")
def _unbind(flow: Flow, op: Op) -> Sequence[Components]:
    axis = op.arg("dim", 0)
    return [_picked(flow.of(op.args[0]), axis, index) for index in range(op.args[0].shape[axis])]


def _picked(components: Components, axis: int, index: int) -> Components:
    return tuple(c.moved(lambda a: a.take(index if a.shape[axis] > 1 else 0, axis)) for c in components)


@rule("slice")
def _slice(flow: Flow, op: Op) -> Sequence[Components]:
    axis = op.arg("dim", 0)
    part = slice(op.arg("start"), op.arg("end"), op.arg("step", 1))
    return [_sliced(flow.of(op.args[0]), axis, part)]


@rule("narrow")
def _narrow(flow: Flow, op: Op) -> Sequence[Components]:
    start, length = op.arg("start"), op.arg("length")
    return [_sliced(flow.of(op.args[0]), op.arg("dim"), slice(start, start + length))]


def _sliced(components: Components, axis: int, part: slice) -> Components:
    def cut(array: Any) -> Any:
        where = [slice(None)] * array.ndim
        where[axis] = part
        return array[tuple(where)]

    return along_all(components, axis, cut)


@rule("split", "split_with_sizes", "chunk", "tensor_split", "unsafe_split", "unsafe_chunk", "unsafe_split_with_sizes")
def _split(flow: Flow, op: Op) -> Sequence[Components]:
    axis = op.arg("dim", 0)
    parts, start = [], 0
    for out in op.outs:
        assert out is not None
        parts.append(_sliced(flow.of(op.args[0]), axis, slice(start, start + out.shape[axis])))
        start += out.shape[axis]
    return parts


@rule("flip", "roll", "native_channel_shuffle", "channel_shuffle", "index_select")
def _index_map(flow: Flow, op: Op) -> Sequence[Components]:
    """Positions of one axis in another order."""
    source: Value = op.args[0]
    components = flow.of(source)
    for axis, positions in _orders(op, source.shape):
        if positions is None:
            flow.freeze([c for c in components if c.ids.shape[axis] > 1], f"{op} takes channels in an unknown order")
            components = tuple(c for c in components if c.ids.shape[axis] == 1)
        else:
            components = along_all(components, axis, partial(np.take, indices=positions, axis=axis))
    return [components]


def _orders(op: Op, shape: tuple[int, ...]) -> list[tuple[int, Any]]:
    """The axes that an operator reorders, and the position that each position of the result comes from."""
    if op.name == "flip":
        return [(axis, np.arange(shape[axis])[::-1]) for axis in op.arg("dims")]
    if op.name == "roll":
        axes, shifts = op.arg("dims", []), op.arg("shifts")
        if not axes:
            return [(axis, None) for axis in range(len(shape))]
        return [(a, np.roll(np.arange(shape[a]), s)) for a, s in zip(axes, shifts, strict=True)]
    if op.name == "index_select":
        return [(op.arg("dim"), op.arg("index").constant)]
    axis, groups = (1, op.arg("groups"))
    return [(axis, np.arange(shape[axis]).reshape(groups, -1).T.reshape(-1))]


@rule("index")
def _index(flow: Flow, op: Op) -> Sequence[Components]:
    """Advanced indexing of some axes: the others move, the indexed ones are fixed, but for one list of positions."""
    source: Value = op.args[0]
    indices = list(op.args[1]) + [None] * (len(source.shape) - len(op.args[1]))
    where = [axis for axis, index in enumerate(indices) if index is not None]
    result = op.outs[0]
    assert result is not None
    tensors = [indices[axis] for axis in where]
    if any(index.dtype not in _INTEGERS for index in tensors) or 0 in result.shape:
        flow.freeze(flow.of(source), f"{op} picks by a mask")
        return [()]
    rank = len(np.broadcast_shapes(*(index.shape for index in tensors)))
    front = where[0] if where == list(range(where[0], where[-1] + 1)) else 0
    moved = []
    for component in flow.of(source):
        indexed = [axis for axis in where if component.ids.shape[axis] > 1]
        constant = tensors[0].constant
        if indexed and (len(where) > 1 or len(component.axes) > 1 or constant is None or constant.ndim != 1):
            flow.freeze([component], f"{op} takes channels in an unknown order")
            continue
        if indexed:
            moved.append(component.moved(partial(np.take, indices=constant, axis=where[0])))
            continue

        def shift(array: Any) -> Any:
            kept = [size for axis, size in enumerate(array.shape) if axis not in where]
            return array.reshape(kept[:front] + [1] * rank + kept[front:])

        moved.append(component.moved(shift))
    return [tuple(moved)]


_INTEGERS = frozenset({torch.int64, torch.int32, torch.int16, torch.int8})


@rule("embedding")
def _embedding(flow: Flow, op: Op) -> Sequence[Components]:
    weight: Value = op.args[0]
    result = op.outs[0]
    assert result is not None
    columns = []
    for component in flow.of(weight):
        if component.ids.shape[0] > 1:
            flow.freeze([component], f"{op} looks rows up")
        else:
            shape = (1,) * (len(result.shape) - 1) + (-1,)
            columns.append(component.moved(lambda a, s=shape: a.reshape(s)))
    return [tuple(columns)]


@rule("cat", "concat", "concatenate", "stack")
def _cat(flow: Flow, op: Op) -> Sequence[Components]:
    """Along the axis the parts' channels stand one behind the other; all other axes are shared."""
    result = op.outs[0]
    assert result is not None
    ndim = len(result.shape)
    axis = op.arg("dim", 0) % ndim
    parts: list[tuple[Value, Components]] = []
    for value in op.args[0]:
        if value.shape == (0,):
            continue
        components = flow.of(value)
        if op.name == "stack":
            components = tuple(c.moved(lambda a: np.expand_dims(a, axis)) for c in components)
        parts.append((value, components))
    sizes = [1 if op.name == "stack" else value.shape[axis] for value, _ in parts]
    shared = [
        Operand(
            tuple(1 if a == axis else n for a, n in enumerate(result.shape)),
            tuple(c for c in components if c.ids.shape[axis] == 1),
            flow.why_stays(value),
        )
        for value, components in parts
    ]
    kept = flow.merge(op, shared, _all_zero)
    lengthwise = [[c for c in components if c.ids.shape[axis] > 1] for _, components in parts]
    if not any(lengthwise):
        return [kept]
    others = set().union(*(set(c.axes) - {axis} for cs in lengthwise for c in cs))
    pieces = []
    for own, size in zip(lengthwise, sizes, strict=True):
        shape = [result.shape[a] if a in others else size if a == axis else 1 for a in range(ndim)]
        if own:
            pieces.append((np.broadcast_to(own[0].ids, shape), np.broadcast_to(own[0].spread(), shape), own[0].why))
        else:
            pieces.append((np.full(shape, FIXED, np.int64), np.full(shape, np.nan), ""))
    zero = np.concatenate([piece[1] for piece in pieces], axis)
    if (zero == 0).all():
        zero = np.zeros((1,) * ndim)
    ids = np.concatenate([piece[0] for piece in pieces], axis)
    return [(*kept, Component(ids, zero, next((piece[2] for piece in pieces if piece[2]), "")))]


def _all_zero(zeros: list[Any]) -> Any:
    known = [zero for zero in zeros if zero is not None]
    if len(known) == len(zeros) and all((zero == 0).all() for zero in known):
        return np.zeros((1,) * known[0].ndim)
    return np.full((1,) * known[0].ndim, np.nan)


@rule("constant_pad_nd")
def _pad(flow: Flow, op: Op) -> Sequence[Components]:
    """Zeros beside channels are channels of their own, which go with whatever they are added to."""
    source: Value = op.args[0]
    pads, value = op.arg("pad"), op.arg("value", 0)
    components = flow.of(source)
    for place in range(len(pads) // 2):
        axis = len(source.shape) - 1 - place
        before, after = pads[2 * place], pads[2 * place + 1]
        padded = []
        for component in components:
            if component.ids.shape[axis] == 1 or (before == 0 and after == 0):
                padded.append(component)
                continue
            free = value == 0 and len(component.axes) == 1 and before >= 0 and after >= 0
            ends = []
            for count in (before, after):
                shape = [max(count, 0) if a == axis else n for a, n in enumerate(component.ids.shape)]
                ends.append(flow.ledger.fresh(shape) if free else np.full(shape, FIXED, np.int64))
            size = component.ids.shape[axis]
            where: list[Any] = [slice(None)] * component.ids.ndim
            where[axis] = slice(max(-before, 0), size - max(-after, 0))
            ids = np.concatenate([ends[0], component.ids[tuple(where)], ends[1]], axis)
            inner = component.spread()[tuple(where)]
            zero = np.concatenate(
                [np.full(e.shape, float(value)) for e in ends[:1]]
                + [inner]
                + [np.full(e.shape, float(value)) for e in ends[1:]],
                axis,
            )
            padded.append(Component(ids, zero, component.why or ("" if value == 0 else f"{op} pads with {value}")))
        components = tuple(padded)
    return [components]


@rule("pixel_shuffle")
def _pixel_shuffle(flow: Flow, op: Op) -> Sequence[Components]:
    """The channels that make up one channel of the larger image go together."""
    factor = op.arg("upscale_factor")
    moved = []
    for component in flow.apart(flow.of(op.args[0]), (-1, -2), f"{op} moves pixels"):
        axis = component.ids.ndim - 3
        if component.ids.shape[axis] > 1:
            shape = component.ids.shape
            split = component.moved(
                lambda a, s=shape, x=axis: a.reshape((*s[:x], s[x] // factor**2, factor**2, *s[x + 1 :]))
            )
            tied = flow.collapse(split, [axis + 1], f"{op} moves pixels")
            component = tied.moved(lambda a, x=axis: a.squeeze(x + 1))
        moved.append(component)
    return [tuple(moved)]


@rule("pixel_unshuffle")
def _pixel_unshuffle(flow: Flow, op: Op) -> Sequence[Components]:
    factor = op.arg("downscale_factor")
    left = flow.apart(flow.of(op.args[0]), (-1, -2), f"{op} moves pixels")
    return [along_all(left, len(op.args[0].shape) - 3, lambda a: a.repeat(factor**2, a.ndim - 3))]
