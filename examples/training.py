"""What the examples share: one training with or without pruning, and its record."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from pruning import DHSPG, Plan, ZeroInvariantGroups, construct_subnet
from supernet.files import write_json

RESULTS = Path(__file__).parent / "results"


def figures_of(plan: Plan, met_by_step: int) -> dict[str, Any]:
    """What every example writes down of a compact network: its cost, and how exactly it computes the same."""
    return {
        "macs": plan.macs,
        "params": plan.params,
        "macs_share": plan.macs / plan.full_macs,
        "params_share": plan.params / plan.full_params,
        "largest_error": plan.error,
        "signal": plan.signal,
        "met_by_step": met_by_step,
    }


def dense_and_pruned(
    name: str,
    make: Callable[[], nn.Module],
    example: Tensor,
    loss_of: Callable[[nn.Module, int], Tensor],
    measure: Callable[[nn.Module], float],
    *,
    metric: str,
    steps: int,
    target: str,
    rate: float,
) -> dict[str, Any]:
    """Train a network twice from the same start, dense and pruned to the target, and write down what both reach.

    Args:
        name: of the file in `RESULTS`.
        make: the untrained network, the same at each call.
        example: a batch of its input.
        loss_of: loss of a network on the batch of a step.
        measure: its quality on data that it was not trained on.
        metric: what `measure` is.
        steps: of either training; pruning starts after an eighth of them and takes three eighths.
        target: what is to be met.
        rate: the highest learning rate of AdamW; along a cosine to zero.
    """
    found: dict[str, Any] = {"metric": metric, "steps": steps, "target": target}
    for arm in ("dense", "pruned"):
        net = make()
        groups = ZeroInvariantGroups(net, example)
        optimizer: Any = AdamW(net.parameters(), lr=rate, weight_decay=1e-4)
        if arm == "pruned":
            optimizer = DHSPG(
                optimizer, groups, target=target, start_pruning_step=steps // 8, pruning_steps=3 * steps // 8
            )
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: min((step + 1) / 20, 1) * (1 + math.cos(math.pi * step / steps)) / 2
        )
        for step in range(steps):
            net.train()
            loss = loss_of(net, step)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        net.eval()
        found[arm] = {metric: measure(net), "macs": groups.count().macs, "params": groups.count().params}
        if arm == "pruned":
            compact, plan = construct_subnet(net, groups)
            found[arm] = {
                metric: measure(compact),
                f"{metric}_before_cutting": found[arm][metric],
                **figures_of(plan, optimizer.end_step),
            }
        print(f"{name}, {arm}: {found[arm]}", flush=True)
    write_json(RESULTS / f"{name}.json", found)
    return found
