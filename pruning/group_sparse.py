"""What DHSPG and HESSO share: they wrap an optimiser, choose redundant units when it is time, and keep zeros zero."""

from __future__ import annotations

from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import LBFGS, Optimizer

from pruning.flat import FlatUnits, flat_units
from pruning.redundancy import Redundancy, UnitSums, redundancy
from pruning.targets import Choice, Latencies, Order, PrunableGroups, Target, choose, costs_of
from pruning.units import parameters_by_name
from supernet.errors import CheckpointError, ConfigError

_STATE = "pruning"
_STATE_VERSION = 1


class GroupSparseOptimizer(Optimizer):
    """An optimiser of torch that also prunes: after a stated step, units are zero and the target is met.

    It stands where the wrapped optimiser stood: in learning rate schedulers, `GradScaler`, and training loops. It
    shares the wrapped optimiser's parameter groups and state. Units that are not chosen, and all other parameters, take
    exactly the wrapped optimiser's steps. A step that `GradScaler` skips is not counted.

    Training in many processes (DDP) needs nothing more: parameters and averaged gradients are the same in all of them,
    and all sums here are taken in a fixed order, so that all choose the same units.

    Args:
        optimizer: the optimiser to wrap; any of `torch.optim` whose step needs no closure: SGD, Adam, AdamW, ...
        groups: the zero-invariant groups of the model that it trains.
        target: what is to be met, a `Target` or its text, such as ``macs=0.5``.
        start_pruning_step: steps of the wrapped optimiser alone, before units are chosen.
        pruning_steps: steps from the choice until all chosen units are zero and the target is met.
        periods: how many times units are chosen, at equal distances within `pruning_steps`.
        divisible: a set that loses units keeps a multiple of it.
        min_share: least share of every set's units that stay; one always does. Above 0 by default, since a layer of a
            single channel costs accuracy that no later training brings back.
        score: what makes a unit redundant; a name in `REDUNDANCIES`, or a function of `UnitSums`.
        latencies: device -> latency of the compact model in ms as a function of the kept units, for a target that
            limits it.

    Raises:
        ConfigError: a setting is out of range, parameters are not the model's or unknown, or the optimiser needs
            closures.
        InfeasibleBudgetError: the target is out of reach; the message says what can be reached.
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
    ) -> None:
        # Not Optimizer.__init__, which would make groups and state of its own.
        self.base = optimizer
        for hooks in ("step_pre", "step_post", "state_dict_pre", "state_dict_post"):
            setattr(self, f"_optimizer_{hooks}_hooks", OrderedDict())
        self._optimizer_load_state_dict_pre_hooks = OrderedDict()
        self._optimizer_load_state_dict_post_hooks = OrderedDict()
        self._patch_step_function()
        faults = [
            f"{name} is {value!r}; allowed: whole numbers from {least}"
            for name, value, least in (
                ("start_pruning_step", start_pruning_step, 0),
                ("pruning_steps", pruning_steps, 1),
                ("periods", periods, 1),
                ("divisible", divisible, 1),
            )
            if value != int(value) or value < least
        ]
        if not faults and periods > pruning_steps:
            faults.append(f"periods is {periods}; allowed: at most one a pruning step, {pruning_steps}")
        if not 0 <= min_share <= 1:
            faults.append(f"min_share is {min_share!r}; allowed: 0 to 1")
        if isinstance(optimizer, LBFGS | GroupSparseOptimizer):
            faults.append(
                f"cannot wrap {type(optimizer).__name__}; allowed: optimisers of torch that step once "
                "a gradient, such as SGD, Adam and AdamW"
            )
        if faults:
            raise ConfigError(f"{type(self).__name__}: {'; '.join(faults)}")
        self.groups = groups
        self.target = Target.parse(target) if isinstance(target, str) else target
        self.start_pruning_step, self.pruning_steps, self.periods = start_pruning_step, pruning_steps, periods
        self.divisible, self.min_share = divisible, min_share
        self.latencies, self._score = latencies, redundancy(score)
        self.steps = 0
        self._tensors, self._fixed = _trained(optimizer, groups)
        self._zero: Tensor
        none = torch.zeros(sum(unit_set.units for unit_set in groups.sets), dtype=torch.bool)
        self._take(none, none)
        self._met = False
        self._choose_by([torch.zeros(unit_set.units) for unit_set in groups.sets])  # whether it can be reached

    # Shared with the wrapped optimiser, whose load_state_dict makes new ones.
    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """The wrapped optimiser's."""
        return self.base.param_groups

    @property
    def state(self) -> Any:  # type: ignore[override]
        """The wrapped optimiser's."""
        return self.base.state

    @property
    def defaults(self) -> dict[str, Any]:  # type: ignore[override]
        """The wrapped optimiser's."""
        return self.base.defaults

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Give the wrapped optimiser more parameters; they are not pruned."""
        self.base.add_param_group(param_group)

    @property
    def end_step(self) -> int:
        """Number of steps after which all chosen units are zero."""
        return self.start_pruning_step + self.pruning_steps

    @property
    def phase(self) -> str:
        """``before``, ``during`` or ``after`` pruning."""
        return "after" if self._met else "before" if self.steps <= self.start_pruning_step else "during"

    @property
    def redundant(self) -> tuple[Tensor, ...]:
        """Masks of the units chosen to go so far; one bool tensor (units) a set."""
        return self._by_set(self._redundant)

    @property
    def zero(self) -> tuple[Tensor, ...]:
        """Masks of the units that are zero and stay so; one bool tensor (units) a set."""
        return self._by_set(self._zero_of_all())

    @property
    def costs(self) -> dict[str, float]:
        """Exact costs of the compact model without the units that are zero by now."""
        return costs_of(self.groups, tuple(~mask for mask in self.zero), self.latencies)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of the wrapped optimiser and, when it is time, one of pruning.

        Args:
            closure: evaluates the model and returns the loss; called once, before anything changes.
        """
        # Nothing here is recorded for autograd: `FlatUnits` works on detached tensors, the wrapped optimiser sees to
        # itself. So there is no `no_grad`, which on small networks would be 1 % of the step.
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        done = self.steps - self.start_pruning_step
        if done < 0 or self._met:
            self.base.step()
            if self._met and self._units.count:
                self._units.clear()
        else:
            remaining = None
            if done < self.pruning_steps:
                period = ((done + 1) * self.periods - 1) // self.pruning_steps
                if done == self._first_of(period):
                    self._choose(period)
                remaining = self._first_of(period + 1) - done
            self._zero = self._shrink(self._units, self._zero, remaining)
            self._met = done >= self._first_of(self.periods - 1) and self._all_zero(done + 1)
        self.steps += 1
        return loss

    @abstractmethod
    def _shrink(self, units: FlatUnits, zero: Tensor, remaining: int | None) -> Tensor:
        """Step the wrapped optimiser, move the chosen units towards zero, and keep those in `zero` there.

        Args:
            units: the chosen units.
            zero: bool (units.count).
            remaining: steps until they must all be zero, this one included; None: that step is over.

        Returns:
            Which are zero now, bool (units.count).
        """

    def _all_zero(self, done: int) -> bool:
        """Whether every chosen unit is zero, `done` steps after the start of pruning; may be noticed late."""
        return done >= self.pruning_steps

    def _settings(self) -> dict[str, Any]:
        """What decides the weights, besides the wrapped optimiser's own settings; plain types."""
        return {
            "method": type(self).__name__,
            "target": str(self.target),
            "start_pruning_step": self.start_pruning_step,
            "pruning_steps": self.pruning_steps,
            "periods": self.periods,
            "divisible": self.divisible,
            "min_share": self.min_share,
            "score": getattr(self._score, "__name__", type(self._score).__name__),
            "units": {unit_set.name: unit_set.units for unit_set in self.groups.sets},
        }

    def state_dict(self) -> dict[str, Any]:
        """The wrapped optimiser's state dict, and under ``pruning`` all that going on takes."""
        own = {
            "version": _STATE_VERSION,
            "settings": self._settings(),
            "steps": self.steps,
            "met": self._met,
            "redundant": self._redundant.clone(),
            "zero": self._zero_of_all(),
        }
        return {**self.base.state_dict(), _STATE: own}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken; the weights are the model's own state and are loaded with it.

        Raises:
            CheckpointError: it is not of such an optimiser, or was made with other settings.
        """
        own = state_dict.get(_STATE)
        if not isinstance(own, dict) or own.get("version") != _STATE_VERSION:
            raise CheckpointError(
                f"this is no state of {type(self).__name__}: it lacks {_STATE!r} (version {_STATE_VERSION}); load the "
                "state of a plain optimiser into the wrapped one, before wrapping it"
            )
        differing = [
            f"{name} {own['settings'].get(name)!r} (here {value!r})"
            for name, value in self._settings().items()
            if own["settings"].get(name) != value
        ]
        if differing:
            raise CheckpointError(
                f"the state was saved with {'; '.join(differing)}; make the optimiser with the same "
                "settings, then load it"
            )
        self.base.load_state_dict({name: value for name, value in state_dict.items() if name != _STATE})
        self.steps, self._met = own["steps"], own["met"]
        self._take(own["redundant"].cpu(), own["zero"].cpu())

    def __getstate__(self) -> dict[str, Any]:
        raise TypeError(f"{type(self).__name__} cannot be copied or pickled; save its state_dict() instead")

    def _first_of(self, period: int) -> int:
        """Step of a period's choice, counted from `start_pruning_step`."""
        return period * self.pruning_steps // self.periods

    def _choose(self, period: int) -> None:
        """Choose the units that are to be zero at the end of this period."""
        scores = self._scores().masked_fill(self._redundant, torch.inf)
        order, choice = self._choose_by(self._by_set(scores))
        new = max(0, choice.cuts - order.gone)
        cuts = order.gone + -(-new // (self.periods - period))
        redundant = torch.cat([*order.cut(cuts), torch.zeros(0, dtype=torch.bool)])
        self._take(redundant, self._zero_of_all())

    def _choose_by(self, scores: list[Tensor] | tuple[Tensor, ...]) -> tuple[Order, Choice]:
        order = Order(self.groups.sets, scores, divisible=self.divisible, min_share=self.min_share, fixed=self._fixed)
        return order, choose(self.groups, order, self.target, self.latencies)

    def _scores(self) -> Tensor:
        """Redundancy of every unit, float64 on the CPU."""
        sets = self.groups.sets
        units = FlatUnits(self._tensors, sets, torch.ones_like(self._redundant))
        numbers = units.gather()
        gradients = units.gather([_gradient(tensor) for tensor in units.tensors])
        sums = UnitSums(
            numbers=units.sizes.cpu(),
            square=units.sums(numbers * numbers).cpu(),
            gradient_square=units.sums(gradients * gradients).cpu(),
            inner=units.sums(numbers * gradients).cpu(),
            set_of_unit=torch.arange(len(sets)).repeat_interleave(torch.tensor([group.units for group in sets])),
        )
        return self._score(sums).double()

    def _take(self, redundant: Tensor, zero: Tensor) -> None:
        """Look at these units from now on; both bool (units of all sets)."""
        self._redundant = redundant
        self._units = flat_units(self._tensors, self.groups.sets, redundant)
        self._zero = zero[redundant].to(self._units.device)

    def _zero_of_all(self) -> Tensor:
        zero = torch.zeros_like(self._redundant)
        zero[self._redundant] = self._zero.cpu()
        return zero

    def _by_set(self, values: Tensor) -> tuple[Tensor, ...]:
        return tuple(values.split_with_sizes([unit_set.units for unit_set in self.groups.sets]))


def _trained(optimizer: Optimizer, groups: PrunableGroups) -> tuple[dict[str, Tensor], frozenset[int]]:
    """Parameters by name, and the sets that keep all units because a parameter of theirs is not trained."""
    tensors = parameters_by_name(groups.model)
    names = {entries.name for unit_set in groups.sets for entries in unit_set.variables}
    if unknown := sorted(names - set(tensors)):
        raise ConfigError(
            f"the groups name {len(unknown)} parameters that the model lacks, such as {unknown[0]!r}; "
            "make the groups again from the model as it is now"
        )
    given = {id(tensor) for group in optimizer.param_groups for tensor in group["params"]}
    if not given & {id(tensor) for tensor in tensors.values()}:
        raise ConfigError(
            f"none of the optimiser's {len(given)} parameters is one of the model's {len(tensors)}; make it with "
            "the parameters of the model that the groups were made of, and not of a copy"
        )
    trained = {name for name, tensor in tensors.items() if tensor.requires_grad and id(tensor) in given}
    fixed = frozenset(
        number
        for number, unit_set in enumerate(groups.sets)
        if any(entries.name not in trained for entries in unit_set.variables)
    )
    return tensors, fixed


def _gradient(parameter: Tensor) -> Tensor:
    """The gradient, laid out in memory like the parameter; zeros where there is none."""
    if parameter.grad is None:
        return torch.zeros_like(parameter)
    gradient = parameter.grad.to_dense() if parameter.grad.is_sparse else parameter.grad
    return torch.empty_like(parameter).copy_(gradient)
