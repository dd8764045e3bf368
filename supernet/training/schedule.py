"""One stage of a training: which subnets train, who teaches them, for how long, at which learning rate."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from supernet.arch import Value
from supernet.errors import ConfigError, one_of
from supernet.spaces import Kind

Sampling = Literal["random", "sandwich"]
Teacher = Literal["none", "frozen", "in-place"]
Divergence = Literal["cross-entropy", "alpha"]
_CHOICES: dict[str, tuple[str, ...]] = {
    "sampling": ("random", "sandwich"),
    "teacher": ("none", "frozen", "in-place"),
    "divergence": ("cross-entropy", "alpha"),
}


@dataclass(frozen=True)
class Stage:
    """A part of a training with one rule for all its steps.

    Attributes:
        name: unique within the recipe.
        epochs: passes over the training part; may be 0 (the stage is left out).
        warmup_epochs: of these, the first ones (or a part of one), in which the learning rate rises linearly.
        learning_rate: greatest learning rate.
        subnets_per_step: subnets whose gradients are summed before a step.
        greatest: kind -> how many values of each dimension to draw from, the greatest ones; all where it is absent.
        choices: kind -> the only values to draw from, for all dimensions of the kind; all where it is absent.
        sampling: "random": all subnets of a step are drawn, at one common resolution. "sandwich": the largest, then
            drawn ones, then the smallest, each at its own resolution.
        teacher: who gives soft labels. "frozen": the largest network as the first stage left it, beside the true
            labels. "in-place": the largest network of this very step, to all others.
        label_ratio: weight of the true labels beside a teacher in place; 0: taught subnets see no true label.
        taught_dropout: whether subnets that a teacher in place teaches have dropout, as the largest network has.
        divergence: how far a subnet is from its teacher.
        sort_channels: expand ratios trained before; channels are sorted at the stage's start. None: no sorting.
        trained_widths: width multipliers trained before, for the sorting; None: all, or the space has none.
        cosine: part of one cosine that this stage's learning rate passes through, as shares of it; (0, 1) is a whole
            one, (0.5, 1) the second half (for a stage that goes on where another stopped).
        ramp_epochs: first epochs in which the gradient of all subnets but the largest is scaled up from 0 to 1.
    """

    name: str
    epochs: int
    warmup_epochs: float
    learning_rate: float
    subnets_per_step: int
    greatest: Mapping[Kind, int] = field(default_factory=dict)
    choices: Mapping[Kind, tuple[Value, ...]] = field(default_factory=dict)
    sampling: Sampling = "random"
    teacher: Teacher = "none"
    label_ratio: float = 0.0
    taught_dropout: bool = True
    divergence: Divergence = "cross-entropy"
    sort_channels: tuple[Value, ...] | None = None
    trained_widths: tuple[Value, ...] | None = None
    cosine: tuple[float, float] = (0.0, 1.0)
    ramp_epochs: float = 0.0

    def __post_init__(self) -> None:
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ConfigError(f"stage {self.name!r}: {one_of(name, getattr(self, name), allowed)}")
        if self.sampling == "sandwich" and self.subnets_per_step < 2:
            raise ConfigError(
                f"stage {self.name!r} has {self.subnets_per_step} subnet(s) a step; a sandwich is 2 or more"
            )
        if self.teacher == "in-place" and self.sampling != "sandwich":
            raise ConfigError(f"stage {self.name!r}: a teacher in place needs sampling 'sandwich'")

    def learning_rate_at(self, step: int, steps_per_epoch: int) -> float:
        """A cosine (or the stage's part of one) over the stage's steps, after a linear warm-up."""
        warmup, total = round(self.warmup_epochs * steps_per_epoch), self.epochs * steps_per_epoch
        if step < warmup:
            return self.learning_rate * (step + 1) / warmup
        start, stop = self.cosine
        done = start + (stop - start) * (step - warmup) / max(1, total - warmup)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * done))

    def subnet_weight_at(self, step: int, steps_per_epoch: int) -> float:
        """Scale of the gradients of all subnets but the largest, in (0, 1]."""
        return min(1.0, (step + 1) / max(1, round(self.ramp_epochs * steps_per_epoch)))

    def to_dict(self) -> dict[str, Any]:
        """JSON types."""
        return asdict(self) | {
            "choices": {kind: list(values) for kind, values in self.choices.items()},
            "cosine": list(self.cosine),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Stage:
        """The inverse of `to_dict`."""
        plain = dict(data)
        plain["choices"] = {kind: tuple(values) for kind, values in plain["choices"].items()}
        plain["cosine"] = tuple(plain["cosine"])
        for name in ("sort_channels", "trained_widths"):
            if plain.get(name) is not None:
                plain[name] = tuple(plain[name])
        return cls(**plain)
