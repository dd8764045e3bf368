"""ADMM with dynamic regularisation: weights are trained towards a structure that is only imposed at the end.

AutoCompress (Liu et al., AAAI 2020): min f(W) + sum_l g_l(Z_l) subject to W = Z, where g_l is 0 for weights of the
wanted structure and infinite for others. In turns

    W-step: train f(W) + sum_l rho/2 ||W_l - Z_l + U_l||^2, the norm squared (its root has no gradient at W = Z),
    Z-step: Z = projection of W + U,
    U-step: U = U + W - Z, the scaled dual.

rho doubles at every update up to a cap. U is the dual over rho, so that it is divided by what rho is multiplied by.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from supernet.errors import CheckpointError, ConfigError

Projection = Callable[[dict[str, Tensor]], Mapping[str, Tensor]]
"""Weights by name -> the nearest weights of the wanted structure; must not change its argument."""


@dataclass(frozen=True)
class AdmmSettings:
    """When rho grows, and when to stop.

    Attributes:
        rho: of the first W-step.
        growth: what rho is multiplied by at every update, at least 1.
        rho_max: cap of rho.
        primal: stop once ||W - Z|| / ||W|| is at most this,
        dual: and ||Z_k+1 - Z_k|| / ||Z_k+1|| at most this.
        blocks: W-steps at most; with the defaults rho is at its cap for the last four.

    Raises:
        ConfigError: all that is out of range.
    """

    rho: float = 1e-3
    growth: float = 2.0
    rho_max: float = 1.0
    primal: float = 0.02
    dual: float = 0.02
    blocks: int = 14

    def __post_init__(self) -> None:
        checks = [
            ("rho", self.rho, 0 < self.rho < math.inf, "above 0"),
            ("growth", self.growth, 1 <= self.growth < math.inf, "at least 1"),
            ("rho_max", self.rho_max, self.rho <= self.rho_max < math.inf, "at least rho"),
            ("primal", self.primal, self.primal >= 0, "at least 0"),
            ("dual", self.dual, self.dual >= 0, "at least 0"),
            ("blocks", self.blocks, self.blocks >= 1, "at least 1"),
        ]
        faults = [f"{name} is {value!r}; allowed: {allowed}" for name, value, fine, allowed in checks if not fine]
        if faults:
            raise ConfigError(f"ADMM: {'; '.join(faults)}")


class Residual(NamedTuple):
    """How far W and Z are apart after an update.

    Attributes:
        rho: of the W-step before it.
        primal: ||W - Z|| / ||W||, over all weights.
        dual: ||Z_k+1 - Z_k|| / ||Z_k+1||.
    """

    rho: float
    primal: float
    dual: float


class Admm:
    """The state of ADMM beside the weights, which are trained elsewhere.

    Args:
        weights: the tensors that are trained, by name; read at every call, changed never.
        project: onto the wanted structure.
        settings: rho and tolerances.

    Attributes:
        rho: of the W-step that is next or under way.
        targets: Z by name.
        duals: U by name.
        residuals: of every update so far.
    """

    def __init__(
        self, weights: Mapping[str, Tensor], project: Projection, settings: AdmmSettings | None = None
    ) -> None:
        self.weights, self.project, self.settings = dict(weights), project, settings or AdmmSettings()
        self.rho = self.settings.rho
        self.targets = self._projected({name: w.detach().clone() for name, w in self.weights.items()})
        self.duals = {name: torch.zeros_like(w, requires_grad=False) for name, w in self.weights.items()}
        self.residuals: list[Residual] = []
        self._anchors: list[Tensor] | None = None  # Z - U of the W-step, which does not move them

    def penalty(self) -> Tensor:
        """The W-step's extra loss, sum over all weights of rho/2 ||W - Z + U||^2; a scalar with a gradient."""
        if self._anchors is None:
            self._anchors = [self.targets[name] - self.duals[name] for name in self.weights]
        found: Tensor = _Pull.apply(self.rho, self._anchors, *self.weights.values())
        return found

    @torch.no_grad()
    def update(self) -> Residual:
        """The Z-step and the U-step after a W-step; then rho grows."""
        before = self.targets
        self.targets = self._projected({name: w.detach() + self.duals[name] for name, w in self.weights.items()})
        for name, weight in self.weights.items():
            self.duals[name] = self.duals[name] + weight.detach() - self.targets[name]
        whole = _norm(self.weights)
        found = Residual(
            self.rho,
            _norm({name: w - self.targets[name] for name, w in self.weights.items()}) / max(whole, 1e-30),
            _norm({name: z - before[name] for name, z in self.targets.items()}) / max(_norm(self.targets), 1e-30),
        )
        self.residuals.append(found)
        rho = min(self.rho * self.settings.growth, self.settings.rho_max)
        for name in self.duals:
            self.duals[name] = self.duals[name] * (self.rho / rho)
        self.rho, self._anchors = rho, None
        return found

    @property
    def converged(self) -> bool:
        """Whether the last update met both tolerances."""
        if not self.residuals:
            return False
        last = self.residuals[-1]
        return last.primal <= self.settings.primal and last.dual <= self.settings.dual

    @property
    def finished(self) -> bool:
        """Whether it has converged, or used up its blocks."""
        return self.converged or len(self.residuals) >= self.settings.blocks

    def state_dict(self) -> dict[str, Any]:
        """Tensors, numbers and lists of them; everything but the weights."""
        return {
            "settings": asdict(self.settings),
            "rho": self.rho,
            "targets": {name: tensor.clone() for name, tensor in self.targets.items()},
            "duals": {name: tensor.clone() for name, tensor in self.duals.items()},
            "residuals": [list(residual) for residual in self.residuals],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`.

        Raises:
            CheckpointError: it is of other weights or of other settings.
        """
        shapes = {name: tuple(weight.shape) for name, weight in self.weights.items()}
        saved = {name: tuple(tensor.shape) for name, tensor in state["targets"].items()}
        if saved != shapes or state["settings"] != asdict(self.settings):
            raise CheckpointError(
                f"ADMM: the state is of {len(saved)} weights and {state['settings']}, here are {len(shapes)} and "
                f"{asdict(self.settings)}; go on with the same model and settings, or start anew"
            )
        self.rho, self._anchors = float(state["rho"]), None
        for own, kept in ((self.targets, state["targets"]), (self.duals, state["duals"])):
            own.update({name: kept[name].to(own[name]).clone() for name in own})
        self.residuals = [Residual(*residual) for residual in state["residuals"]]

    def _projected(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Copies: a Z that shared W's memory would follow it, and no penalty would ever be felt."""
        projected = self.project(weights)
        return {name: projected[name].detach().clone() for name in self.weights}


class _Pull(torch.autograd.Function):
    """rho/2 sum ||W - A||^2 of many weights in a handful of operations, where autograd would take eight a weight."""

    @staticmethod
    def forward(ctx: Any, rho: float, anchors: list[Tensor], *weights: Tensor) -> Tensor:
        ctx.rho, ctx.differences = rho, torch._foreach_sub(weights, anchors)
        return torch.stack(torch._foreach_norm(ctx.differences)).square().sum() * (rho / 2)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return None, None, *torch._foreach_mul(ctx.differences, gradient * ctx.rho)


def _norm(tensors: Mapping[str, Tensor]) -> float:
    """Over all entries of all tensors, summed in float64."""
    return math.sqrt(sum(float(t.detach().double().square().sum()) for t in tensors.values()))
