"""DHSPG, the dual half-space projected gradient method of OTOv2 (ICLR 2023, section 4), around any optimiser of torch.

Redundant units take trial steps that also shrink them, x - lr d - lr lambda x/||x||, and are projected to zero where
such a step leaves the half-space around them, <trial, x> < epsilon ||x||^2. All other units are left to the wrapped
optimiser.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Optimizer

from pruning.flat import FlatUnits
from pruning.group_sparse import GroupSparseOptimizer
from pruning.redundancy import Redundancy
from pruning.targets import Latencies, PrunableGroups, Target
from supernet.errors import ConfigError

CHECK_EVERY = 16
"""Steps between looks whether fixed penalties have made all units zero, for which a GPU has to be waited for."""


@dataclass(frozen=True)
class FixedPenalty:
    """The paper's penalty, whose size does not know of a deadline: it says when units reach zero, and if they do.

    lambda_g is `strength` where the wrapped optimiser's direction d shrinks the unit, <x, d> >= 0. Elsewhere it lies
    between lo = -<x, d>/||x||, above which the norm falls, and hi = -||d||^2 ||x||/<x, d>, below which the step is
    still one of descent: at `amplify` lo, but within `strength` and `ceiling` times it, and (lo + hi)/2 where that
    reaches hi.

    Attributes:
        strength: lambda.
        amplify: factor on the lower bound, above 1.
        ceiling: greatest multiple of `strength`.

    Raises:
        ConfigError: one of them is out of range.
    """

    strength: float = 1e-3
    amplify: float = 2.0
    ceiling: float = 10.0

    def __post_init__(self) -> None:
        faults = [
            f"{name} is {value!r}; allowed: {'above' if open_ else 'at least'} {least}"
            for name, value, least, open_ in (
                ("strength", self.strength, 0, True),
                ("amplify", self.amplify, 1, True),
                ("ceiling", self.ceiling, 1, False),
            )
            if not (value > least or (value == least and not open_))
        ]
        if faults:
            raise ConfigError(f"FixedPenalty: {'; '.join(faults)}")

    @classmethod
    def published(cls, optimizer: Optimizer) -> FixedPenalty:
        """The defaults of the authors' package (2.0.16) for SGD, or else for Adam and AdamW."""
        return cls() if isinstance(optimizer, SGD) else cls(1e-2, 20.0, 1e3)


class DHSPG(GroupSparseOptimizer):
    """Dual half-space projected gradient: prune while training, and meet the target by a stated step.

    By default lambda_g follows from what is left: of all redundant units, the component along themselves falls each
    step by 1/(steps left) of its length, by the wrapped optimiser's step and as much of the penalty as that takes. So
    lr lambda_g = max(0, ||x||/(steps left) - <x, lr d>/||x||): the sum of lr lambda_g over the steps left is about
    ||x||, whatever the learning rates are, and the last step projects what is left.

    Args:
        optimizer, groups, target, start_pruning_step, pruning_steps, periods, divisible, min_share, score,
            latencies: see `GroupSparseOptimizer`.
        penalty: None: as above. Else the paper's, which meets the target when it does: `pruning_steps` then says no
            more than the last period's choice.
        epsilon: of the half-space, 0 to below 1; the greater, the earlier a unit is projected.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        groups: PrunableGroups,
        *,
        target: Target | str,
        start_pruning_step: int,
        pruning_steps: int,
        periods: int = 1,
        divisible: int = 1,
        min_share: float = 0.1,
        score: str | Redundancy = "oto",
        latencies: Latencies | None = None,
        penalty: FixedPenalty | None = None,
        epsilon: float = 0.0,
    ) -> None:
        if not 0 <= epsilon < 1:
            raise ConfigError(f"DHSPG: epsilon is {epsilon!r}; allowed: 0 or more and below 1")
        self.penalty, self.epsilon = penalty, epsilon
        super().__init__(
            optimizer,
            groups,
            target=target,
            start_pruning_step=start_pruning_step,
            pruning_steps=pruning_steps,
            periods=periods,
            divisible=divisible,
            min_share=min_share,
            score=score,
            latencies=latencies,
        )

    def _shrink(self, units: FlatUnits, zero: Tensor, remaining: int | None) -> Tensor:
        units.remember()
        if self.penalty is None:
            self.base.step()
            if remaining == 1:
                zero = torch.ones_like(zero)
            # x - y is what the wrapped optimiser's step took; lr lambda_g/||x|| is what lacks to the share 1/remaining.
            return units.pull(1 / (remaining or 1), self.epsilon, zero)
        rates = self._rates(units)  # before the step: it is these that the step uses
        self.base.step()
        xx, xy, yy = units.products()
        factors = _fixed(self.penalty, rates, xx, xx - xy, xx - 2 * xy + yy)
        gone = (xy - factors * xx <= self.epsilon * xx) | (xx == 0) | zero
        units.shift(factors, gone)
        return gone

    def _all_zero(self, done: int) -> bool:
        if self.penalty is None:
            return super()._all_zero(done)
        return done % CHECK_EVERY == 0 and bool(self._zero.all())

    def _rates(self, units: FlatUnits) -> Tensor:
        """Learning rate of every chosen unit: the one of its set's first parameter; float64 (units.count)."""
        rates = {id(tensor): float(group["lr"]) for group in self.param_groups for tensor in group["params"]}
        by_set = [rates.get(id(self._tensors[unit_set.variables[0].name]), 0.0) for unit_set in self.groups.sets]
        units_of_set = torch.tensor([unit_set.units for unit_set in self.groups.sets])
        every = torch.tensor(by_set, dtype=torch.float64).repeat_interleave(units_of_set)
        return every[self._redundant].to(units.device)

    def _settings(self) -> dict[str, Any]:
        return {**super()._settings(), "penalty": repr(self.penalty), "epsilon": self.epsilon}


def _fixed(penalty: FixedPenalty, rates: Tensor, xx: Tensor, xd: Tensor, dd: Tensor) -> Tensor:
    """Lr lambda_g/||x|| of the paper (algorithm 2).

    Args:
        penalty: its constants.
        rates: learning rates lr.
        xx: <x, x>.
        xd: <x, lr d>.
        dd: <lr d, lr d>.
    """
    norm = xx.sqrt()
    plain = rates * penalty.strength
    low, high = -xd / norm, -dd * norm / xd  # times lr, as they are of lr d
    bounded = (penalty.amplify * low).clamp(min=plain, max=penalty.ceiling * plain)
    bounded = torch.where(bounded >= high, (low + high) / 2, bounded)
    return torch.where(xd >= 0, plain, bounded) / norm
