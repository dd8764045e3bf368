"""Keys: who may do what. A key is shown once, when it is made; only the SHA-256 of its secret is stored."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from service.domain import utc_now

_TEXT = re.compile(r"ofa_([0-9a-f]{12})_([A-Za-z0-9_-]{43})")


class Scope(StrEnum):
    """What a key may do.

    `read`: see and download what is there. `request`: start jobs, and end those that it started. `upload`: register
    supernets, devices, latency tables, weights. `admin`: all of these, end all jobs, and delete.
    """

    READ = "read"
    REQUEST = "request"
    UPLOAD = "upload"
    ADMIN = "admin"


@dataclass(frozen=True)
class Key:
    """What is known about a key.

    Attributes:
        id: the part of it that is no secret.
        name: who or what has it, in words.
        secret_sha256: a fast digest is enough for a random secret of 256 bits; nobody can try them all.
        scopes: what it may do.
        requests_per_minute: cap on its requests; None: the service's.
        max_active_jobs: cap on its jobs that wait or run; None: the service's.
        expires_at: when it ends, ISO 8601 in UTC; None: never.
        revoked_at: when it was revoked; None: it was not.
    """

    id: str
    name: str
    secret_sha256: str
    scopes: frozenset[Scope]
    requests_per_minute: int | None
    max_active_jobs: int | None
    created_at: str
    expires_at: str | None
    revoked_at: str | None

    def allows(self, scope: Scope) -> bool:
        """Whether the key may do what needs `scope`."""
        return scope in self.scopes or Scope.ADMIN in self.scopes

    def ended(self, now: str) -> str | None:
        """Why the key is valid no more at `now`; None while it is."""
        if self.revoked_at is not None:
            return f"key {self.id} was revoked"
        if self.expires_at is not None and self.expires_at <= now:
            return f"key {self.id} expired at {self.expires_at}"
        return None


def new_key(
    name: str,
    scopes: Collection[Scope],
    *,
    days: float | None = None,
    requests_per_minute: int | None = None,
    max_active_jobs: int | None = None,
) -> tuple[str, Key]:
    """A new key as text, which nobody can find out again, and what is stored of it.

    Args:
        name: who or what has it.
        scopes: what it may do.
        days: until it expires; None: never.
        requests_per_minute: cap on its requests; None: the service's.
        max_active_jobs: cap on its jobs that wait or run; None: the service's.
    """
    key_id, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
    expires = None if days is None else (datetime.now(UTC) + timedelta(days=days)).isoformat(timespec="microseconds")
    key = Key(
        key_id, name, _digest(secret), frozenset(scopes), requests_per_minute, max_active_jobs, utc_now(), expires, None
    )
    return f"ofa_{key_id}_{secret}", key


def parse(text: str) -> tuple[str, str] | None:
    """A key's id and secret; None for what is no key."""
    match = _TEXT.fullmatch(text)
    return None if match is None else (match[1], match[2])


def matches(key: Key, secret: str) -> bool:
    """Whether a secret is the key's, in a time that does not depend on how far it agrees."""
    return hmac.compare_digest(key.secret_sha256, _digest(secret))


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
