"""A check of a partition by doing: zero units at random, construct the compact model, compare.

It runs on a copy whose parameters tell something: an untrained network has biases of zero and batch norms that know no
data, so that a forgotten bias or a vanished signal would go unseen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils import _pytree as pytree

from pruning.construct import construct_subnet, other_inputs
from pruning.placement import inputs_on, on_cpu
from pruning.plan import Plan
from pruning.trace import copy_of, evaluating

if TYPE_CHECKING:
    from pruning.groups import ZeroInvariantGroups

_CALIBRATION_EXAMPLES = 16


class SelfTest(NamedTuple):
    """Outcome of a self-test, in units of the model's outputs.

    Attributes:
        error: largest difference between the compact and the zeroed model.
        signal: largest difference of the outputs between two inputs; an error says something only beside it.
    """

    error: float
    signal: float


def self_test(groups: ZeroInvariantGroups, fraction: float = 0.5, seed: int = 0) -> SelfTest:
    """Zero a random share of each set's units in a telling copy of the model, construct, and compare.

    Args:
        groups: of the model to test; the model is left as it is.
        fraction: share of units to zero.
        seed: of the choice and of the copy's parameters.

    Raises:
        ConstructionError: the compact model does not compute the same.
    """
    plan = run(groups, fraction, seed)[1]
    return SelfTest(plan.error, plan.signal)


def run(groups: ZeroInvariantGroups, fraction: float, seed: int) -> tuple[nn.Module, Plan]:
    """As `self_test`: the compact model and its plan."""
    inputs = inputs_on(groups.example_inputs, torch.device("cpu"))
    model = telling_copy(on_cpu(groups.model), inputs, seed)
    groups.zero(model, groups.random_masks(fraction, seed))
    return construct_subnet(model, groups)


@torch.no_grad()
def telling_copy(model: nn.Module, example_inputs: Sequence[Any], seed: int = 0) -> nn.Module:
    """A copy in which no parameter is constant, with batch norms calibrated on noise like the example inputs."""
    copy = copy_of(model)
    generator = torch.Generator().manual_seed(seed)
    for parameter in copy.parameters():
        if (
            parameter.numel() > 1
            and parameter.is_floating_point()
            and bool((parameter == parameter.flatten()[0]).all())
        ):
            parameter.copy_(_telling(parameter, generator))
    norms = [m for m in copy.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    if norms:
        with evaluating(copy):
            momenta = [norm.momentum for norm in norms]
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum = None  # the plain average
                norm.training = True
            copy(*_many(example_inputs, seed))
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum
    return copy


def _telling(parameter: Tensor, generator: torch.Generator) -> Tensor:
    value = float(parameter.flatten()[0])
    shape = parameter.shape
    if value != 0:  # a scale: of a norm, of a layer
        return torch.rand(shape, generator=generator).add(0.5).to(parameter)
    fan = math.prod(shape[1:]) if parameter.dim() > 1 else 100
    return torch.randn(shape, generator=generator).div(math.sqrt(fan)).to(parameter)


def _many(example_inputs: Sequence[Any], seed: int) -> tuple[Any, ...]:
    """Inputs like the examples, enough of them for a batch norm at a resolution of one pixel."""

    def repeat(item: Any) -> Any:
        if not isinstance(item, Tensor) or not item.dim():
            return item
        times = -(-_CALIBRATION_EXAMPLES // max(item.shape[0], 1))
        return item.repeat(times, *[1] * (item.dim() - 1))

    return other_inputs(pytree.tree_map(repeat, tuple(example_inputs)), seed)
