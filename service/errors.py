"""Errors of the service beside the project's tree: what a client can only see over HTTP."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from supernet.errors import CheckpointError, OnceForAllError, StorageError


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong with a request.

    Attributes:
        where: path of the value, such as ``body.constraints.0.max``.
        message: what is wrong, what is allowed.
    """

    where: str
    message: str


class NotFoundError(OnceForAllError):
    """Nothing has this id or name."""


class ConflictError(OnceForAllError):
    """The request contradicts what is stored."""


class DamagedError(CheckpointError):
    """A stored file is gone or was altered: a fault of the service, whatever was asked."""


class LateError(StorageError):
    """Files were stored so slowly that their space was freed meanwhile; try again."""


class ForbiddenError(OnceForAllError):
    """The caller may see this, and not change it."""


class BackendError(StorageError):
    """The database or the artefact store refused.

    Args:
        message: for the operator and the log: with the address and its own words.
        told: for everybody else.
    """

    def __init__(self, message: str, told: str) -> None:
        super().__init__(message, told)  # both, so that it can be pickled
        self.told = told

    def __str__(self) -> str:
        return str(self.args[0])


class BusyError(OnceForAllError):
    """Too much is going on; try again later."""


class FaultsError(OnceForAllError):
    """Values of the request that are not allowed, all of them.

    Args:
        faults: at least one.
    """

    def __init__(self, faults: Sequence[Fault]) -> None:
        super().__init__("; ".join(f"{fault.where}: {fault.message}" for fault in faults))
        self.faults = tuple(faults)


class InfeasibleError(OnceForAllError):
    """No subnet meets the budget; `details` names the tightest limit and the nearest subnet."""

    def __init__(self, message: str, details: dict[str, Any]) -> None:
        super().__init__(message)
        self.details = details


def told(error: OnceForAllError) -> str:
    """What a client may read of an error."""
    return error.told if isinstance(error, BackendError) else str(error)
