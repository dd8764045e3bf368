"""Every error that this project raises on purpose, in one tree.

OnceForAllError
├── ConfigError            a setting, name, budget or subnet outside of what is allowed (also a ValueError)
├── DataError              images that are missing, unreadable, or too few
├── CheckpointError        a stored file that is truncated, altered, or made for something else
├── RunBusyError           another process is at work in the same run folder
├── StorageError           the disk is full, read-only, or the path cannot be written
├── ExportError            an exported network that does not compute what the subnet computes
├── CaptureError           a model whose computation cannot be followed
├── ConstructionError      a compact network that does not compute what the pruned model computes
├── MissingPackageError    a package of an optional extra that is not installed
├── TableError             a latency table that is malformed or lacks rows
└── InfeasibleBudgetError  no subnet of the space meets the budget

A message holds what failed, the value received, what is allowed, and the next step, on one line.
The command line prints it as it is and exits with status 2; the service answers it as problem+json.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike


class OnceForAllError(Exception):
    """Base of all errors that a user can mend.

    Attributes:
        process: of many that train together, the one that tells the user; None: the first.
    """

    process: int | None = None


class ConfigError(OnceForAllError, ValueError):
    """A setting, name, budget or subnet outside of what is allowed."""


class DataError(OnceForAllError):
    """Images that are missing, unreadable, or too few."""


class CheckpointError(OnceForAllError):
    """A stored file that is truncated, altered, or made for something else."""


class RunBusyError(OnceForAllError):
    """Another process is at work in the same run folder."""


class StorageError(OnceForAllError):
    """The disk is full, read-only, or the path cannot be written."""


class ExportError(OnceForAllError):
    """An exported network that does not compute what the subnet computes."""


class CaptureError(OnceForAllError):
    """A model whose computation cannot be followed."""


class ConstructionError(OnceForAllError):
    """A compact network that does not compute what the pruned model computes."""


class MissingPackageError(OnceForAllError):
    """A package of an optional extra that is not installed."""


class TableError(OnceForAllError):
    """A latency table that is malformed or lacks rows."""


class InfeasibleBudgetError(OnceForAllError):
    """No subnet of the space meets the budget."""


def one_of(what: str, value: object, allowed: object) -> str:
    """The project's standard sentence for a value that is not among the allowed ones."""
    listed = ", ".join(str(item) for item in allowed) if isinstance(allowed, list | tuple) else str(allowed)
    return f"unknown {what} {value!r}; allowed: {listed}"


@contextmanager
def writing(path: str | PathLike[str]) -> Iterator[None]:
    """Translate an OSError raised while `path` is written into a StorageError that names it."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise StorageError(
            f"cannot write {str(path)!r}: {reason}; free some space or choose another folder, then try again"
        ) from error
