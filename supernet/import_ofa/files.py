"""Reading the reference's `.pt` files without running what a pickle could hide."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from supernet.errors import CheckpointError


def read_state_dict(path: Path) -> Mapping[str, Any]:
    """Read a file that `torch.save` wrote, if it holds nothing but tensors and plain values.

    Args:
        path: the file, new or old (before torch 1.6) format.

    Returns:
        What it holds, on the CPU: a state dict, or one inside ``{"state_dict": ...}``.

    Raises:
        CheckpointError: the file is absent, damaged, not a mapping, or a pickle that could run code.
    """
    if path.is_dir():
        raise CheckpointError(f"{str(path)!r} is a folder; name the file in it that holds the state dict")
    if not path.is_file():
        raise CheckpointError(f"{str(path)!r} does not exist; check the path")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own, about its old file format
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if not _is_saved(path):
            raise _damaged(path, error) from None
        raise CheckpointError(
            f"{str(path)!r} holds more than tensors and plain values, and reading that could run code: refused; "
            'save its state dict alone, torch.save({"state_dict": net.state_dict()}, ...), on a machine that trusts it'
        ) from None
    except Exception as error:
        raise _damaged(path, error) from None
    if not isinstance(content, Mapping):
        raise CheckpointError(
            f"{str(path)!r} holds a {type(content).__name__}; expected a state dict, names to tensors"
        )
    return content


def _is_saved(path: Path) -> bool:
    """Whether the file is as whole as one can tell from outside: a zip archive, or (old format) a pickle."""
    with path.open("rb") as file:
        return file.read(1) == pickle.PROTO or zipfile.is_zipfile(path)


def _damaged(path: Path, error: Exception) -> CheckpointError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return CheckpointError(f"{str(path)!r} is truncated or not a file of torch.save ({reason}); fetch it again")
