"""Everything that decides the trained weights, beside the data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch

from supernet.errors import ConfigError, one_of
from supernet.training.schedule import Stage

Precision = Literal["fp32", "bf16", "fp16", "fp64"]
PRECISIONS: dict[str, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp64": torch.float64,
}
CHECKPOINT_SECONDS = 60.0
"""Longest time between two checkpoints; one is also written after every epoch."""


@dataclass(frozen=True)
class TrainingSettings:
    """How to train.

    Attributes:
        space: name of the search space.
        stages: what the recipe came to.
        recipe: its name, for the record.
        seed: of initial weights, order of images, augmentation and drawn subnets.
        batch_size: images a step, in each process.
        processes: how many train together; the batch of a step is `batch_size` times as many.
        accumulate: parts into which each process divides its batch, one after the other, to need less memory; batch
            norm sees one part at a time.
        weight_decay: L2 decay of weights (not of batch norm, biases and kernel transforms).
        label_smoothing: in [0, 1).
        kd_ratio: weight of a frozen teacher's soft labels beside the true ones.
        dropout: before the classifier.
        clip_norm: greatest norm of a step's gradient; 0: no limit.
        ema_decay: decay a step of the moving average of the weights, with which every stage ends; 0: none.
        precision: "fp32"; "bf16" or "fp16" for the forward and backward pass, with weights and updates in fp32; or
            "fp64" for everything, to tell rounding from a fault (stored weights are fp32).
        sync_batch_norm: whether batch norm sees the batches of all processes together.
        calibration_images: training images kept for batch norm calibration.
        threads: CPU threads; results are repeatable for one number of threads. 0: as many as torch takes.
        device: "cpu" or "cuda".
        checkpoint_seconds: longest time between two checkpoints.
    """

    space: str
    stages: tuple[Stage, ...]
    recipe: str = "progressive"
    seed: int = 0
    batch_size: int = 32
    processes: int = 1
    accumulate: int = 1
    weight_decay: float = 3e-5
    label_smoothing: float = 0.1
    kd_ratio: float = 1.0
    dropout: float = 0.1
    clip_norm: float = 0.0
    ema_decay: float = 0.0
    precision: Precision = "fp32"
    sync_batch_norm: bool = False
    calibration_images: int = 512
    threads: int = 0
    device: str = "cpu"
    checkpoint_seconds: float = CHECKPOINT_SECONDS

    def __post_init__(self) -> None:
        faults = []
        if self.batch_size < 2:
            faults.append(f"batch_size is {self.batch_size}; at least 2 (batch norm needs two values)")
        if self.accumulate < 1 or self.batch_size % self.accumulate or self.batch_size // self.accumulate < 2:
            faults.append(
                f"accumulate is {self.accumulate}; a divisor of the batch size {self.batch_size} that leaves parts of "
                "at least 2 images"
            )
        faults += [
            f"{name} is {value}; allowed: 0 up to below 1"
            for name, value in (
                ("label_smoothing", self.label_smoothing),
                ("dropout", self.dropout),
                ("ema_decay", self.ema_decay),
            )
            if not 0 <= value < 1
        ]
        if self.processes < 1:
            faults.append(f"processes is {self.processes}; at least 1")
        if self.calibration_images < 2:
            faults.append(f"calibration_images is {self.calibration_images}; at least 2")
        if self.device not in ("cpu", "cuda") or (self.device == "cuda" and not torch.cuda.is_available()):
            faults.append(
                f"device is {self.device!r}; usable here: {'cpu, cuda' if torch.cuda.is_available() else 'cpu'}"
            )
        if self.precision not in PRECISIONS:
            faults.append(one_of("precision", self.precision, list(PRECISIONS)))
        elif self.precision == "fp16" and self.device != "cuda":
            faults.append("precision is 'fp16'; on the CPU use fp32 or bf16")
        if self.seed < 0:
            faults.append(f"seed is {self.seed}; 0 or more")
        if self.threads < 0:
            faults.append(f"threads is {self.threads}; 0 (as many as torch takes) or more")
        faults += [
            f"{name} is {value}; a number of 0 or more"
            for name, value in (
                ("weight_decay", self.weight_decay),
                ("kd_ratio", self.kd_ratio),
                ("clip_norm", self.clip_norm),
            )
            if not (math.isfinite(value) and value >= 0)
        ]
        faults += [
            f"learning rate of stage {stage.name} is {stage.learning_rate}; a number above 0"
            for stage in self.stages
            if not (math.isfinite(stage.learning_rate) and stage.learning_rate > 0)
        ]
        faults += [
            f"label_ratio of stage {stage.name} is {stage.label_ratio}; a number of 0 or more"
            for stage in self.stages
            if not (math.isfinite(stage.label_ratio) and stage.label_ratio >= 0)
        ]
        if faults:
            raise ConfigError("training settings: " + "; ".join(faults))

    @property
    def step_images(self) -> int:
        """Images that one step of all processes sees."""
        return self.batch_size * self.processes

    def to_dict(self) -> dict[str, Any]:
        """JSON types."""
        return asdict(self) | {"stages": [stage.to_dict() for stage in self.stages]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TrainingSettings:
        """The inverse of `to_dict`."""
        return cls(**(dict(data) | {"stages": tuple(Stage.from_dict(stage) for stage in data["stages"])}))
