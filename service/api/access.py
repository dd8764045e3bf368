"""Who may do what: the key of a request, its scopes and its rate; `/api/v1` and the page alike.

A key comes as ``Authorization: Bearer ofa_...``; a browser sends it as the password of HTTP Basic, whatever the user
name, because it can then open the page. A page of another site cannot use it: `guards` refuses its requests.
"""

from __future__ import annotations

import base64
import binascii
import math
import time
from collections import OrderedDict
from dataclasses import dataclass

from fastapi import Response
from fastapi.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api import API
from service.api.problems import from_error, problem
from service.callers import ANYBODY, Caller
from service.domain import utc_now
from service.keys import Key, matches, parse
from service.keys import Scope as KeyScope
from service.settings import Settings
from service.storage import keys as rows
from service.storage.database import Database
from supernet.errors import OnceForAllError

OPEN = ("/healthz", "/readyz", "/version", f"{API}/openapi.json", "/docs")
"""Paths that need no key; they tell nothing about what is stored. Those of `/static/` too."""
_READING_POSTS = ("/estimate",)
_REMEMBERED_S = 2.0
"""How long a key is remembered: a revoked one is refused that much later by a process that just saw it."""
_REMEMBERED = 1024
_SEEN: dict[str, str] = {"WWW-Authenticate": 'Bearer realm="onceforall"'}
_ASKED: dict[str, str] = {
    "WWW-Authenticate": 'Basic realm="onceforall: any name, the key as password", charset="UTF-8"'
}


def needed(method: str, path: str) -> KeyScope | None:
    """The scope that a request needs; None where it needs no key."""
    if path in OPEN or path.startswith("/static/"):
        return None
    if method in ("GET", "HEAD", "OPTIONS") or path.endswith(_READING_POSTS):
        return KeyScope.READ
    if method == "DELETE":
        return KeyScope.ADMIN
    if path.startswith((f"{API}/subnet-requests", f"{API}/pruning-runs", f"{API}/jobs", "/jobs")):
        return KeyScope.REQUEST
    return KeyScope.UPLOAD


class Access:
    """ASGI middleware that puts the `Caller` into the request's state.

    Args:
        app: the application.
        settings: of the service.
        database: rows of keys.
    """

    def __init__(self, app: ASGIApp, *, settings: Settings, database: Database) -> None:
        self._app = app
        self._settings = settings
        self._database = database
        self._remembered: OrderedDict[str, tuple[float, Key | None]] = OrderedDict()
        self._rates: OrderedDict[str, _Bucket] = OrderedDict()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http":
            found = await self._caller(scope)
            if isinstance(found, Response):
                await found(scope, receive, send)
                return
            scope.setdefault("state", {})["caller"] = found
        await self._app(scope, receive, send)

    async def _caller(self, scope: Scope) -> Caller | Response:
        path = scope["path"]
        wanted = needed(scope["method"], path)
        sent = Headers(scope=scope).get("authorization")
        if wanted is None:
            return ANYBODY
        # a browser says where its requests come from; it knows Basic alone, and sends a key unasked only below the path
        # of the page that asked for it
        from_browser = "sec-fetch-site" in Headers(scope=scope)
        challenge = _ASKED if from_browser or not path.startswith(API) else _SEEN
        looks_only = _looks_only(scope)
        if sent is None:
            if not self._settings.keys_required:
                return Caller(looks_only=looks_only)
            detail = "a key is needed here; send it as Authorization: Bearer ofa_..., or ask the service's operator"
            return problem(401, "no-key", detail, headers=challenge)
        try:
            key, reason = await self._key(sent)
        except OnceForAllError as error:
            return from_error(error)
        if key is None:
            return problem(401, "key", f"{reason}; ask the service's operator for another", headers=challenge)
        if not key.allows(wanted):
            has = ", ".join(sorted(key.scopes))
            return problem(403, "scope", f"this needs the scope {wanted}; key {key.id} has: {has}")
        wait = self._rate(key)
        if wait:
            detail = f"key {key.id} sent more requests than it may in a minute; send the request again in {wait} s"
            return problem(429, "rate", detail, headers={"Retry-After": str(wait)})
        return Caller(key, looks_only)

    async def _key(self, sent: str) -> tuple[Key | None, str]:
        """The valid key of an Authorization header, or why it is none."""
        parsed = parse(_key_text(sent))
        if parsed is None:
            return None, "the Authorization header holds no key of the form ofa_ID_SECRET"
        key_id, secret = parsed
        key = await self._look_up(key_id)
        if key is None or not matches(key, secret):
            return None, f"no key {key_id} with this secret"
        ended = key.ended(utc_now())
        return (None, ended) if ended else (key, "")

    async def _look_up(self, key_id: str) -> Key | None:
        seen = self._remembered.get(key_id)
        if seen is not None and time.monotonic() - seen[0] < _REMEMBERED_S:
            return seen[1]
        key = await run_in_threadpool(self._read, key_id)
        self._remembered[key_id] = time.monotonic(), key
        self._remembered.move_to_end(key_id)
        while len(self._remembered) > _REMEMBERED:
            self._remembered.popitem(last=False)
        return key

    def _read(self, key_id: str) -> Key | None:
        with self._database.session() as session:
            return rows.get(session, key_id)

    def _rate(self, key: Key) -> int:
        """Seconds that a key must wait; 0 where it need not."""
        allowed = key.requests_per_minute or self._settings.requests_per_minute
        bucket = self._rates.get(key.id)
        if bucket is None:
            bucket = self._rates[key.id] = _Bucket(float(allowed), time.monotonic())
            while len(self._rates) > _REMEMBERED:
                self._rates.popitem(last=False)
        self._rates.move_to_end(key.id)
        return bucket.take(allowed)


@dataclass
class _Bucket:
    """A minute's requests at once, refilled evenly."""

    tokens: float
    filled_at: float

    def take(self, per_minute: int) -> int:
        """Take one; 0, or the whole seconds until there is one."""
        now = time.monotonic()
        self.tokens = min(float(per_minute), self.tokens + (now - self.filled_at) * per_minute / 60)
        self.filled_at = now
        if self.tokens >= 1:
            self.tokens -= 1
            return 0
        return math.ceil((1 - self.tokens) * 60 / per_minute)


def _looks_only(scope: Scope) -> bool:
    """Whether a request starts nothing: see `Caller`. A browser says for which page it sends a request."""
    site = Headers(scope=scope).get("sec-fetch-site", "none")
    return scope["method"] == "HEAD" or site not in ("none", "same-origin")


def _key_text(header: str) -> str:
    scheme, _, value = header.strip().partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value, validate=True).decode().rpartition(":")[2]
        except (binascii.Error, ValueError):
            return ""
    return ""
