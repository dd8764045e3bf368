"""Who needs a stored file or a latency table: looked up by index, however much is stored.

The rows that name files are the truth; every function that inserts or deletes one keeps this list in the same
transaction. It is asked in exclusive sessions, where reading the files of all subnets took a second for 100,000.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Literal

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from service.storage.models import UseRow

Owner = Literal["supernet", "table", "front", "request", "subnet"]
_TABLE = "table "
_AT_ONCE = 500


def add(session: Session, kind: Owner, owner_id: str, *, files: Iterable[str] = (), tables: Iterable[str] = ()) -> None:
    """A row needs these files, by their SHA-256, and these latency tables, by their ids; saying so twice is once."""
    needed = {*files, *(f"{_TABLE}{table}" for table in tables)}
    owner = f"{kind} {owner_id}"
    known = set(session.scalars(select(UseRow.needed).where(UseRow.owner == owner)))
    session.add_all(UseRow(needed=one, owner=owner) for one in needed - known)
    session.flush()


def drop(session: Session, kind: Owner, owner_ids: Collection[str]) -> set[str]:
    """Rows that were deleted in this transaction need nothing any more.

    Returns:
        Digests of the files that they needed, for `staging.leave`.
    """
    found: set[str] = set()
    owners = [f"{kind} {owner_id}" for owner_id in owner_ids]
    for start in range(0, len(owners), _AT_ONCE):
        here = delete(UseRow).where(UseRow.owner.in_(owners[start : start + _AT_ONCE]))
        found.update(session.scalars(here.returning(UseRow.needed)))
    return {one for one in found if not one.startswith(_TABLE)}


def needed(session: Session, files: Collection[str]) -> set[str]:
    """Which of these files some row needs; at most a few hundred at a time."""
    return set(session.scalars(select(UseRow.needed).where(UseRow.needed.in_(list(files))).distinct()))


def prices(session: Session, table_id: str) -> bool:
    """Whether a request or a front was priced with a latency table."""
    query = select(UseRow.owner).where(UseRow.needed == f"{_TABLE}{table_id}").limit(1)
    return session.scalar(query) is not None


def files(session: Session) -> set[str]:
    """Digests of all files that rows need."""
    return {one for one in session.scalars(select(UseRow.needed).distinct()) if not one.startswith(_TABLE)}
