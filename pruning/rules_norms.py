"""Rules of operators that mix what lies along some axes: norms, softmax, reductions, windows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pruning.flow import Components, Flow, Operand, joined, rule
from pruning.provenance import Component, Numbers
from pruning.trace import Op, Value

_NORM_REASON = "normalises over its channels together"


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
