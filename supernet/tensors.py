"""Named tensors in safetensors files: written atomically, read with checks that the format itself does not make."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from supernet.errors import CheckpointError, writing
from supernet.files import atomic_path


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors to a safetensors file; it is whole or absent.

    Args:
        path: the file; one that is there stays until the new one is complete.
        tensors: by name.
        metadata: strings for the file's header.

    Raises:
        StorageError: the disk is full, read-only, or the folder cannot be written.
    """
    # copies, because safetensors refuses tensors that share memory
    layout = torch.contiguous_format
    plain = {name: tensor.detach().cpu().clone(memory_format=layout) for name, tensor in tensors.items()}
    with atomic_path(path) as temporary:
        try:
            save_file(plain, temporary, metadata=dict(metadata or {}))
        except SafetensorError as error:
            with writing(path):
                raise OSError(str(error)) from error


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises:
        CheckpointError: the file is absent, truncated, or not safetensors.
    """
    if not path.is_file():
        raise CheckpointError(f"{str(path)!r} does not exist; check the path")
    try:
        return load_file(path)
    except (SafetensorError, ValueError, OSError) as error:
        raise CheckpointError(
            f"{str(path)!r} is truncated or not a safetensors file ({error}); fetch or make it again"
        ) from None


def load_into(module: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Copy tensors into a module's parameters and buffers; they must match one to one.

    Args:
        module: the receiver; unchanged if anything is wrong.
        tensors: name -> tensor, as `module.state_dict()` has them.
        source: what to call the origin in an error.

    Raises:
        CheckpointError: names missing or left over, shapes or types that differ, values that are not finite.
    """
    expected = module.state_dict()
    faults = [f"{name} is missing" for name in expected if name not in tensors]
    faults += [f"{name} is unknown" for name in tensors if name not in expected]
    for name, have in expected.items():
        got = tensors.get(name)
        if got is None:
            continue
        if got.shape != have.shape or got.dtype != have.dtype:
            faults.append(
                f"{name} is {_describe(got)}, expected {_describe(have)}",
            )
        elif got.is_floating_point() and not torch.isfinite(got).all():
            faults.append(f"{name} holds values that are not finite")
    if faults:
        more = f"; and {len(faults) - 5} more" if len(faults) > 5 else ""
        raise CheckpointError(f"{source} does not fit the network: {'; '.join(faults[:5])}{more}")
    module.load_state_dict(dict(tensors))


def digest_of(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes: equal exactly where all tensors are equal bit for bit."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _describe(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
