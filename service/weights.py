"""Weights that somebody uploads for pruning runs: checked, and kept for an hour unless a run names them."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy.orm import Session

from service.context import Context
from service.domain import StoredFile
from service.errors import Fault, FaultsError
from service.storage import staging
from service.storage.artifacts import stored_file
from service.tensorfile import check_tensor_file

NAME = "weights.safetensors"


def store(context: Context, path: Path) -> tuple[StoredFile, int]:
    """Check an uploaded file and store it. It is announced and named by no row, so it goes like what a killed upload
    left: after `staging.GRACE_S`, unless a run names it by then.

    Returns:
        The file, and the number of its tensors.

    Raises:
        CheckpointError: it is not a sound safetensors file.
        StorageError: the disk is full.
    """
    tensors = check_tensor_file(path, name=NAME)
    file = stored_file(path, name=NAME)
    staging.note(context.database, [file.sha256], process=context.process)
    context.artifacts.put_file(path, name=NAME)
    return file, len(tensors)


def find(context: Context, sha256: str) -> StoredFile | None:
    """The stored file of that digest; None where it is not, or not any more."""
    size = context.artifacts.size_bytes(sha256)
    return None if size is None else StoredFile(NAME, sha256, size)


def require(context: Context, session: Session, sha256: str) -> None:
    """See that the file is there, in the exclusive session that inserts the row which names it.

    Raises:
        FaultsError: it is gone.
    """
    if staging.is_leaving(session, sha256) or not context.artifacts.has(sha256):
        raise FaultsError([gone(sha256)])


def gone(sha256: str) -> Fault:
    """What to say where it is not there."""
    return Fault(
        "body.source.weights",
        f"no weights {sha256!r}, or no more: unused ones go after an hour; POST the file to /api/v1/weights",
    )
