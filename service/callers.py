"""Who asks, and how much of the service one of them may keep busy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from service import logs
from service.context import Context
from service.errors import BusyError
from service.keys import Key, Scope
from service.storage import jobs
from service.storage import keys as rows


@dataclass(frozen=True)
class Caller:
    """Who sent a request.

    Attributes:
        key: the key that came with it; None where no key is needed and none was sent.
    """

    key: Key | None = None

    @property
    def key_id(self) -> str | None:
        """Id of the key."""
        return None if self.key is None else self.key.id

    def allows(self, scope: Scope) -> bool:
        """Whether the caller may do what needs `scope`; who needs no key may do everything."""
        return self.key is None or self.key.allows(scope)


ANYBODY = Caller()
"""Who needs no key."""


def submit(
    context: Context, session: Session, caller: Caller, kind: str, job_id: str, payload: Mapping[str, Any]
) -> None:
    """Queue a job for a caller in the transaction of `session`, an exclusive one, so that no two pass a cap together.

    Raises:
        BusyError: too many jobs wait or run already, in all or of the caller.
    """
    known = jobs.get(session, job_id)
    if known is not None and not known.state.is_final:
        return
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
