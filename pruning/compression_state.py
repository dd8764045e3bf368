"""The state from which a killed compression goes on, and the models that its rounds leave behind, as files.

FOLDER/autocompress.pt              state; whole or absent; tensors, numbers and text, no pickled classes
FOLDER/round_N/compact.safetensors  weights of round N's compact model
FOLDER/round_N/plan.json            which positions of the dense model's tensors it keeps
FOLDER/round_N/masks.safetensors    which of its weights stay, where single columns or weights have gone
FOLDER/round_N/report.json          what it is, against the dense model
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pruning.compact_modules import apply_plan
from pruning.plan import Plan
from supernet.errors import CheckpointError, writing
from supernet.files import atomic_path, read_json, write_json
from supernet.tensors import load_into, load_tensors, save_tensors

STATE = "autocompress.pt"
_WEIGHTS, _PLAN, _MASKS, _REPORT = "compact.safetensors", "plan.json", "masks.safetensors", "report.json"


def save_state(folder: Path, state: Mapping[str, Any]) -> None:
    """Replace the folder's state.

    Raises:
        StorageError: the disk is full or read-only; the earlier state is still there.
    """
    path = folder / STATE
    with writing(path), atomic_path(path) as temporary:
        torch.save(dict(state), temporary)


def load_state(folder: Path, made_of: Mapping[str, Any]) -> dict[str, Any] | None:
    """The folder's state, None where nothing was begun.

    Args:
        folder: where to look.
        made_of: what decides the result (text by name); the state must have been begun with the same.

    Raises:
        CheckpointError: it is damaged, or was begun with something else.
    """
    path = folder / STATE
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
        begun = dict(state["made_of"])
    except Exception as error:  # a damaged file raises whatever its bytes lead to
        raise CheckpointError(f"{str(path)!r} is no state of a compression that can be gone on with: {error}") from None
    differing = [f"{name} {begun.get(name)!r} (here {value!r})" for name, value in made_of.items()
                 if begun.get(name) != value]  # fmt: skip
    if differing:
        raise CheckpointError(
            f"{str(path)!r} was begun with {'; '.join(differing)}; go on with the same, or start anew in another folder"
        )
    return state


def save_round(
    folder: Path, number: int, model: nn.Module, plan: Plan, masks: Mapping[str, Tensor], report: Mapping[str, Any]
) -> None:
    """Write a round's files; written again they are the same."""
    own = folder / f"round_{number}"
    save_tensors(own / _WEIGHTS, model.state_dict())
    save_tensors(own / _MASKS, masks)
    write_json(own / _PLAN, plan.to_dict())
    write_json(own / _REPORT, report)


def load_round(model: nn.Module, folder: Path | str, number: int) -> nn.Module:
    """A round's compact model, in evaluation mode.

    Args:
        model: of the dense model's code and shapes; its numbers do not matter, and it is left as it is.
        folder: of the compression.
        number: of the round, from 1.

    Raises:
        CheckpointError: the round is not there, or is of another model.
    """
    own = Path(folder) / f"round_{number}"
    compact = apply_plan(model, Plan.from_dict(read_json(own / _PLAN), repr(str(own / _PLAN))))
    load_into(compact, load_tensors(own / _WEIGHTS), repr(str(own / _WEIGHTS)))
    return compact.eval()


def composed(first: Plan | None, second: Plan) -> Plan:
    """The plan that leads from the first's full model to the second's compact one.

    Args:
        first: None: the second starts from the full model.
        second: of the first's compact model.
    """
    if first is None:
        return second
    tensors = {name: dict(axes) for name, axes in first.tensors.items()}
    for name, axes in second.tensors.items():
        own = tensors.setdefault(name, {})
        for axis, kept in axes.items():
            own[axis] = [own[axis][position] for position in kept] if axis in own else list(kept)
    attributes = {path: dict(settings) for path, settings in first.attributes.items()}
    for path, settings in second.attributes.items():
        attributes.setdefault(path, {}).update(settings)
    return Plan(
        tensors,
        attributes,
        second.form,
        second.units,
        second.macs,
        second.params,
        first.full_macs,
        first.full_params,
        second.error,
        second.signal,
    )
