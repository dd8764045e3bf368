"""The training loop: all stages on all subnets, killed and resumed without a trace."""

from __future__ import annotations

import fcntl
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from supernet.arch import SubnetConfig
from supernet.errors import CheckpointError, ConfigError, DataError, RunBusyError, writing
from supernet.evaluation import measure_subnet
from supernet.files import read_json, sha256_file, write_json
from supernet.images import prepare
from supernet.network import Subnet, Supernet
from supernet.runs import FORMAT, IMAGES, MANIFEST, WEIGHTS, RunFolder
from supernet.spaces import SearchSpace, get_space
from supernet.tensors import load_into, save_tensors
from supernet.training.checkpoint import (
    FILE,
    Position,
    load_checkpoint,
    momentum_of,
    restore_momentum,
    save_checkpoint,
)
from supernet.training.data import ImageData
from supernet.training.distillation import subnet_loss
from supernet.training.metrics import Display, MetricsWriter, Silence
from supernet.training.schedule import Stage
from supernet.training.seeds import numpy_generator, seeded, torch_generator

MOMENTUM = 0.9
CHECKPOINT_SECONDS = 60.0
"""Longest time between two checkpoints; one is also written after every epoch."""


@dataclass(frozen=True)
class TrainingSettings:
    """Everything that decides the trained weights, beside the data.

    Attributes:
        space: name of the search space.
        stages: the recipe.
        seed: of initial weights, order of images, augmentation and drawn subnets.
        batch_size: images a step.
        weight_decay: L2 decay of weights (not of batch norm, biases and kernel transforms).
        label_smoothing: in [0, 1).
        kd_ratio: weight of the largest network's soft labels.
        dropout: before the classifier.
        calibration_images: training images kept for batch norm calibration.
        threads: CPU threads; results are repeatable for one number of threads.
        device: "cpu" or "cuda".
        checkpoint_seconds: longest time between two checkpoints.
    """

    space: str
    stages: tuple[Stage, ...]
    seed: int = 0
    batch_size: int = 32
    weight_decay: float = 3e-5
    label_smoothing: float = 0.1
    kd_ratio: float = 1.0
    dropout: float = 0.1
    calibration_images: int = 512
    threads: int = 0
    device: str = "cpu"
    checkpoint_seconds: float = CHECKPOINT_SECONDS

    def __post_init__(self) -> None:
        faults = []
        if self.batch_size < 2:
            faults.append(f"batch_size is {self.batch_size}; at least 2 (batch norm needs two values)")
        if not 0 <= self.label_smoothing < 1:
            faults.append(f"label_smoothing is {self.label_smoothing}; allowed: 0 up to below 1")
        if not 0 <= self.dropout < 1:
            faults.append(f"dropout is {self.dropout}; allowed: 0 up to below 1")
        if self.calibration_images < 2:
            faults.append(f"calibration_images is {self.calibration_images}; at least 2")
        if self.device not in ("cpu", "cuda") or (self.device == "cuda" and not torch.cuda.is_available()):
            faults.append(
                f"device is {self.device!r}; usable here: {'cpu, cuda' if torch.cuda.is_available() else 'cpu'}"
            )
        if self.seed < 0:
            faults.append(f"seed is {self.seed}; 0 or more")
        if self.threads < 0:
            faults.append(f"threads is {self.threads}; 0 (as many as torch takes) or more")
        faults += [
            f"{name} is {value}; a number of 0 or more"
            for name, value in (("weight_decay", self.weight_decay), ("kd_ratio", self.kd_ratio))
            if not (math.isfinite(value) and value >= 0)
        ]
        faults += [
            f"learning rate of stage {stage.name} is {stage.learning_rate}; a number above 0"
            for stage in self.stages
            if not (math.isfinite(stage.learning_rate) and stage.learning_rate > 0)
        ]
        if faults:
            raise ConfigError("training settings: " + "; ".join(faults))

    def to_dict(self) -> dict[str, Any]:
        """JSON types."""
        return asdict(self) | {"stages": [stage.to_dict() for stage in self.stages]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TrainingSettings:
        """The inverse of `to_dict`."""
        return cls(**(dict(data) | {"stages": tuple(Stage.from_dict(stage) for stage in data["stages"])}))


def start_run(path: Path, settings: TrainingSettings, data: ImageData, source: Mapping[str, Any]) -> None:
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
    if len(data.train_labels) < settings.batch_size:
        raise DataError(
            f"the training part of {data.name!r} has {len(data.train_labels)} images, fewer than one batch of "
            f"{settings.batch_size}; use a smaller --batch-size or more images"
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
                "train": len(data.train_labels),
                "holdout": len(data.holdout_labels),
                "test": len(data.test_labels),
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


def train(path: Path, data: ImageData, display: Display | None = None) -> RunFolder:
    """Train the run in `path` to its end, from its checkpoint where it has one.

    The weights are the same bit for bit whether or not, and wherever, the training was killed and resumed (on the
    same machine, with the same number of threads).

    Args:
        path: a folder made by `start_run`; call within `exclusive(path)`.
        data: the images that it was made for.
        display: who watches.

    Returns:
        The completed run.

    Raises:
        CheckpointError: the data differ from the manifest's, or the checkpoint is damaged.
        DataError: the loss is no longer a finite number; the last checkpoint stays.
        StorageError: a file cannot be written; the last checkpoint stays.
    """
    run = RunFolder(path)
    if run.manifest["data"]["digest"] != data.digest:
        raise CheckpointError(
            f"the images of data set {data.name!r} are not those that {str(path)!r} was started with; "
            "restore them, or start another run"
        )
    if not run.complete:
        settings = TrainingSettings.from_dict(run.manifest["settings"])
        for half_written in path.glob(".*.tmp"):  # by a process that was killed
            half_written.unlink()
        threads = torch.get_num_threads()
        try:
            if settings.threads:
                torch.set_num_threads(settings.threads)
            _Training(path, run.space, settings, data, display or Silence()).run()
        finally:
            torch.set_num_threads(threads)
    return RunFolder(path)


class _Training:
    """One process's share of a run: network, optimiser and position."""

    def __init__(
        self, path: Path, space: SearchSpace, settings: TrainingSettings, data: ImageData, display: Display
    ) -> None:
        self.path, self.space, self.settings, self.data, self.display = path, space, settings, data, display
        self.pack = data.image_pack(settings.calibration_images)
        self.normalisation = self.pack.normalisation
        self.steps_per_epoch = len(data.train_labels) // settings.batch_size
        self.net = Supernet(space, dropout=settings.dropout, generator=torch_generator(settings.seed, "weights"))
        self.device = torch.device(settings.device)
        self.net.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.names: dict[Tensor, str] = {parameter: name for name, parameter in self.net.named_parameters()}
        self.teacher: Subnet | None = None
        self.position = Position()
        self.optimizer: torch.optim.SGD | None = None
        self._epoch_order: tuple[tuple[int, int], Tensor] | None = None

    def run(self) -> None:
        """All stages, then the final files."""
        self._restore()
        with MetricsWriter(self.path, self.position) as self.writer:
            while self.position.stage < len(self.settings.stages):
                self._stage(self.settings.stages[self.position.stage])
        save_tensors(self.path / WEIGHTS, self.net.state_dict())
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
                self.net.sort_channels(stage.sort_channels)
            self.optimizer = self._new_optimizer()
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

    def _order(self) -> Tensor:
        """The training images' order in the present epoch."""
        epoch = (self.position.stage, self.position.step // self.steps_per_epoch)
        if self._epoch_order is None or self._epoch_order[0] != epoch:
            rng = numpy_generator(self.settings.seed, "order", *epoch)
            self._epoch_order = epoch, torch.from_numpy(rng.permutation(len(self.data.train_labels)))
        return self._epoch_order[1]

    def _step(self, stage: Stage) -> None:
        """One update: a batch at one resolution, several subnets, their gradients summed."""
        assert self.optimizer is not None
        started = time.monotonic()
        settings, step = self.settings, self.position.step
        learning_rate = stage.learning_rate_at(step, self.steps_per_epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        configs = self._draw_subnets(stage)
        resolution = configs[0].resolution
        images, labels = self._batch(resolution)
        teacher_logits = None
        if stage.distil and self.teacher is not None:
            with torch.no_grad():
                teacher_logits = self.teacher(images)
        self.net.train()
        self.optimizer.zero_grad(set_to_none=True)
        losses, correct = [], 0
        for index, config in enumerate(configs):
            self.net.activate(config)
            with seeded(settings.seed, "dropout", self.position.stage, step, index):
                logits = self.net(images)
            loss = subnet_loss(
                logits,
                labels,
                teacher_logits,
                label_smoothing=settings.label_smoothing,
                kd_ratio=settings.kd_ratio,
            )
            loss.backward()  # type: ignore[no-untyped-call]
            losses.append(float(loss.detach()))
            correct += int((logits.argmax(1) == labels).sum())
        mean_loss = sum(losses) / len(losses)
        if not math.isfinite(mean_loss):
            raise DataError(
                f"the loss became {mean_loss} in stage {stage.name!r}, step {step}; the last checkpoint in "
                f"{str(self.path)!r} is kept; start another run with a smaller learning rate"
            )
        self.optimizer.step()
        seconds = time.monotonic() - started
        self.position = replace(
            self.position,
            step=step + 1,
            total_steps=self.position.total_steps + 1,
            seconds=self.position.seconds + seconds,
        )
        metrics = {
            "loss": mean_loss,
            "accuracy": correct / (len(labels) * len(configs)),
            "learning_rate": learning_rate,
            "resolution": resolution,
            "images_per_second": len(labels) * len(configs) / seconds,
        }
        self.display.step(metrics)
        if self.position.total_steps % 10 == 0:
            self.writer.write(
                self.position.total_steps, {"stage": stage.name, **{k: round(v, 5) for k, v in metrics.items()}}
            )

    def _draw_subnets(self, stage: Stage) -> list[SubnetConfig]:
        """The step's subnets, all at one resolution; the same on every process."""
        stage_number, step = self.position.stage, self.position.step
        drawn = [
            self.space.sample_genotypes(
                numpy_generator(self.settings.seed, "subnets", stage_number, step, index), 1, within=stage.choices
            )
            for index in range(stage.subnets_per_step)
        ]
        genotypes = np.concatenate(drawn)
        for gene, dim in enumerate(self.space.dimensions):
            if dim.kind == "resolution":
                genotypes[:, gene] = genotypes[0, gene]
        return self.space.decode(genotypes)

    def _batch(self, resolution: int) -> tuple[Tensor, Tensor]:
        size, step = self.settings.batch_size, self.position.step % self.steps_per_epoch
        chosen = self._order()[step * size : (step + 1) * size]
        generator = torch_generator(self.settings.seed, "augmentation", self.position.stage, self.position.step)
        images = self.data.augmentation(self.data.train_images[chosen].to(self.device), generator)
        return prepare(images, resolution, self.normalisation), self.data.train_labels[chosen].to(self.device)

    def _end_stage(self, stage: Stage) -> None:
        """Measure the two extreme subnets, keep the teacher, move to the next stage, save."""
        report: dict[str, Any] = {"stage_ended": stage.name, "seconds": round(self.position.seconds, 1)}
        self.net.eval()
        extremes = np.zeros((1, len(self.space.dimensions)), dtype=np.int8)
        for name, pick in (("largest", max), ("smallest", min)):
            for gene, dim in enumerate(self.space.dimensions):
                allowed = stage.choices.get(dim.kind, dim.choices)
                extremes[0, gene] = dim.choices.index(pick(v for v in dim.choices if v in allowed))
            measured = measure_subnet(self.net, self.space.decode(extremes)[0], self.pack, before_calibration=False)
            report[f"holdout_accuracy_{name}"] = round(measured.accuracy, 5)
        if self.teacher is None:
            self._set_teacher(self.net.extract(self.space.largest()))
        self.position = replace(self.position, stage=self.position.stage + 1, step=0)
        self.writer.write(self.position.total_steps, report)
        self._save()
        self.display.stage_ended(stage, report)

    # -- state -----------------------------------------------------------------------------------------------

    def _new_optimizer(self) -> torch.optim.SGD:
        groups = self.net.parameter_groups(self.settings.weight_decay)
        return torch.optim.SGD(groups, lr=0.0, momentum=MOMENTUM, nesterov=True)

    def _set_teacher(self, teacher: Subnet) -> None:
        """Freeze; in training mode, so that its batch norms fit every resolution."""
        self.teacher = teacher.requires_grad_(False).train().to(memory_format=torch.channels_last)

    def _save(self) -> None:
        parts: dict[str, Mapping[str, Tensor]] = {"model": self.net.state_dict()}
        if self.position.step and self.optimizer is not None:
            parts["momentum"] = momentum_of(self.optimizer, self.names)
        if self.teacher is not None:
            parts["teacher"] = self.teacher.state_dict()
        save_checkpoint(self.path, self.position, parts)

    def _restore(self) -> None:
        stored = load_checkpoint(self.path)
        if stored is None:
            return
        self.position, parts = stored
        source = repr(str(self.path / FILE))
        load_into(self.net, parts.get("model", {}), source)
        if "teacher" in parts:
            teacher = self.net.extract(self.space.largest())
            load_into(teacher, parts["teacher"], source)
            self._set_teacher(teacher)
        if self.position.step:
            self.optimizer = self._new_optimizer()
            restore_momentum(self.optimizer, dict(self.net.named_parameters()), parts.get("momentum", {}))
