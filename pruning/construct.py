"""`construct_subnet`: the compact model without the units that are zero, compared with the pruned one before return.

Two ways lead to it. Usually a copy of the model holds fewer channels, with torch's modules told so. Where the code of
the model fixes a size that no module knows, its exported graph is rewritten instead. Which of them holds is not
guessed: the first whose outputs equal the pruned model's is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from pruning.compact_modules import cut_modules, settings_after
from pruning.compact_program import at_least_two, cut_program
from pruning.costs import joined_masks
from pruning.partition import Partition
from pruning.placement import device_of, inputs_on, on_cpu
from pruning.plan import Plan
from pruning.trace import copy_of, evaluating
from pruning.units import Masks
from supernet.errors import ConstructionError, OnceForAllError

if TYPE_CHECKING:
    from pruning.groups import ZeroInvariantGroups

MAX_ERROR = 1e-5
"""Largest difference of outputs over the largest output that float32's rounding explains; above it float64 decides."""

_MAX_ERROR_FLOAT64 = 1e-9


@dataclass(frozen=True)
class Comparison:
    """Outputs of two models on the same inputs.

    Attributes:
        error: largest difference between the models.
        signal: largest difference of one model's outputs between two inputs.
        scale: largest output.
    """

    error: float
    signal: float
    scale: float


def construct_subnet(model: nn.Module, groups: ZeroInvariantGroups) -> tuple[nn.Module, Plan]:
    """A compact model without the units that are exactly zero; it computes the same.

    It is cut and compared on the CPU, where float32 is float32 (convolutions on CUDA round to TF32 by default).

    Args:
        model: the pruned model, on any device; is left as it is. One unit of each set stays, even if all are zero.
        groups: its zero-invariant groups, or those of a model of the same make.

    Returns:
        A new model in evaluation mode, and the plan by which it was cut.

    Raises:
        ConstructionError: no compact model was found that computes the same; nothing is returned then.
    """
    masks = []
    for mask in groups.zeroed(model):
        kept = ~mask
        if not kept.any():
            kept[0] = True
        masks.append(kept)
    return construct_kept(model, groups, masks)


def construct_kept(model: nn.Module, groups: ZeroInvariantGroups, kept: Masks) -> tuple[nn.Module, Plan]:
    """As `construct_subnet`, with the units that stay given; all others have to be zero."""
    device, model = device_of(model), on_cpu(model)
    example_inputs = inputs_on(groups.example_inputs, torch.device("cpu"))
    inputs = at_least_two(example_inputs)
    _require_finite_outputs(model, inputs)
    keep = joined_masks(groups.sets, kept)
    partition = groups.partition
    tensors = kept_positions(partition, keep)
    attributes = settings_after(model, tensors, _inputs(partition, keep), _heads(groups, kept))
    failures = []
    for form in ("modules", "program"):
        try:
            if form == "modules":
                new = cut_modules(model, tensors, attributes)
            else:
                new, extra = cut_program(model, example_inputs, partition, keep)
                tensors, attributes = {**tensors, **extra}, {}
            found = compare(model, new, inputs)
            if not found.error <= MAX_ERROR * found.scale:
                exact = compare(copy_of(model).double(), copy_of(new).double(), _doubled(inputs))
                if not exact.error <= _MAX_ERROR_FLOAT64 * exact.scale:
                    failures.append(f"{form}: outputs differ by {found.error:.1e}, of {found.scale:.1e} at most")
                    continue
        except OnceForAllError as error:
            failures.append(f"{form}: {error}")
            continue
        except Exception as error:  # whatever the model's code raises at sizes it was not written for
            failures.append(f"{form}: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
            continue
        cost, full = groups.count(kept), groups.count()
        if form == "modules":
            new.eval().to(device)
        plan = Plan(
            tensors, attributes, form, {g.name: int(k.sum()) for g, k in zip(groups.sets, kept, strict=True)},
            cost.macs, cost.params, full.macs, full.params, found.error, found.signal,
        )  # fmt: skip
        return new, plan
    raise ConstructionError(
        f"no compact {type(model).__name__} computes what the pruned one computes: {'; '.join(failures)}; "
        f"mark the parts that differ with keep=[...]"
    )


def kept_positions(partition: Partition, keep: NDArray[np.bool_]) -> dict[str, dict[int, list[int]]]:
    """By name of a parameter or buffer, by axis, the positions that stay; what stays whole is not named."""
    found: dict[str, dict[int, list[int]]] = {}
    for name, leaf in partition.flow.ledger.leaves.items():
        for axis, (first, size) in enumerate(zip(leaf.first, leaf.shape, strict=True)):
            stays = partition.kept(np.arange(first, first + size, dtype=np.int64), keep)
            if not stays.all():
                found.setdefault(name, {})[axis] = np.flatnonzero(stays).tolist()
    return found


def _require_finite_outputs(model: nn.Module, inputs: Sequence[Any]) -> None:
    """A model that gives NaN or infinity is equal to no compact one, for whatever reason it does."""
    with torch.no_grad(), evaluating(model):
        outputs = outputs_of(model(*inputs))
    if not all(bool(output.isfinite().all()) for output in outputs):
        raise ConstructionError(
            f"the pruned {type(model).__name__} itself gives outputs that are not finite, so that no compact model can "
            "be compared with it; train it again with a smaller learning rate, or see what the example inputs hold"
        )


def compare(model: nn.Module, other: nn.Module, inputs: Sequence[Any]) -> Comparison:
    """Outputs of two models in evaluation mode, on the given inputs and on others of their kind."""
    batches = [tuple(inputs), other_inputs(inputs)]
    with torch.no_grad(), evaluating(model), evaluating(other):
        ours, theirs = ([outputs_of(net(*batch)) for batch in batches] for net in (model, other))
    error = max(_distance(a, b) for a, b in zip(ours, theirs, strict=True))
    signal = _distance(ours[0], ours[1])
    scale = max((float(t.abs().max()) for out in ours for t in out if t.numel()), default=0.0)
    return Comparison(error, signal, scale)


def other_inputs(inputs: Sequence[Any], seed: int = 0) -> tuple[Any, ...]:
    """Inputs of the same shapes and ranges: noise for numbers, a shift by one for integers and booleans."""

    def other(item: Any) -> Any:
        if not isinstance(item, Tensor) or not item.numel():
            return item
        if not item.is_floating_point():
            return item.roll(1, -1) if item.dim() else item
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(item.shape, generator=generator, dtype=torch.float64)
        spread = item.double().std().cpu() if item.numel() > 1 else torch.tensor(1.0)
        return (noise * spread.clamp(min=1e-3) + item.double().mean().cpu()).to(item.device, item.dtype)

    return tuple(pytree.tree_map(other, tuple(inputs)))


def outputs_of(output: Any) -> list[Tensor]:
    """All floating-point tensors of an output."""
    if hasattr(output, "__dict__") and not isinstance(output, Tensor | tuple | list | dict):
        output = vars(output)
    return [t for t in pytree.tree_leaves(output) if isinstance(t, Tensor) and t.is_floating_point()]


def _distance(one: list[Tensor], two: list[Tensor]) -> float:
    if len(one) != len(two) or any(a.shape != b.shape for a, b in zip(one, two, strict=True)):
        return float("inf")
    worst = 0.0
    for a, b in zip(one, two, strict=True):
        if a.numel():
            difference = float((a - b).abs().max())
            if not difference <= float("inf"):
                return float("inf")  # not a number
            worst = max(worst, difference)
    return worst


def _doubled(inputs: Sequence[Any]) -> tuple[Any, ...]:
    def double(item: Any) -> Any:
        return item.double() if isinstance(item, Tensor) and item.is_floating_point() else item

    return tuple(pytree.tree_map(double, tuple(inputs)))


def _inputs(partition: Partition, keep: NDArray[np.bool_]) -> dict[str, tuple[int, bool]]:
    """By weight of a convolution or group norm, the kept channels of its input, and whether whole groups go."""
    found = {}
    for name, channels in partition.flow.channels.items():
        if isinstance(name, str):
            count = channels.count
            if channels.ids is not None:
                count = int(partition.kept(channels.ids, keep).sum())
            found[name] = (count, channels.whole)
    return found


def _heads(groups: ZeroInvariantGroups, kept: Masks) -> dict[str, list[tuple[int, int, int]]]:
    """By module path, the sets of units with several positions that are produced below it."""
    found: dict[str, list[tuple[int, int, int]]] = {}
    for group, mask in zip(groups.sets, kept, strict=True):
        width = max((entries.index.shape[1] for entries in group.consumers), default=1)
        paths = {e.name.rsplit(".", part)[0] for e in group.variables for part in (1, 2) if e.name.count(".") >= part}
        for path in paths:
            found.setdefault(path, []).append((group.units, int(mask.sum()), width))
    return found
