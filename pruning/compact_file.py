"""A compact model as a folder: `compact.safetensors`, `compact.pt2`, `plan.json`, `card.json`; no pickle.

`compact.pt2` is an exported program, which `torch.export.load` runs without the code of the model; the safetensors file
and the plan rebuild it from that code (`pruning.compact_modules.apply_plan`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pruning.plan import Plan
from supernet.errors import ExportError
from supernet.export import MAX_ERROR, relative_error
from supernet.files import atomic_path, sha256_file, write_json
from supernet.tensors import save_tensors

WEIGHTS, PROGRAM, PLAN, CARD = "compact.safetensors", "compact.pt2", "plan.json", "card.json"


def save_compact(
    folder: Path, compact: nn.Module, plan: Plan, card: Mapping[str, Any], example: Tensor
) -> dict[str, Any]:
    """Write the four files; the folder is made where it is absent.

    Args:
        folder: where to.
        compact: in evaluation mode, on the CPU.
        plan: by which it was cut.
        card: what is known about it, as JSON types.
        example: a batch of its input.

    Returns:
        The card as written: with the digests of the other files.

    Raises:
        ExportError: the written program does not compute what the model computes.
        StorageError: a file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    save_tensors(folder / WEIGHTS, compact.state_dict())
    write_json(folder / PLAN, plan.to_dict())
    with torch.no_grad(), atomic_path(folder / PROGRAM) as temporary:
        batch = torch.export.Dim("batch", min=1)
        program = torch.export.export(compact, (example,), dynamic_shapes=({0: batch},))
        with temporary.open("wb") as file:
            torch.export.save(program, file)
        with temporary.open("rb") as file:
            loaded = torch.export.load(file).module()
        error = max(relative_error(loaded(part), compact(part)) for part in (example, example[:1]))
        if not error <= MAX_ERROR:
            raise ExportError(
                f"{str(folder / PROGRAM)!r}: outputs differ from the compact model's by {error:.1e} of the largest; "
                f"allowed: {MAX_ERROR:.0e}; nothing was written"
            )
    whole = {**card, "sha256": {name: sha256_file(folder / name) for name in (WEIGHTS, PROGRAM, PLAN)}}
    write_json(folder / CARD, whole)
    return whole
