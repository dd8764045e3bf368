"""HESSO, the hybrid efficient structured sparse optimiser (2024): redundant units fade out, in periods of choice.

Beside `DHSPG` it needs no penalty and no projection: a redundant unit is what the wrapped optimiser makes of it, times
a factor that brings it to zero by the end of its period. Units are chosen a share at a time, so that the later ones are
judged by a network that has already lost the earlier.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim import Optimizer

from pruning.flat import FlatUnits
from pruning.group_sparse import GroupSparseOptimizer
from pruning.redundancy import Redundancy
from pruning.targets import Latencies, PrunableGroups, Target


class HESSO(GroupSparseOptimizer):
    """Fade redundant units out over each of a few periods.

    After the wrapped optimiser's step, a unit that was chosen in this period is multiplied by (left - 1)/left, where
    left counts the steps to the period's end, this one included.

    Args:
        optimizer, groups, target, start_pruning_step, pruning_steps, periods, divisible, min_share, score,
            latencies: see `GroupSparseOptimizer`.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        groups: PrunableGroups,
        *,
        target: Target | str,
        start_pruning_step: int,
        pruning_steps: int,
        periods: int = 5,
        divisible: int = 1,
        min_share: float = 0.1,
        score: str | Redundancy = "oto",
        latencies: Latencies | None = None,
    ) -> None:
        super().__init__(
            optimizer,
            groups,
            target=target,
            start_pruning_step=start_pruning_step,
            pruning_steps=pruning_steps,
            periods=max(1, min(periods, pruning_steps)),
            divisible=divisible,
            min_share=min_share,
            score=score,
            latencies=latencies,
        )

    def _shrink(self, units: FlatUnits, zero: Tensor, remaining: int | None) -> Tensor:
        assert remaining is not None
        self.base.step()
        factors = torch.full(zero.shape, (remaining - 1) / remaining, dtype=torch.float64, device=zero.device)
        units.scale(factors.masked_fill_(zero, 0))
        return torch.ones_like(zero) if remaining == 1 else zero
