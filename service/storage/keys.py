"""Rows of keys, of the jobs that they submitted, and of the idempotency keys that were used with them."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from service.domain import utc_now
from service.keys import Key, Scope
from service.storage.jobs import ACTIVE
from service.storage.models import IdempotencyRow, JobOwnerRow, JobRow, KeyRow


def add(session: Session, key: Key) -> None:
    """Insert a key."""
    session.add(KeyRow(**(asdict(key) | {"scopes": sorted(key.scopes)})))


def get(session: Session, key_id: str) -> Key | None:
    """The key of that id."""
    row = session.get(KeyRow, key_id)
    return None if row is None else _key(row)


def every(session: Session) -> list[Key]:
    """All keys, oldest first; those that ended too."""
    return [_key(row) for row in session.scalars(select(KeyRow).order_by(KeyRow.created_at, KeyRow.id))]


def revoke(session: Session, key_id: str) -> bool:
    """End a key now, once; False where there is none of that id."""
    row = session.get(KeyRow, key_id)
    if row is not None and row.revoked_at is None:
        row.revoked_at = utc_now()
    return row is not None


def own_job(session: Session, job_id: str, key_id: str | None) -> None:
    """Note which key submitted a job last; None: no key was needed."""
    row = session.get(JobOwnerRow, job_id)
    if key_id is None:
        if row is not None:
            session.delete(row)
    elif row is None:
        session.add(JobOwnerRow(job_id=job_id, key_id=key_id))
    else:
        row.key_id = key_id


def owner_of(session: Session, job_id: str) -> str | None:
    """Id of the key that submitted a job last; None: no key was needed."""
    return session.scalar(select(JobOwnerRow.key_id).where(JobOwnerRow.job_id == job_id))


def count_active(session: Session, key_id: str) -> int:
    """Jobs of a key that wait or run."""
    query = select(func.count()).select_from(JobOwnerRow).join(JobRow, JobRow.id == JobOwnerRow.job_id)
    return session.scalar(query.where(JobOwnerRow.key_id == key_id, JobRow.state.in_(ACTIVE))) or 0


def used_for(session: Session, owner: str, key: str) -> str | None:
    """Digest of the request that an idempotency key was used for; None where it is new."""
    row = session.get(IdempotencyRow, (owner, key))
    return None if row is None else row.request_digest


def use(session: Session, owner: str, key: str, request_digest: str, *, forget_before: str) -> None:
    """Note what an idempotency key is used for, and forget those that are older than `forget_before`."""
    session.execute(delete(IdempotencyRow).where(IdempotencyRow.created_at < forget_before))
    session.add(
        IdempotencyRow(owner=owner, key=key, request_digest=request_digest, response_digest=None, created_at=utc_now())
    )


def answered(session: Session, owner: str, key: str, response_digest: str) -> None:
    """Note the answer to the request of an idempotency key."""
    row = session.get(IdempotencyRow, (owner, key))
    if row is not None:
        row.response_digest = response_digest


def release(session: Session, owner: str, key: str) -> None:
    """Forget an idempotency key whose request was refused, unless an equal request was answered meanwhile."""
    here = (IdempotencyRow.owner == owner) & (IdempotencyRow.key == key) & IdempotencyRow.response_digest.is_(None)
    session.execute(delete(IdempotencyRow).where(here))


def _key(row: Any) -> Key:
    return Key(
        row.id,
        row.name,
        row.secret_sha256,
        frozenset(map(Scope, row.scopes)),
        row.requests_per_minute,
        row.max_active_jobs,
        row.created_at,
        row.expires_at,
        row.revoked_at,
    )
