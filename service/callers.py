"""Who asks, and how much of the service one of them may keep busy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from service import logs
from service.context import Context
from service.errors import BusyError, ForbiddenError
from service.keys import Key, Scope
from service.storage import jobs
from service.storage import keys as rows


@dataclass(frozen=True)
class Caller:
    """Who sent a request.

    Attributes:
        key: the key that came with it; None where no key is needed and none was sent.
        looks_only: whether the request starts nothing, whatever its key may do: a HEAD, and what a browser sends for a
            page of another site, which can hold this service's addresses as pictures.
    """

    key: Key | None = None
    looks_only: bool = False

    @property
    def key_id(self) -> str | None:
        """Id of the key."""
        return None if self.key is None else self.key.id

    def allows(self, scope: Scope) -> bool:
        """Whether the caller may do what needs `scope`; who needs no key may do everything."""
        return self.key is None or self.key.allows(scope)

    def require_start(self) -> None:
        """Refuse to start a job for somebody who may not.

        Raises:
            ForbiddenError: the key has not the scope, or the request starts nothing.
        """
        if self.looks_only:
            raise ForbiddenError(
                "this would start a job, which a page of another site and a HEAD may not; ask from this service's own"
                " page, or with a program"
            )
        if self.key is not None and not self.allows(Scope.REQUEST):
            has = ", ".join(sorted(self.key.scopes))
            raise ForbiddenError(
                f"this would start a job, which needs the scope request; key {self.key.id} has: {has}; ask the"
                " service's operator for another"
            )


ANYBODY = Caller()
"""Who needs no key."""


def cancel(context: Context, caller: Caller, job_id: str) -> None:
    """End a job that is there, for a caller; one that has ended stays as it is.

    Raises:
        ForbiddenError: it is another key's, or nobody's, and the caller's key is no operator's.
    """
    if caller.key is not None and not caller.allows(Scope.ADMIN):
        with context.database.session() as session:
            owner = rows.owner_of(session, job_id)
        if owner != caller.key.id:
            raise ForbiddenError(
                f"job {job_id[:12]} was not started with key {caller.key.id}; a key ends its own jobs, one with the"
                " scope admin all of them"
            )
    context.engine.cancel(job_id)


def submit(
    context: Context, session: Session, caller: Caller, kind: str, job_id: str, payload: Mapping[str, Any]
) -> None:
    """Queue a job for a caller in the transaction of `session`, an exclusive one, so that no two pass a cap together.

    Raises:
        ForbiddenError: the caller may start none.
        BusyError: too many jobs wait or run already, in all or of the caller.
    """
    known = jobs.get(session, job_id)
    if known is not None and not known.state.is_final:
        return
    caller.require_start()
    active = jobs.count_active(session)
    if active >= context.settings.max_active_jobs:
        raise BusyError(f"{active} jobs wait or run, no more are allowed; send the request again later")
    if caller.key is not None:
        allowed = caller.key.max_active_jobs or context.settings.key_active_jobs
        own = rows.count_active(session, caller.key.id)
        if own >= allowed:
            raise BusyError(
                f"{own} jobs of key {caller.key.id} wait or run, no more are allowed; wait for one, cancel one at"
                " /api/v1/jobs, or ask for a key with a higher cap"
            )
    context.engine.submit(session, kind, job_id, {**payload, "request_id": logs.request_id()})
    rows.own_job(session, job_id, caller.key_id)
