"""The training loop: all stages on all subnets, killed and resumed without a trace, in one process or in many."""

from __future__ import annotations

import fcntl
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from supernet.arch import SubnetConfig
from supernet.errors import ConfigError, DataError, RunBusyError, writing
from supernet.evaluation import measure_subnet
from supernet.files import read_json, sha256_file, write_json
from supernet.images import prepare
from supernet.memory import keep_freed_memory
from supernet.network import Supernet
from supernet.runs import FORMAT, IMAGES, MANIFEST, WEIGHTS, RunFolder
from supernet.spaces import SearchSpace, get_space
from supernet.tensors import load_into, save_tensors
from supernet.training.averaging import MovingAverage
from supernet.training.checkpoint import (
    FILE,
    Position,
    load_checkpoint,
    momentum_of,
    restore_momentum,
    save_checkpoint,
)
from supernet.training.data import TrainingData
from supernet.training.distillation import label_loss, teacher_loss
from supernet.training.metrics import Display, MetricsWriter, Silence
from supernet.training.processes import Processes
from supernet.training.same_images import require_same_images
from supernet.training.sampling import draw_subnets, largest_of, smallest_of
from supernet.training.schedule import Stage
from supernet.training.seeds import numpy_generator, seeded, torch_generator
from supernet.training.settings import PRECISIONS, TrainingSettings

MOMENTUM = 0.9


def start_run(path: Path, settings: TrainingSettings, data: TrainingData, source: Mapping[str, Any]) -> None:
    """Lay out a new run folder: manifest and fixed images, no weights yet.

    Args:
        path: a folder that is absent, or holds no run.
        settings: how to train.
        data: on what.
        source: what `onceforall train --resume` needs to load the data again (JSON types).

    Raises:
        ConfigError: the folder holds a run already, or the space is unknown.
        DataError: too few images.
    """
    if (path / MANIFEST).exists():
        status = read_json(path / MANIFEST).get("status")
        way = (
            f"continue it with: onceforall train --resume {path}"
            if status == "training"
            else "choose another folder with --run"
        )
        raise ConfigError(f"{str(path)!r} holds a training run already (status: {status}); {way}")
    space = get_space(settings.space).with_num_classes(len(data.class_names))
    if data.train_count < settings.step_images:
        processes = f" ({settings.batch_size} in each of {settings.processes} processes)"
        raise DataError(
            f"the training part of {data.name!r} has {data.train_count} images, fewer than one batch of "
            f"{settings.step_images}{processes if settings.processes > 1 else ''}; use a smaller --batch-size or more "
            "images"
        )
    pack = data.image_pack(settings.calibration_images)
    pack.save(path / IMAGES)
    write_json(
        path / MANIFEST,
        {
            "format": FORMAT,
            "status": "training",
            "space": space.name,
            "num_classes": space.num_classes,
            "class_names": list(data.class_names),
            "data": {
                "name": data.name,
                "source": dict(source),
                "digest": data.digest,
                "size": data.size,
                "mean": list(pack.normalisation.mean),
                "std": list(pack.normalisation.std),
                "centre_share": data.centre_share,
                "train": data.train_count,
                "holdout": len(pack.holdout_labels),
                "test": data.test_count,
            },
            "images": {"file": IMAGES, "sha256": sha256_file(path / IMAGES)},
            "settings": settings.to_dict(),
            "torch": torch.__version__,
        },
    )


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the run folder for this process; the system lets go when the process ends, however it ends.

    Raises:
        RunBusyError: another process trains here.
    """
    with writing(path / ".lock"):
        path.mkdir(parents=True, exist_ok=True)
        lock = (path / ".lock").open("w")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise RunBusyError(
                f"another process trains in {str(path)!r}; wait for it, or choose another folder with --run"
            ) from None
        yield


def train(
    path: Path, data: TrainingData, display: Display | None = None, processes: Processes | None = None
) -> RunFolder:
    """Train the run in `path` to its end, from its checkpoint where it has one.

    On CPUs the weights are the same bit for bit whether or not, and wherever, the training was killed and resumed (on
    the same machine, with the same number of threads and processes); a GPU's own operators need not repeat themselves.
    On CPUs the process keeps the memory that it frees from then on (`keep_freed_memory`).

    Args:
        path: a folder made by `start_run`; call within `exclusive(path)` (of the first process).
        data: the images that it was made for.
        display: who watches.
        processes: those that train together; each calls this function. None: this one alone.

    Returns:
        The completed run.

    Raises:
        CheckpointError: the data differ from the manifest's, or the checkpoint is damaged.
        ConfigError: the run was started with another number of processes.
        DataError: the loss is no longer a finite number; the last checkpoint stays.
        StorageError: a file cannot be written; the last checkpoint stays.
    """
    run, processes = RunFolder(path), processes or Processes()
    require_same_images(run, data)
    if not run.complete:
        settings = TrainingSettings.from_dict(run.manifest["settings"])
        if settings.processes != processes.count:
            raise ConfigError(
                f"the training in {str(path)!r} was started with {settings.processes} process(es), not with "
                f"{processes.count}; start as many with torchrun, on one host for example: torchrun --standalone "
                f"--nproc-per-node {settings.processes} -m -- service.cli train --resume {path}"
            )
        if processes.first:
            for half_written in path.glob(".*.tmp"):  # by a process that was killed
                half_written.unlink()
        if settings.device == "cpu":
            keep_freed_memory()
        threads = torch.get_num_threads()
        try:
            if settings.threads:
                torch.set_num_threads(settings.threads)
            _Training(path, run.space, settings, data, display or Silence(), processes).run()
        finally:
            torch.set_num_threads(threads)
        processes.wait()
    return RunFolder(path)


class _Training:
    """One process's share of a run: network, optimiser and position."""

    def __init__(
        self,
        path: Path,
        space: SearchSpace,
        settings: TrainingSettings,
        data: TrainingData,
        display: Display,
        processes: Processes,
    ) -> None:
        self.path, self.space, self.settings, self.data = path, space, settings, data
        self.display, self.processes = display, processes
        self.pack = RunFolder(path).images()
        self.normalisation = self.pack.normalisation
        self.steps_per_epoch = data.train_count // settings.step_images
        self.net = Supernet(space, dropout=settings.dropout, generator=torch_generator(settings.seed, "weights"))
        self.sync_batch_norm = settings.sync_batch_norm and processes.count > 1
        self.net.synchronise_batch_norm(self.sync_batch_norm)
        self.device = torch.device(settings.device)
        self.dtype = torch.float64 if settings.precision == "fp64" else torch.float32
        self.net.to(self.device, self.dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.names: dict[Tensor, str] = {parameter: name for name, parameter in self.net.named_parameters()}
        self.teacher: Supernet | None = None
        self.position = Position()
        self.optimizer: torch.optim.SGD | None = None
        self.average: MovingAverage | None = None
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=settings.precision == "fp16")
        self.writer: MetricsWriter | None = None
        self._epoch: tuple[tuple[int, int], Iterator[tuple[Tensor, Tensor]]] | None = None

    def run(self) -> None:
        """All stages, then the final files."""
        self._restore()
        with MetricsWriter(self.path, self.position) if self.processes.first else nullcontext() as self.writer:
            while self.position.stage < len(self.settings.stages):
                self._stage(self.settings.stages[self.position.stage])
        if self.processes.first:
            self._finish()

    def _finish(self) -> None:
        save_tensors(self.path / WEIGHTS, self.net.float().state_dict())
        manifest = read_json(self.path / MANIFEST)
        manifest["weights"] = {"file": WEIGHTS, "sha256": sha256_file(self.path / WEIGHTS)}
        manifest["status"] = "complete"
        manifest["training_seconds"] = round(self.position.seconds, 1)
        write_json(self.path / MANIFEST, manifest)
        with suppress(OSError):
            (self.path / FILE).unlink(missing_ok=True)

    # -- one stage -------------------------------------------------------------------------------------------

    def _stage(self, stage: Stage) -> None:
        total = stage.epochs * self.steps_per_epoch
        if self.position.step == 0:
            if stage.sort_channels is not None:
                self.net.sort_channels(stage.sort_channels, stage.trained_widths)
            self._start_optimizer()
        assert self.optimizer is not None
        self.display.stage_started(stage, self.position.step, total)
        last_save = time.monotonic()
        while self.position.step < total:
            self._step(stage)
            epoch_ended = self.position.step % self.steps_per_epoch == 0
            overdue = time.monotonic() - last_save > self.settings.checkpoint_seconds
            if self.position.step < total and (epoch_ended or overdue):
                self._save()
                last_save = time.monotonic()
        self._end_stage(stage)

    def _step(self, stage: Stage) -> None:
        """One update: a batch, several subnets, their gradients summed."""
        assert self.optimizer is not None
        started = time.monotonic()
        step = self.position.step
        learning_rate = stage.learning_rate_at(step, self.steps_per_epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        configs = draw_subnets(self.space, stage, self.settings.seed, self.position.stage, step)
        images, labels = self._batch()
        self.net.train()
        self.optimizer.zero_grad(set_to_none=True)
        losses = torch.zeros((), dtype=torch.float64, device=self.device)
        correct = torch.zeros((), dtype=torch.int64, device=self.device)
        parts = self.settings.accumulate
        for part, (x, y) in enumerate(zip(images.chunk(parts), labels.chunk(parts), strict=True)):
            for part_loss, part_correct in self._backward(stage, configs, x, y, part):
                losses += part_loss
                correct += part_correct
        loss, right = self.processes.sum(float(losses), int(correct))
        loss, answers = loss / (len(configs) * parts * self.processes.count), len(labels) * len(configs)
        self._require_finite(f"the loss became {loss}", math.isfinite(loss))
        self._update()
        seconds = time.monotonic() - started
        self.position = replace(
            self.position,
            step=step + 1,
            total_steps=self.position.total_steps + 1,
            seconds=self.position.seconds + seconds,
        )
        metrics = {
            "loss": loss,
            "accuracy": right / (answers * self.processes.count),
            "learning_rate": learning_rate,
            "resolution": configs[0].resolution,
            "images_per_second": answers * self.processes.count / seconds,
        }
        self.display.step(metrics)
        if self.writer is not None and self.position.total_steps % 10 == 0:
            self.writer.write(
                self.position.total_steps, {"stage": stage.name, **{k: round(v, 5) for k, v in metrics.items()}}
            )

    def _backward(
        self, stage: Stage, configs: list[SubnetConfig], images: Tensor, labels: Tensor, part: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Add the gradients of all subnets on one part of the batch; gives each one's (loss, correct answers)."""
        settings, position = self.settings, self.position
        sized: dict[int, Tensor] = {}
        teacher_logits: Tensor | None = None
        for index, config in enumerate(configs):
            if config.resolution not in sized:
                sized[config.resolution] = prepare(images, config.resolution, self.normalisation).to(self.dtype)
            x = sized[config.resolution]
            if stage.teacher == "frozen" and self.teacher is not None and teacher_logits is None:
                with torch.no_grad(), self._precision():
                    teacher_logits = self.teacher(x).to(self.dtype)
            self.net.activate(config)
            taught = stage.teacher == "in-place" and index > 0
            self.net.set_dropout(0.0 if taught and not stage.taught_dropout else settings.dropout)
            place = (position.stage, position.step, index, part, self.processes.rank)
            with seeded(self.device, settings.seed, "dropout", *place), self._precision():
                logits = self.net(x).to(self.dtype)
            loss = self._loss(stage, logits, teacher_logits, labels)
            if stage.teacher == "in-place" and index == 0:
                teacher_logits = logits.detach()
            self.scaler.scale(loss / settings.accumulate).backward()  # type: ignore[no-untyped-call]
            yield loss.detach(), (logits.detach().argmax(1) == labels).sum()

    def _loss(self, stage: Stage, logits: Tensor, teacher_logits: Tensor | None, labels: Tensor) -> Tensor:
        """Loss of one subnet; without a teacher's outputs from the labels alone."""
        smoothing, loss = self.settings.label_smoothing, logits.new_zeros(())
        in_place = stage.teacher == "in-place" and teacher_logits is not None
        label_ratio, kd_ratio = (stage.label_ratio, 1.0) if in_place else (1.0, self.settings.kd_ratio)
        if label_ratio:
            loss = loss + label_ratio * label_loss(logits, labels, label_smoothing=smoothing)
        if teacher_logits is not None:
            loss = loss + kd_ratio * teacher_loss(logits, teacher_logits, stage.divergence)
        if in_place:
            loss = loss * stage.subnet_weight_at(self.position.step, self.steps_per_epoch)
        return loss

    def _update(self) -> None:
        """Average the gradients of all processes, limit them, take the step."""
        assert self.optimizer is not None
        self.processes.average_gradients(self.net.parameters())
        if self.settings.clip_norm:
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.net.parameters(), self.settings.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.average is not None:
            self.average.update(self.position.step)

    def _precision(self) -> AbstractContextManager[Any]:
        if self.settings.precision in ("bf16", "fp16"):
            return torch.autocast(self.device.type, PRECISIONS[self.settings.precision])
        return nullcontext()

    def _batch(self) -> tuple[Tensor, Tensor]:
        """This process's part of the step's images, augmented, float on the scale [0, 1], and their labels."""
        place = (self.position.stage, self.position.step // self.steps_per_epoch)
        if self._epoch is None or self._epoch[0] != place:
            self._epoch = place, self.data.train_batches(self._rest_of_epoch(*place), (self.settings.seed, *place))
        images, labels = next(self._epoch[1])
        generator = torch_generator(self.settings.seed, "augmentation", self.position.stage, self.position.step)
        share = (self.processes.rank, self.processes.count)
        images = self.data.augmentation(images.to(self.device, non_blocking=True), generator, share)
        return images, labels.to(self.device, non_blocking=True)

    def _rest_of_epoch(self, stage: int, epoch: int) -> list[Tensor]:
        """Numbers of this process's images, a step each, from the present step to the epoch's end."""
        order = numpy_generator(self.settings.seed, "order", stage, epoch).permutation(self.data.train_count)
        steps = order[: self.steps_per_epoch * self.settings.step_images].reshape(
            self.steps_per_epoch, self.processes.count, self.settings.batch_size
        )
        mine = torch.from_numpy(steps[self.position.step % self.steps_per_epoch :, self.processes.rank].copy())
        return list(mine)

    def _end_stage(self, stage: Stage) -> None:
        """Take the averaged weights, measure the two extreme subnets, keep the teacher, move on, save."""
        if self.average is not None:
            self.average.write_back()
        report: dict[str, Any] = {"stage_ended": stage.name, "seconds": round(self.position.seconds, 1)}
        measured_net = self.net if self.dtype == torch.float32 else deepcopy(self.net).float()
        measured_net.eval()
        mine = self.pack.share(self.processes.rank, self.processes.count)
        for name, pick in (("largest", largest_of), ("smallest", smallest_of)):
            measured = measure_subnet(measured_net, pick(self.space, stage), mine, before_calibration=False)
            correct, total = self.processes.sum(measured.correct, measured.total)
            report[f"holdout_accuracy_{name}"] = round(correct / total, 5)
        if self.teacher is None and any(later.teacher == "frozen" for later in self.settings.stages):
            self._set_teacher(self.net.state_dict(), "the network")
        self.position = replace(self.position, stage=self.position.stage + 1, step=0)
        if self.writer is not None:
            self.writer.write(self.position.total_steps, report)
        self._save()
        self.display.stage_ended(stage, report)

    # -- state -----------------------------------------------------------------------------------------------

    def _start_optimizer(self) -> None:
        """A new optimiser (and average) for the stage that begins or goes on."""
        groups = self.net.parameter_groups(self.settings.weight_decay)
        self.optimizer = torch.optim.SGD(groups, lr=0.0, momentum=MOMENTUM, nesterov=True)
        self.average = MovingAverage(self.net, self.settings.ema_decay) if self.settings.ema_decay else None

    def _set_teacher(self, state: Mapping[str, Tensor], source: str) -> None:
        """Freeze the largest network of these weights; in training mode, so that batch norms fit every resolution."""
        self.teacher = Supernet(self.space, generator=torch.Generator())
        self.teacher.to(self.device, self.dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
        load_into(self.teacher, state, source)
        self.teacher.synchronise_batch_norm(self.sync_batch_norm)
        self.teacher.requires_grad_(False).train()

    def _require_finite(self, what: str, finite: bool) -> None:
        """Stop in all processes alike where something is no longer a number.

        Raises:
            DataError: it is not finite; the last checkpoint stays.
        """
        if not finite:
            error = DataError(
                f"{what} in stage {self._stage_name()!r}, step {self.position.step}; the "
                f"last checkpoint in {str(self.path)!r} is kept; start another run with a smaller learning rate"
            )
            error.process = 0
            raise error

    def _stage_name(self) -> str:
        stages = self.settings.stages
        return stages[min(self.position.stage, len(stages) - 1)].name

    def _save(self) -> None:
        norms = torch._foreach_norm([parameter.detach() for parameter in self.net.parameters()])
        self._require_finite("the weights became infinite", bool(torch.stack(norms).isfinite().all()))
        if not self.processes.first:
            return
        parts: dict[str, Mapping[str, Tensor]] = {"model": self.net.state_dict()}
        if self.position.step and self.optimizer is not None:
            parts["momentum"] = momentum_of(self.optimizer, self.names)
            if self.average is not None:
                parts["average"] = self.average.state_dict()
        if self.teacher is not None:
            parts["teacher"] = self.teacher.state_dict()
        if self.scaler.is_enabled():
            state = self.scaler.state_dict()
            parts["scaler"] = {name: torch.tensor(float(state[name])) for name in ("scale", "_growth_tracker")}
        save_checkpoint(self.path, self.position, parts)

    def _restore(self) -> None:
        stored = load_checkpoint(self.path)
        if stored is None:
            return
        self.position, parts = stored
        source = repr(str(self.path / FILE))
        load_into(self.net, parts.get("model", {}), source)
        if "teacher" in parts:
            self._set_teacher(parts["teacher"], source)
        if "scaler" in parts:
            scale, tracker = (float(parts["scaler"][name]) for name in ("scale", "_growth_tracker"))
            self.scaler.load_state_dict(self.scaler.state_dict() | {"scale": scale, "_growth_tracker": int(tracker)})
        if self.position.step:
            self._start_optimizer()
            assert self.optimizer is not None
            restore_momentum(self.optimizer, dict(self.net.named_parameters()), parts.get("momentum", {}))
            if self.average is not None:
                self.average.load_state_dict(parts["average"])
