"""Stages of a training: which subnets train, for how long, at which learning rate.

Source: Cai et al., "Once-for-All", ICLR 2020, section 3.3 and appendix B (progressive shrinking).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from supernet.arch import Value
from supernet.errors import ConfigError
from supernet.spaces import Kind, SearchSpace


@dataclass(frozen=True)
class Stage:
    """One stage of progressive shrinking.

    Attributes:
        name: unique within the recipe.
        epochs: passes over the training part; may be 0 (the stage is left out).
        warmup_epochs: of these, the first ones (or a part of one), in which the learning rate rises linearly.
        learning_rate: greatest learning rate.
        subnets_per_step: subnets whose gradients are summed before a step.
        choices: kind -> values to draw from; a kind that is absent draws from all.
        distil: whether the largest network's outputs are a second target.
        sort_channels: expand ratios trained before; channels are sorted at the stage's start. None: no sorting.
    """

    name: str
    epochs: int
    warmup_epochs: float
    learning_rate: float
    subnets_per_step: int
    choices: Mapping[Kind, tuple[Value, ...]]
    distil: bool = True
    sort_channels: tuple[Value, ...] | None = None

    def learning_rate_at(self, step: int, steps_per_epoch: int) -> float:
        """Cosine to 0 over the stage's steps, after a linear warm-up."""
        warmup, total = round(self.warmup_epochs * steps_per_epoch), self.epochs * steps_per_epoch
        if step < warmup:
            return self.learning_rate * (step + 1) / warmup
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))

    def to_dict(self) -> dict[str, Any]:
        """JSON types."""
        return asdict(self) | {"choices": {kind: list(values) for kind, values in self.choices.items()}}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Stage:
        """The inverse of `to_dict`."""
        plain = dict(data)
        plain["choices"] = {kind: tuple(values) for kind, values in plain["choices"].items()}
        if plain["sort_channels"] is not None:
            plain["sort_channels"] = tuple(plain["sort_channels"])
        return cls(**plain)


STAGE_NAMES = ("largest", "kernel", "depth1", "depth2", "width1", "width2")
SMALL_IMAGE_SHARES = {"largest": 0.35, "kernel": 0.09, "depth1": 0.045, "depth2": 0.09, "width1": 0.045, "width2": 0.38}
SMALL_IMAGE_RATES = {"largest": 0.1, "kernel": 0.05, "depth1": 0.02, "depth2": 0.05, "width1": 0.03, "width2": 0.08}
"""Our preset for small images: shares of all epochs, and learning rates for batches of 32.

The ImageNet schedule spends nothing on the largest network, which it downloads trained; here it takes a third. The last
stage, in which all subnets train, takes another: with a quarter and a lower rate the smallest subnet of
`mobilenet_v3_tiny` on digits was 1 to 4 points worse on held-out images at equal cost.
"""


def split_epochs(total: int) -> dict[str, int]:
    """Divide epochs among the stages by `SMALL_IMAGE_SHARES`, each at least 1.

    Raises:
        ConfigError: fewer epochs than stages.
    """
    if total < len(STAGE_NAMES):
        raise ConfigError(
            f"{total} epochs for {len(STAGE_NAMES)} stages; give at least {len(STAGE_NAMES)}, or name stages: "
            "largest=10,kernel=2"
        )
    epochs = {name: max(1, int(total * share)) for name, share in SMALL_IMAGE_SHARES.items()}
    while sum(epochs.values()) > total:  # few epochs: the stages' least lengths are more than their shares
        epochs[max(epochs, key=epochs.__getitem__)] -= 1
    epochs["width2"] += total - sum(epochs.values())
    return epochs


def progressive_shrinking(
    space: SearchSpace, epochs: Mapping[str, int], learning_rates: Mapping[str, float]
) -> tuple[Stage, ...]:
    """The largest network first, then elastic kernels, depths and widths, each with the earlier ones kept elastic.

    Args:
        space: the search space; elastic kinds that it lacks drop their stages.
        epochs: stage name -> epochs, for every name in `STAGE_NAMES`.
        learning_rates: stage name -> greatest learning rate, likewise.

    Raises:
        ConfigError: unknown or missing stage names, negative epochs, or no epoch at all.
    """
    unknown = sorted({*epochs, *learning_rates} - set(STAGE_NAMES))
    missing = [name for name in STAGE_NAMES if name not in epochs or name not in learning_rates]
    if unknown or missing:
        raise ConfigError(f"stages: unknown {unknown}, missing {missing}; the stages are {', '.join(STAGE_NAMES)}")
    negative = {name: count for name, count in epochs.items() if count < 0}
    if negative or not any(epochs.values()):
        raise ConfigError(f"epochs are {dict(epochs)}; allowed: 0 or more a stage, at least 1 in all")

    def choices(kernels: int | None, depths: int, expands: int) -> dict[Kind, tuple[Value, ...]]:
        """The greatest so-many values of each kind (None: all)."""
        counts: dict[Kind, int | None] = {"kernel": kernels, "depth": depths, "expand": expands}
        result: dict[Kind, tuple[Value, ...]] = {}
        for kind, count in counts.items():
            values = sorted({v for dim in space.dimensions if dim.kind == kind for v in _top(dim.choices, count)})
            if values:
                result[kind] = tuple(values)
        return result

    expand_choices = sorted({v for dim in space.dimensions if dim.kind == "expand" for v in dim.choices}, reverse=True)
    plan: list[tuple[str, int, dict[Kind, tuple[Value, ...]], tuple[Value, ...] | None]] = [
        ("largest", 1, choices(1, 1, 1), None),
        ("kernel", 1, choices(None, 1, 1), None),
        ("depth1", 2, choices(None, 2, 1), None),
        ("depth2", 2, choices(None, 3, 1), None),
        ("width1", 4, choices(None, 3, 2), tuple(expand_choices[:1])),
        ("width2", 4, choices(None, 3, 3), tuple(expand_choices[:2])),
    ]
    return tuple(
        Stage(
            name,
            epochs=epochs[name],
            warmup_epochs=0.1 * epochs[name],
            learning_rate=learning_rates[name],
            subnets_per_step=subnets,
            choices=restricted,
            distil=name != "largest",
            sort_channels=trained,
        )
        for name, subnets, restricted, trained in plan
        if epochs[name]
    )


def _top(values: tuple[Value, ...], count: int | None) -> tuple[Value, ...]:
    return values if count is None else values[-count:]
