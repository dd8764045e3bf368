"""`auto_compress`: prune a trained model to a target by itself (AutoCompress, Liu et al., AAAI 2020).

In rounds that leave 2, 4, 8, ... times less, each from the compact model of the round before:

1. search   per-layer rates by annealing; each is judged at once by magnitude masks, re-estimated batch norms and
            accuracy on a fixed held-out part, without training
2. admm     the weights are trained towards the chosen structure, which is then imposed
3. purify   what has become useless goes, as far as accuracy allows
4. retrain  the compact model, compared with the masked one before, is trained with its masks re-applied every step

After every epoch, and every few quick evaluations, the state is saved; a run that was killed goes on to the same
result.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from latency_tables.profiler import measure_module_ms
from pruning.admm import Admm
from pruning.annealing import Annealing
from pruning.compact_modules import apply_plan
from pruning.compression_report import CompressionReport, Measured, RoundReport
from pruning.compression_settings import CompressionSettings
from pruning.compression_state import composed, load_state, save_round, save_state
from pruning.construct import construct_kept
from pruning.groups import ZeroInvariantGroups, as_arguments
from pruning.latency import UnitLatencies
from pruning.loops import Epoch, ImageLoop, Loop, OwnLoop, reestimate_norms
from pruning.placement import device_of, inputs_on, on_cpu
from pruning.plan import Plan, cut
from pruning.purification import purified, scales, thresholds_of, worth
from pruning.rates import Rates
from pruning.targets import Target
from pruning.trace import copy_of
from pruning.units import Masks, UnitSet
from pruning.weights import Counts, Kept, WeightMatrices, energies_of
from supernet.errors import ConfigError, ConstructionError, InfeasibleBudgetError
from supernet.files import write_json
from supernet.tensors import digest_of
from supernet.training.in_memory import ImageData
from supernet.training.seeds import numpy_generator, seeded
from supernet.training.streamed import StreamedFolder

PHASES = ("search", "admm", "purify", "retrain")
REPORT = "report.json"

GroupLatencies = Mapping[str, UnitLatencies | Callable[[ZeroInvariantGroups, Masks], float]]
"""Device -> a table of the dense model's units, or milliseconds of the model that keeps these units of these groups."""


@dataclass(frozen=True)
class Progress:
    """How far it has come.

    Attributes:
        round, rounds: from 1.
        phase: one of `PHASES`.
        done, total: quick evaluations or epochs of the phase; in `purify`, of the current pass.
    """

    round: int
    rounds: int
    phase: str
    done: int
    total: int


@dataclass(frozen=True)
class Compression:
    """What came out.

    Attributes:
        model: the last round's compact model, in evaluation mode; a copy of the given one where there was no round.
        plan: which positions of the given model's tensors it keeps; None where there was no round.
        masks: by weight, bool of its shape, where single columns or weights of the compact model have gone.
        report: every round against the dense model.
        cancelled: it was stopped before the target was reached.
    """

    model: nn.Module
    plan: Plan | None
    masks: dict[str, Tensor]
    report: CompressionReport
    cancelled: bool


def auto_compress(
    model: nn.Module,
    data: Loop | ImageData | StreamedFolder,
    target: Target | str,
    *,
    example_inputs: Any = None,
    settings: CompressionSettings | None = None,
    folder: Path | str | None = None,
    keep: Sequence[str] = (),
    latencies: GroupLatencies | None = None,
    progress: Callable[[Progress], None] = lambda progress: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Compression:
    """Compress a trained model until it meets the target.

    Args:
        model: trained; left as it is. It is trained on, and comes back, on the device where it is.
        data: one of our data sets, or a loop of one's own (`pruning.loops`).
        target: limits on ``params``, ``macs`` or ``latency_ms@DEVICE``, such as "params=2%".
        example_inputs: a tensor or the positional arguments of the model's forward; None: two images of the data set.
        settings: how.
        folder: where the state and every round's model are kept; a compression that was begun there goes on. None: it
            cannot go on once it is interrupted.
        keep: names of modules whose channels stay.
        latencies: for a target that limits one; the table is looked up for whole units only.
        progress: told after every quick evaluation and epoch.
        cancelled: asked as often; True: stop, with the state saved.

    Returns:
        The compact model and the report.

    Raises:
        ConfigError: a target that AutoCompress does not know, or example inputs that are needed.
        InfeasibleBudgetError: the target is out of reach.
        ConstructionError: the compact model does not compute what the masked one does.
        CheckpointError: the folder is of another model, target or other settings.
        DataError: the loss is not finite any more (`ImageLoop`); the folder is as the epoch before left it.
        StorageError: the folder cannot be written.
    """
    loop: Loop = ImageLoop(data) if isinstance(data, ImageData | StreamedFolder) else data
    if example_inputs is None:
        if not isinstance(loop, ImageLoop):
            raise ConfigError("example_inputs is needed with a loop of one's own; pass a batch of the model's input")
        example_inputs = torch.randn(2, 3, loop.side, loop.side, generator=torch.Generator().manual_seed(0))
    run = _Run(
        model=model,
        loop=loop,
        target=Target.parse(target) if isinstance(target, str) else target,
        example_inputs=as_arguments(example_inputs),
        settings=settings or CompressionSettings(),
        folder=Path(folder) if folder is not None else None,
        keep=tuple(keep),
        latencies=latencies or {},
        progress=progress,
        cancelled=cancelled,
    )
    run.require_reachable()
    return run.finish()


def require_reachable(
    model: nn.Module,
    target: Target | str,
    *,
    example_inputs: Any,
    settings: CompressionSettings | None = None,
    keep: Sequence[str] = (),
    latencies: GroupLatencies | None = None,
) -> None:
    """See whether the target can be met, without data and training.

    Args:
        model: trained or not; left as it is.
        target: as for `auto_compress`, like those below.
        example_inputs: of the model's forward.
        settings: how.
        keep: names of modules whose channels stay.
        latencies: for a target that limits one.

    Raises:
        ConfigError: a target that AutoCompress does not know.
        InfeasibleBudgetError: the target is out of reach.
    """
    run = _Run(
        model=model,
        loop=OwnLoop(train=lambda _model, _epoch: None, holdout=lambda _model: 0.0),
        target=Target.parse(target) if isinstance(target, str) else target,
        example_inputs=as_arguments(example_inputs),
        settings=settings or CompressionSettings(),
        folder=None,
        keep=tuple(keep),
        latencies=latencies or {},
        progress=lambda _progress: None,
        cancelled=lambda: False,
    )
    run.require_reachable()


class _CancelledError(Exception):
    """Leaves the phases; the state has been saved."""


class _Run:
    """A compression under way. All that a resumed one needs is in `_save` and `_load`."""

    def __init__(
        self,
        *,
        model: nn.Module,
        loop: Loop,
        target: Target,
        example_inputs: tuple[Any, ...],
        settings: CompressionSettings,
        folder: Path | None,
        keep: tuple[str, ...],
        latencies: GroupLatencies,
        progress: Callable[[Progress], None],
        cancelled: Callable[[], bool],
    ) -> None:
        if target.sparsity is not None:
            raise ConfigError(
                f"AutoCompress: target {target}; allowed: params, macs, latency_ms@DEVICE; say params=N% for sparsity"
            )
        missing = [
            limit.device for limit in target.limits if limit.device is not None and limit.device not in latencies
        ]
        if missing:
            known = ", ".join(sorted(latencies)) or "none"
            raise ConfigError(
                f"AutoCompress: no latencies are known for {missing[0]!r}; known: {known}; pass latencies={{DEVICE: "
                "function of groups and kept units}, or limit macs or params"
            )
        # Followed, cut and compared on the CPU; trained and judged where it is given.
        self.device, self.given = device_of(model), on_cpu(model)
        self.example_inputs = inputs_on(example_inputs, torch.device("cpu"))
        self.loop, self.target, self.settings = loop, target, settings
        self.folder, self.keep, self.latencies = folder, keep, latencies
        self.progress, self.cancelled = progress, cancelled
        self.round, self.phase = 0, PHASES[0]
        self.work: dict[str, Any] = {}  # what the phase needs to go on
        self.record: dict[str, Any] = {}  # what the round's report will say
        self.rounds: list[RoundReport] = []
        self.plan: Plan | None = None
        self.kept: Kept | None = None  # what stays of `model`; None: everything
        # The last round that has ended: plan, tensors and masks of its model.
        self.last: tuple[Plan, dict[str, Tensor], dict[str, Tensor]] | None = None
        self._enter_model(copy_of(self.given))
        self.full = {layer.name: (len(layer.rows), len(layer.columns)) for layer in self.matrices.layers}
        whole = self.matrices.whole()
        cost = self.matrices.cost(whole)
        self.dense_costs: dict[str, float] = {"params": cost.params, "macs": cost.macs} | {
            name: of(list(whole.units)) for name, of in self._extra().items()
        }
        self.limits = {
            limit.name: limit.max * (self.dense_costs[limit.name] if limit.relative else 1) for limit in target.limits
        }
        self.schedule = _schedule(self.limits, self.dense_costs, settings.factor)
        self.dense: Measured | None = None
        self._load()

    def require_reachable(self) -> None:
        """Refuse, before the first epoch, a target that the last round could not meet. Once begun, rounds decide."""
        if self.dense is None:
            rates = Rates(self.matrices, self.schedule[-1], self.settings.dimensions, self._extra())
            rates.counts(rates.uniform())

    def finish(self) -> Compression:
        """Run what is left."""
        phases = {"search": self._search, "admm": self._admm, "purify": self._purify, "retrain": self._retrain}
        stopped = False
        if self.dense is None:
            self.dense = self._measured(self.model, self.matrices, None)
            self._save()
        try:
            while self.round < len(self.schedule):
                if self.phase == PHASES[0] and not self.work and self._is_met(self.schedule[self.round]):
                    self.round += 1
                    continue
                for phase in PHASES[PHASES.index(self.phase) :]:
                    phases[phase]()
        except _CancelledError:
            stopped = True
        report = CompressionReport(str(self.target), self.dense, tuple(self.rounds))
        if self.folder is not None and not stopped:
            write_json(self.folder / REPORT, report.to_dict())
        return Compression(*self._last_model(), report, stopped)

    # The phases. Each begins from `work`, which is empty unless it goes on, and ends by `_enter`.

    def _search(self) -> None:
        settings, rates = self.settings, self._rates()
        energies = energies_of(self.matrices.matrices(self._parameters()))
        others = self.matrices.other_energies(self._parameters())

        def chosen(point: Any) -> Kept:
            return self.matrices.project(energies, rates.counts(point), settings.dimensions, others)

        search = Annealing(rates.prior(), seed=self._seed("rates"), settings=settings.search)
        speed = accuracy = None
        if settings.uniform or not settings.anneal:
            point = rates.uniform() if settings.uniform else rates.prior()
            accuracy = self._quick(chosen(point))
            proposals = 1
        else:
            if self.work:
                search.load_state_dict(self.work["search"])
            began, before = time.perf_counter(), search.told
            while not search.done:
                point = search.ask()
                search.tell(point, self._quick(chosen(point)))
                self.work = {"search": search.state_dict()}
                self._tick(search.told, settings.search.proposals, search.told % settings.save_every == 0)
            done = search.told - before
            speed = done / (time.perf_counter() - began) if done else None
            point, accuracy, proposals = search.best, search.best_value, search.told
        counts = rates.counts(point)
        self.record = {
            "counts": {"units": list(counts.units), "inner": counts.inner},
            "met": {name: float(value) for name, value in rates.cost_of(counts).items()},
            "limits": {name: float(value) for name, value in self.schedule[self.round].items()},
            "proposals": proposals,
            "evaluations_per_second": speed,
            "searched_accuracy": accuracy / 100,
        }
        self._enter("admm")

    def _admm(self) -> None:
        settings = self.settings
        parameters = self._parameters()
        weights = {layer.name: parameters[layer.name] for layer in self.matrices.layers}
        others = self.matrices.other_energies(parameters)
        saved = self.record["counts"]
        counts = Counts(tuple(saved["units"]), dict(saved["inner"]))

        def chosen(tensors: Mapping[str, Tensor]) -> Kept:
            matrices = {name: tensor.flatten(1) for name, tensor in tensors.items()}
            return self.matrices.project(energies_of(matrices), counts, settings.dimensions, others)

        def project(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            masks = chosen(tensors).weights
            return {name: t * masks[name].view(t.shape).to(t.device) for name, t in tensors.items()}

        residuals: list[list[float]] = []
        if not settings.one_shot:
            admm = Admm(weights, project, settings.admm)
            if self.work:
                admm.load_state_dict(self.work["admm"])
            epochs, total = settings.admm_epochs, settings.admm.blocks * settings.admm_epochs
            while not admm.finished:
                block = len(admm.residuals)
                for epoch in range(self.work.get("epoch", 0), epochs):
                    state = self._train("admm", block, epoch, epochs, admm.penalty, lambda: None)
                    if epoch + 1 == epochs:
                        admm.update()
                        state, epoch = None, -1
                    self.work = {"admm": admm.state_dict(), "epoch": epoch + 1, "optimizer": state}
                    self._tick(block * epochs + (epoch + 1 if epoch >= 0 else epochs), total)
            residuals = [list(residual) for residual in admm.residuals]
        self.record["residuals"] = residuals
        self.kept = chosen(weights)
        self.matrices.apply(self.model, self.kept)
        self.record["structured_cost"] = self._cost_of(self.kept)
        self._enter("purify")

    def _purify(self) -> None:
        settings = self.settings
        assert self.kept is not None
        before = self.record["structured_cost"]
        passes = settings.purify_passes if settings.purification else 0
        while self.work.get("pass", 0) < passes:
            number = self.work.get("pass", 0)
            for epoch in range(self.work.get("epoch", 0), settings.purify_epochs):
                state = self._train("purify", number, epoch, settings.purify_epochs, _no_penalty, self._zeroing())
                self.work = {"pass": number, "epoch": epoch + 1, "optimizer": state}
                self._tick(epoch + 1, settings.purify_epochs + settings.purify.proposals)
            found = self._purification(number)
            gone = 1 - self._cost_of(found) / self._cost_of(self.kept)
            self.kept = found
            self.matrices.apply(self.model, found)
            self.work = {"pass": number + 1 if gone > 0 else passes}
            self._save()
        self.record["purified_percent"] = 100 * (1 - self._cost_of(self.kept) / before)
        self._construct()
        self._enter("retrain")

    def _purification(self, number: int) -> Kept:
        """What stays after the best purification that the search finds; at least the lossless one."""
        settings = self.settings
        assert self.kept is not None
        kept = self.kept
        weights = {n: m.detach().cpu() for n, m in self.matrices.matrices(self._parameters()).items()}
        names = [layer.name for layer in self.matrices.layers]
        scale, cost, base = scales(self.matrices, weights, kept), self._cost_of(kept), self._quick(kept)
        search = Annealing([0.0] * (2 * len(names)), seed=self._seed("purify", number), settings=settings.purify)
        if "search" in self.work:
            search.load_state_dict(self.work["search"])

        def candidate(point: Any) -> Kept:
            return purified(self.matrices, weights, kept, thresholds_of(point, names, scale), settings.dimensions)

        while not search.done:
            point = search.ask()
            found = candidate(point)
            if all(int(units.sum()) == 1 for units in found.units):  # a network that no later round could prune
                value = -math.inf
            else:
                percent = 100 * (1 - self._cost_of(found) / cost)
                value = worth(percent, base - self._quick(found), settings.allowed_drop)
            search.tell(point, value)
            self.work = {**self.work, "search": search.state_dict()}
            self._tick(
                settings.purify_epochs + search.told,
                settings.purify_epochs + settings.purify.proposals,
                search.told % settings.save_every == 0,
            )
        return candidate(search.best)

    def _construct(self) -> None:
        """The compact model, which computes what the masked one does, in its place."""
        assert self.kept is not None
        compact, plan = construct_kept(on_cpu(self.model), self.groups, self.kept.units)
        if plan.form != "modules":
            raise ConstructionError(
                f"the compact {type(self.given).__name__} is only a graph, which cannot be trained in a further round: "
                "its code fixes sizes; keep the modules that it concerns with keep=[...]"
            )
        masks = {
            name: cut(mask.view(self._parameters()[name].shape), plan.tensors.get(name, {})).flatten(1)
            for name, mask in self.kept.weights.items()
        }
        self.record |= {"error": plan.error, "signal": plan.signal}
        self.plan = composed(self.plan, plan)
        try:
            self._enter_model(compact)
        except ConfigError as error:
            raise InfeasibleBudgetError(
                f"the target is out of reach: with the least of every layer in round {self.round + 1}, {error}; choose"
                " a higher limit"
            ) from error
        self.kept = self.matrices.restricted(self.matrices.whole().units, masks)

    def _retrain(self) -> None:
        settings = self.settings
        assert self.kept is not None
        last = all(self._is_met(limits) for limits in self.schedule[self.round + 1 :])  # also by what purification took
        epochs = settings.retrain_epochs if last or settings.round_epochs is None else settings.round_epochs
        for epoch in range(self.work.get("epoch", 0), epochs):
            state = self._train("retrain", 0, epoch, epochs, _no_penalty, self._zeroing())
            self.work = {"epoch": epoch + 1, "optimizer": state}
            self._tick(epoch + 1, epochs)
        reestimate_norms(self.model, self.loop.calibration_batches())
        self._finish_round()

    def _finish_round(self) -> None:
        assert self.kept is not None
        assert self.plan is not None
        record = self.record
        report = RoundReport(
            number=self.round + 1,
            limits=record["limits"],
            met=record["met"],
            proposals=record["proposals"],
            evaluations_per_second=record["evaluations_per_second"],
            searched_accuracy=record["searched_accuracy"],
            residuals=record["residuals"],
            purified_percent=record["purified_percent"],
            layers=self._layers(),
            error=record["error"],
            signal=record["signal"],
            model=self._measured(self.model, self.matrices, self.kept),
        )
        self.rounds.append(report)
        if self.folder is not None:
            save_round(self.folder, self.round + 1, self.model, self.plan, self._masks(), report.to_dict())
        self.round += 1
        self.record = {}
        self._enter(PHASES[0])

    # What the phases share.

    def _train(
        self,
        phase: str,
        block: int,
        epoch: int,
        of: int,
        penalty: Callable[[], Tensor],
        after_step: Callable[[], None],
    ) -> dict[str, Any] | None:
        """One epoch; the optimiser's state after it."""
        seed = self._seed(phase, block, epoch)
        job = Epoch(epoch, of, seed, penalty, after_step, self.work.get("optimizer") if epoch else None)
        self.model.train()
        with seeded(self.device, seed, "epoch"):  # for dropout and the like
            self.loop.train_epoch(self.model, job)
        self.model.eval()
        if not job.steps:
            raise ConfigError(
                "the training function never called epoch.after_step(); call it after every step of the optimiser, so "
                "that what was pruned stays zero"
            )
        return None if job.used is None else job.used.state_dict()

    def _zeroing(self) -> Callable[[], None]:
        """What puts the zeros back after every step of an epoch."""
        assert self.kept is not None
        return self.matrices.zeroing(self.model, self.kept)

    def _quick(self, kept: Kept) -> float:
        """Percentage points of held-out accuracy of the model with these masks, without training."""
        self.scratch.load_state_dict(self.model.state_dict())
        self.matrices.apply(self.scratch, kept)
        reestimate_norms(self.scratch, self.loop.calibration_batches())
        self.scratch.eval()
        return 100 * self.loop.accuracy(self.scratch)

    def _rates(self) -> Rates:
        return Rates(self.matrices, self.schedule[self.round], self.settings.dimensions, self._extra())

    def _extra(self) -> dict[str, Callable[[Masks], float]]:
        groups = self.groups
        return {
            f"latency_ms@{device}": partial(_by_table(of) if isinstance(of, UnitLatencies) else of, groups)
            for device, of in self.latencies.items()
        }

    def _cost_of(self, kept: Kept) -> float:
        """Of the first limited cost."""
        return self._costs(kept)[next(iter(self.limits))]

    def _costs(self, kept: Kept) -> dict[str, float]:
        cost = self.matrices.cost(kept)
        found: dict[str, float] = {"params": cost.params, "macs": cost.macs}
        return found | {name: of(list(kept.units)) for name, of in self._extra().items()}

    def _is_met(self, limits: Mapping[str, float]) -> bool:
        found = self._costs(self.kept or self.matrices.whole())
        return all(found[name] <= limit for name, limit in limits.items())

    def _layers(self) -> list[dict[str, Any]]:
        assert self.kept is not None
        found = []
        for layer in self.matrices.layers:
            mask = self.kept.weights[layer.name]
            rows, columns = self.full[layer.name]
            found.append(
                {
                    "name": layer.name,
                    "rows": [len(layer.rows), rows],
                    "columns": [int(mask.any(0).sum()), columns],
                    "share": int(mask.sum()) / (rows * columns),
                }
            )
        return found

    def _masks(self) -> dict[str, Tensor]:
        kept, parameters = self.kept, self._parameters()
        if kept is None:
            return {}
        return {n: mask.view(parameters[n].shape) for n, mask in kept.weights.items() if not bool(mask.all())}

    def _measured(self, model: nn.Module, matrices: WeightMatrices, kept: Kept | None) -> Measured:
        kept = kept or matrices.whole()
        cost, computed = matrices.cost(kept), matrices.groups.count()
        model.eval()
        images = self.example_inputs[0]
        latency = None  # what measures it takes images alone
        if len(self.example_inputs) == 1 and isinstance(images, Tensor) and images.dim() == 4:
            latency = measure_module_ms(copy_of(model).cpu(), (1, *images.shape[1:])).median_ms
        return Measured(
            params=cost.params,
            storage_bytes=matrices.storage_bytes(kept),
            macs=cost.macs,
            dense_params=computed.params,
            dense_macs=computed.macs,
            latency_ms=latency,
            accuracy=self.loop.accuracy(model),
            test_accuracy=self.loop.test_accuracy(model),
        )

    def _last_model(self) -> tuple[nn.Module, Plan | None, dict[str, Tensor]]:
        """Of the last round that has ended: `model` is already on the way to the next one where it was cancelled."""
        if self.last is None:
            return copy_of(self.given).eval().to(self.device), None, {}
        plan, tensors, masks = self.last
        model = apply_plan(self.given, plan)
        model.load_state_dict(tensors)
        return model.eval().to(self.device), plan, masks

    def _parameters(self) -> dict[str, Tensor]:
        return dict(self.model.named_parameters())

    def _seed(self, purpose: str, *position: int) -> int:
        return int(numpy_generator(self.settings.seed, purpose, self.round, *position).integers(2**31))

    def _enter_model(self, model: nn.Module) -> None:
        """Go on with this model, which is on the CPU."""
        self.groups = ZeroInvariantGroups(model, self.example_inputs, keep=self.keep)
        self.matrices = WeightMatrices(self.groups)
        self.model = model.eval().to(self.device)
        self.scratch = copy_of(self.model)

    def _enter(self, phase: str) -> None:
        self.phase, self.work = phase, {}
        if phase == PHASES[0]:
            state = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
            assert self.plan is not None
            self.last = (self.plan, state, self._masks())
        self._save()

    def _tick(self, done: int, total: int, save: bool = True) -> None:
        """After a quick evaluation or an epoch: save, tell, and stop where that is wished."""
        stop = self.cancelled()
        if save or stop:
            self._save()
        self.progress(Progress(self.round + 1, len(self.schedule), self.phase, done, total))
        if stop:
            raise _CancelledError

    # Files.

    def _made_of(self) -> dict[str, Any]:
        settings = asdict(self.settings)
        settings.pop("save_every")
        return {
            "model": digest_of(self.given.state_dict()),
            "target": str(self.target),
            "settings": repr(settings),
            "keep": ", ".join(self.keep),
        }

    def _save(self) -> None:
        if self.folder is None:
            return
        state = {
            "made_of": self._made_of(),
            "round": self.round,
            "phase": self.phase,
            "work": self.work,
            "record": self.record,
            "rounds": [report.to_dict() for report in self.rounds],
            "dense": None if self.dense is None else asdict(self.dense),
            "plan": None if self.plan is None else self.plan.to_dict(),
            "model": self.model.state_dict(),
            "kept": None if self.kept is None else {"units": list(self.kept.units), "weights": self.kept.weights},
            "last": None if self.last is None else [self.last[0].to_dict(), self.last[1], self.last[2]],
        }
        save_state(self.folder, state)

    def _load(self) -> None:
        if self.folder is None:
            return
        state = load_state(self.folder, self._made_of())
        if state is None:
            return
        self.round, self.phase, self.work, self.record = (state[n] for n in ("round", "phase", "work", "record"))
        self.rounds = [RoundReport.from_dict(report) for report in state["rounds"]]
        self.dense = None if state["dense"] is None else Measured(**state["dense"])
        if state["plan"] is not None:
            self.plan = Plan.from_dict(state["plan"])
            self._enter_model(apply_plan(self.given, self.plan))
        self.model.load_state_dict(state["model"])
        kept = state["kept"]
        self.kept = None if kept is None else Kept(tuple(kept["units"]), kept["weights"])
        if state["last"] is not None:
            self.last = (Plan.from_dict(state["last"][0]), state["last"][1], state["last"][2])


def _schedule(limits: Mapping[str, float], dense: Mapping[str, float], factor: float) -> list[dict[str, float]]:
    """Limits of each round: the dense costs over the factor's powers, and the target's at the end."""
    rounds: list[dict[str, float]] = []
    while not rounds or rounds[-1] != dict(limits):
        divisor = factor ** (len(rounds) + 1)
        rounds.append({name: max(limit, dense[name] / divisor) for name, limit in limits.items()})
    return rounds


def _by_table(table: UnitLatencies) -> Callable[[ZeroInvariantGroups, Masks], float]:
    """A table of the dense model's units for the compact models of all rounds, whose sets have the same names.

    A set that is down to its last unit is none any more.
    """
    full = [UnitSet(name, rows[-1][0], (), ()) for name, rows in table.rows.items()]
    of = table.of(full)

    def milliseconds(groups: ZeroInvariantGroups, units: Masks) -> float:
        kept = {own.name: int(mask.sum()) for own, mask in zip(groups.sets, units, strict=True)}
        return of([torch.arange(unit_set.units) < kept.get(unit_set.name, 1) for unit_set in full])

    return milliseconds


def _no_penalty() -> Tensor:
    return torch.zeros(())
