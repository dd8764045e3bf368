"""Reading the reference's `.pt` files without running what a pickle could hide."""

from __future__ import annotations

import os
import pickle
import resource
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from supernet.errors import CheckpointError

_FOR_TORCH = 1 << 30
"""Address space that reading takes besides the file's own content, bytes; measured: 0.1 GB."""
_COPIES = 4
"""How often reading may hold the file's content; torch holds it once or twice."""


def read_state_dict(path: Path) -> Mapping[str, Any]:
    """Read a file that `torch.save` wrote, if it holds nothing but tensors and plain values, and no more than it says.

    A file of 1 kB can declare a tensor of 64 GiB. While it is read, this process may take little more address space
    than the file is long; other threads had better wait.

    Args:
        path: the file, new or old (before torch 1.6) format.

    Returns:
        What it holds, on the CPU: a state dict, or one inside ``{"state_dict": ...}``.

    Raises:
        CheckpointError: the file is absent, damaged, not a mapping, a pickle that could run code, or declares more than
            it holds.
    """
    if path.is_dir():
        raise CheckpointError(f"{str(path)!r} is a folder; name the file in it that holds the state dict")
    if not path.is_file():
        raise CheckpointError(f"{str(path)!r} does not exist; check the path")
    size = path.stat().st_size
    _require_no_bomb(path, size)
    try:
        with warnings.catch_warnings(), _address_space(_FOR_TORCH + _COPIES * size):
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
        if isinstance(error, MemoryError) or "allocate memory" in str(error) or "bad_alloc" in str(error):
            raise _declares_more(path, size) from None
        raise _damaged(path, error) from None
    if not isinstance(content, Mapping):
        raise CheckpointError(
            f"{str(path)!r} holds a {type(content).__name__}; expected a state dict, names to tensors"
        )
    _require_whole_tensors(path, content, size)
    return content


def _is_saved(path: Path) -> bool:
    """Whether the file is as whole as one can tell from outside: a zip archive, or (old format) a pickle."""
    with path.open("rb") as file:
        return file.read(1) == pickle.PROTO or zipfile.is_zipfile(path)


def _damaged(path: Path, error: Exception) -> CheckpointError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return CheckpointError(f"{str(path)!r} is truncated or not a file of torch.save ({reason}); fetch it again")


def _require_no_bomb(path: Path, size: int) -> None:
    """Refuse an archive that holds more than its bytes: torch stores, and compresses nothing."""
    try:
        with zipfile.ZipFile(path) as archive:
            declared = sum(entry.file_size for entry in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return  # the old format, or damaged: torch says which
    if declared > size:
        raise _declares_more(path, size)


def _require_whole_tensors(path: Path, content: Mapping[str, Any], size: int) -> None:
    """Refuse tensors that repeat their storage, which would need room as soon as they are copied."""
    inner = content.get("state_dict")
    for value in [*content.values(), *(inner.values() if isinstance(inner, Mapping) else ())]:
        if not isinstance(value, torch.Tensor) or value.layout is not torch.strided:
            continue
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise _declares_more(path, size)


def _declares_more(path: Path, size: int) -> CheckpointError:
    return CheckpointError(
        f"{str(path)!r} has {size} bytes and declares tensors that need more: refused; save its state dict anew, with"
        " every tensor's own values"
    )


@contextmanager
def _address_space(more: int) -> Iterator[None]:
    """Let this process take so many bytes of address space more than it has, for the length of a `with` block."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    try:
        has = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:  # not Linux: what is left are the checks of what was read
        yield
        return
    cap = has + more
    resource.setrlimit(resource.RLIMIT_AS, (cap if soft == resource.RLIM_INFINITY else min(cap, soft), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
