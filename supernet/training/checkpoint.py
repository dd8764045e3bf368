"""The state from which a killed training goes on, in one safetensors file that is whole or absent."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from supernet.errors import CheckpointError
from supernet.tensors import digest_of, load_tensors, save_tensors

FILE = "checkpoint.safetensors"


@dataclass(frozen=True)
class Position:
    """How far a training has come.

    Attributes:
        stage: number of the stage that the next step belongs to.
        step: steps done within that stage.
        total_steps: steps done in all stages.
        seconds: time spent so far.
    """

    stage: int = 0
    step: int = 0
    total_steps: int = 0
    seconds: float = 0.0


def save_checkpoint(folder: Path, position: Position, parts: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Replace the folder's checkpoint.

    Args:
        folder: the run.
        position: what has been done.
        parts: part name ("model", "momentum", "teacher") -> its tensors.

    Raises:
        StorageError: the disk is full or read-only; the earlier checkpoint is still there.
    """
    tensors = {f"{part}/{name}": tensor for part, named in parts.items() for name, tensor in named.items()}
    save_tensors(folder / FILE, tensors, {"position": json.dumps(asdict(position)), "digest": digest_of(tensors)})


def load_checkpoint(folder: Path) -> tuple[Position, dict[str, dict[str, Tensor]]] | None:
    """The folder's checkpoint, or None where there is none yet.

    Raises:
        CheckpointError: the file is damaged, altered, or something else.
    """
    path = folder / FILE
    if not path.exists():
        return None
    tensors = load_tensors(path)
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
        position = Position(**json.loads(metadata["position"]))
        if metadata["digest"] != digest_of(tensors):
            raise ValueError("its content does not have the digest that its header states")
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{str(path)!r} is not a training checkpoint, or was altered: {error}; restore it, or start another run"
        ) from None
    parts: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        part, _, name = key.partition("/")
        parts.setdefault(part, {})[name] = tensor
    return position, parts


def momentum_of(optimizer: torch.optim.Optimizer, names: Mapping[Tensor, str]) -> dict[str, Tensor]:
    """SGD's momentum buffers by parameter name; parameters not updated yet are absent."""
    return {
        names[parameter]: state["momentum_buffer"]
        for parameter, state in optimizer.state.items()
        if state.get("momentum_buffer") is not None
    }


def restore_momentum(
    optimizer: torch.optim.Optimizer, named: Mapping[str, torch.nn.Parameter], momentum: Mapping[str, Tensor]
) -> None:
    """Put back what `momentum_of` gave."""
    for name, buffer in momentum.items():
        parameter = named[name]
        optimizer.state[parameter]["momentum_buffer"] = buffer.to(parameter.device).clone()
