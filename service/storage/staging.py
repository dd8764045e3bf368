"""Files on their way into the artefact store or out of it: noted first, so that a killed process leaves no orphan.

In: `note` the files in a transaction of their own; write them to the store; then `enter` the row that names them, which
settles the ticket in the same transaction. Out: in one transaction, delete the row that names them and `leave` them;
then `sweep`.

A process that dies in between leaves its notes, and a later `sweep` removes the files that nothing else names. What is
to be removed is chosen and noted as such in an exclusive session, and removed after it: a store may be slow, and nobody
else can note files in such a session. Who wants to store a file that is being removed waits until it is gone.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Collection, Iterable
from datetime import UTC, datetime, timedelta

from sqlalchemy import ColumnElement, delete, select
from sqlalchemy.orm import Session

from service.domain import utc_now
from service.errors import LateError
from service.storage import pruning_runs, subnets, supernets, uses
from service.storage.artifacts import ArtifactStore
from service.storage.database import Database
from service.storage.models import StagedFileRow
from supernet.errors import OnceForAllError, StorageError

GRACE_S = 3600.0
"""Age at which a note is taken for a dead process's: between a note and its settling lie the writing of some files."""
ABANDONED_S = 600.0
"""Age at which a removal is taken for a dead process's. One that lives begins none later than `_REMOVING_S` after it
chose the files, and the store's client gives up after three minutes."""
_REMOVING_S = 60.0
_AT_ONCE = 100
_PATIENCE_S, _LOOK_S = 20.0, 0.05
_REMOVAL = "removal-"


def note(database: Database, digests: Iterable[str], *, process: str) -> str:
    """Announce files that a process is about to store.

    Returns:
        A ticket for `enter`.

    Raises:
        StorageError: one of them is just being removed, and that does not end.
    """
    wanted = set(digests)
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        with database.session(exclusive=True) as session:
            leaving = next((sha256 for sha256 in sorted(wanted) if is_leaving(session, sha256)), None)
            if leaving is None:
                return _write_down(session, wanted, process)
        if time.monotonic() > deadline:
            raise StorageError(
                f"the file {leaving} is being removed, for more than {_PATIENCE_S:g} s already; try again in"
                f" {ABANDONED_S / 60:g} minutes"
            )
        time.sleep(_LOOK_S)


def enter(
    database: Database,
    artifacts: ArtifactStore,
    ticket: str,
    digests: Collection[str],
    insert: Callable[[Session], bool],
) -> bool:
    """Insert the row that names stored files, in one exclusive transaction with the end of their notes.

    Args:
        database: of the rows.
        artifacts: of the files.
        ticket: of their notes.
        digests: of the files.
        insert: inserts the row; False where that is not to be: then the files go, unless something else names them.

    Returns:
        Whether the row was inserted.

    Raises:
        LateError: the notes are gone: the process was taken for dead, and its files may have been removed. Those that
            are left, or were stored after that, go; they also do where `insert` refuses.
        StorageError: the database refuses.
    """
    refusal: OnceForAllError | None = None
    try:
        with database.session(exclusive=True) as session:
            if insert(session):
                settle(session, ticket)
                return True
    except OnceForAllError as error:
        if isinstance(error, StorageError) and not isinstance(error, LateError):
            raise  # the database refuses, so a later sweep has to do it
        refusal = error
    with database.session(exclusive=True) as session:
        session.execute(delete(StagedFileRow).where(StagedFileRow.ticket == ticket))
        mine = leave(session, digests)
    sweep(database, artifacts, tickets=[mine])
    if refusal is not None:
        raise refusal
    return False


def settle(session: Session, ticket: str) -> None:
    """The files of a ticket have a row that names them, inserted in this transaction.

    Raises:
        LateError: the notes are gone.
    """
    mine = delete(StagedFileRow).where(StagedFileRow.ticket == ticket)
    if not list(session.scalars(mine.returning(StagedFileRow.sha256))):
        raise LateError("files were stored so slowly that their space was freed meanwhile; try again")


def leave(session: Session, digests: Iterable[str]) -> str:
    """The row that named these files was deleted in this transaction, an exclusive one.

    Returns:
        A ticket for `sweep`.
    """
    return _write_down(session, digests, "")


def is_leaving(session: Session, sha256: str) -> bool:
    """Whether a file is just being removed: it may still be there, and will not be."""
    query = select(StagedFileRow.ticket).where(StagedFileRow.sha256 == sha256, _is_removal()).limit(1)
    return session.scalar(query) is not None


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
        older_than_s: age in seconds of the notes of any process; what others began to remove, and left, goes as well.

    Returns:
        Number of files that were removed.
    """
    lost = StagedFileRow.ticket.in_(list(tickets)) | StagedFileRow.process.in_(list(processes))
    if older_than_s is not None:
        lost |= StagedFileRow.staged_at <= _ago(older_than_s)
        lost |= _is_removal() & (StagedFileRow.staged_at <= _ago(ABANDONED_S))
    count = 0
    while True:
        with database.session() as session:  # most find nothing, and need not keep others waiting
            if session.scalar(select(StagedFileRow.ticket).where(lost).limit(1)) is None:
                return count
        with database.session(exclusive=True) as session:
            chosen = list(session.scalars(select(StagedFileRow.sha256).where(lost).distinct().limit(_AT_ONCE)))
            session.execute(delete(StagedFileRow).where(lost, StagedFileRow.sha256.in_(chosen)))
            ticket, unused = _choose(session, chosen)
        count += _remove(database, artifacts, ticket, unused)


def remove_unused(database: Database, artifacts: ArtifactStore, digests: Collection[str]) -> set[str]:
    """Remove those of these files, a few hundred at most, that no row names and nobody is about to store.

    Returns:
        Digests of what was removed.
    """
    with database.session(exclusive=True) as session:
        ticket, unused = _choose(session, digests)
    _remove(database, artifacts, ticket, unused)
    return set(unused)


def in_use(session: Session) -> set[str]:
    """Digests of all files that a row names or that are on their way."""
    return set(session.scalars(select(StagedFileRow.sha256))) | named(session)


def named(session: Session) -> set[str]:
    """Digests of all files that a row names, read from the rows themselves, which takes a second for 100,000."""
    return supernets.files_in_use(session) | subnets.files_in_use(session) | pruning_runs.files_in_use(session)


def _choose(session: Session, digests: Collection[str]) -> tuple[str, list[str]]:
    """Note which of these files are to be removed now; exclusive session.

    Another removal of a file does not keep it from being removed: the other process may have been at it before the file
    was written again. Twice does no harm, and who wants to store it waits for both.
    """
    coming = select(StagedFileRow.sha256).where(StagedFileRow.sha256.in_(list(digests)), ~_is_removal())
    kept = uses.needed(session, digests) | set(session.scalars(coming))
    unused = sorted(set(digests) - kept)
    return _write_down(session, unused, "", prefix=_REMOVAL), unused


def _remove(database: Database, artifacts: ArtifactStore, ticket: str, digests: Collection[str]) -> int:
    """Remove what was chosen; what is not removed in time, or refuses to be, is left to a later sweep."""
    begin, gone = time.monotonic(), list[str]()
    try:
        for sha256 in digests:
            if time.monotonic() - begin > _REMOVING_S:
                break
            artifacts.delete(sha256)
            gone.append(sha256)
    finally:
        if gone:
            with database.session() as session:
                mine = delete(StagedFileRow).where(StagedFileRow.ticket == ticket)
                session.execute(mine.where(StagedFileRow.sha256.in_(gone)))
    return len(gone)


def _write_down(session: Session, digests: Iterable[str], process: str, *, prefix: str = "") -> str:
    ticket, now = f"{prefix}{uuid.uuid4().hex}", utc_now()
    session.add_all(
        StagedFileRow(sha256=sha256, ticket=ticket, process=process, staged_at=now) for sha256 in set(digests)
    )
    session.flush()
    return ticket


def _is_removal() -> ColumnElement[bool]:
    return StagedFileRow.ticket.startswith(_REMOVAL)


def _ago(seconds: float) -> str:
    return (datetime.now(UTC) - timedelta(seconds=seconds)).isoformat(timespec="microseconds")
