"""Files on their way into the artefact store or out of it: noted first, so that a killed process leaves no orphan.

In: `note` the files in a transaction of their own; write them to the store; in one transaction, insert the row that
names them and `settle` the ticket. Out: in one transaction, delete the row that names them and `leave` them; then
`sweep`.

A process that dies in between leaves its notes, and a later `sweep` removes the files that nothing else names. Notes
and removals happen in exclusive sessions, so a file that somebody notes is either still there or written again by him.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable
from datetime import UTC, datetime, timedelta

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from service.domain import utc_now
from service.storage import pruning_runs, subnets, supernets
from service.storage.artifacts import ArtifactStore
from service.storage.database import Database
from service.storage.models import StagedFileRow
from supernet.errors import StorageError

GRACE_S = 3600.0
"""Age at which a note is taken for a dead process's: between a note and its settling lie the writing of some files."""


def note(database: Database, digests: Iterable[str], *, process: str) -> str:
    """Announce files that a process is about to store.

    Returns:
        A ticket for `settle`.
    """
    with database.session(exclusive=True) as session:
        return _write_down(session, digests, process)


def settle(session: Session, ticket: str) -> None:
    """The files of a ticket have a row that names them, inserted in this transaction.

    Raises:
        StorageError: the notes are gone: the process was taken for dead, and its files may have been removed.
    """
    mine = delete(StagedFileRow).where(StagedFileRow.ticket == ticket)
    if not list(session.scalars(mine.returning(StagedFileRow.sha256))):
        raise StorageError("files were stored so slowly that their space was freed meanwhile; try again")


def leave(session: Session, digests: Iterable[str]) -> str:
    """The row that named these files was deleted in this transaction, an exclusive one.

    Returns:
        A ticket for `sweep`.
    """
    return _write_down(session, digests, "")


def sweep(
    database: Database,
    artifacts: ArtifactStore,
    *,
    tickets: Collection[str] = (),
    processes: Collection[str] = (),
    older_than_s: float | None = None,
) -> int:
    """Remove noted files that nothing else names.

    Args:
        database: of the notes.
        artifacts: of the files.
        tickets: whose files.
        processes: whose files, because these processes are known to have ended.
        older_than_s: age in seconds of the notes of any process.

    Returns:
        Number of files that were removed.
    """
    lost = StagedFileRow.ticket.in_(list(tickets)) | StagedFileRow.process.in_(list(processes))
    if older_than_s is not None:
        oldest = datetime.now(UTC) - timedelta(seconds=older_than_s)
        lost |= StagedFileRow.staged_at <= oldest.isoformat(timespec="microseconds")
    with database.session() as session:
        if session.scalar(select(StagedFileRow.ticket).where(lost).limit(1)) is None:
            return 0
    with database.session(exclusive=True) as session:
        digests = set(session.scalars(delete(StagedFileRow).where(lost).returning(StagedFileRow.sha256)))
        unused = digests - in_use(session)
        for sha256 in unused:
            artifacts.delete(sha256)
    return len(unused)


def in_use(session: Session) -> set[str]:
    """Digests of all files that a row names or that are on their way."""
    return set(session.scalars(select(StagedFileRow.sha256))) | named(session)


def named(session: Session) -> set[str]:
    """Digests of all files that a row names."""
    return supernets.files_in_use(session) | subnets.files_in_use(session) | pruning_runs.files_in_use(session)


def _write_down(session: Session, digests: Iterable[str], process: str) -> str:
    ticket, now = uuid.uuid4().hex, utc_now()
    session.add_all(
        StagedFileRow(sha256=sha256, ticket=ticket, process=process, staged_at=now) for sha256 in set(digests)
    )
    session.flush()
    return ticket
