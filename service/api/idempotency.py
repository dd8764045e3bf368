"""`Idempotency-Key`: the same key with another request is a mistake of the client's, and refused.

Every POST of this interface is idempotent by itself: equal requests, tables and runs are one. So a repeated request is
answered anew, with what is true now, and the key only guards against being used twice for different things.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any

from fastapi import Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.routing import APIRoute

from service.callers import ANYBODY, Caller
from service.context import Context
from service.errors import Fault, FaultsError
from service.storage import keys as rows

HEADER = "Idempotency-Key"
PATTERN = r"^[\x21-\x7e]{1,128}$"
_KEPT = timedelta(days=1)


class IdempotentRoute(APIRoute):
    """A route whose POSTs mind the header."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler, with the check before it."""
        handler = super().get_route_handler()
        if "POST" not in (self.methods or ()):
            return handler

        async def guarded(request: Request) -> Response:
            key = request.headers.get(HEADER)
            if key is None:
                return await handler(request)
            if re.fullmatch(PATTERN[1:-1], key) is None:
                raise FaultsError([Fault(f"header.{HEADER}", "allowed: 1 to 128 printable ASCII characters, no space")])
            context: Context = request.app.state.context
            caller: Caller = getattr(request.state, "caller", ANYBODY)
            owner = caller.key_id or ""
            digest = await _digest(request)
            await run_in_threadpool(_claim, context, owner, key, digest)
            response = await handler(request)
            answer = hashlib.sha256(bytes(getattr(response, "body", b""))).hexdigest()
            await run_in_threadpool(_answered, context, owner, key, answer)
            return response

        return guarded


async def _digest(request: Request) -> str:
    """Of the method, the address and the body, which the handler then finds read already."""
    hasher = hashlib.sha256(f"{request.method} {request.url.path}?{request.url.query}\n".encode())
    hasher.update(await request.body())
    return hasher.hexdigest()


def _claim(context: Context, owner: str, key: str, digest: str) -> None:
    oldest = (datetime.now(UTC) - _KEPT).isoformat(timespec="microseconds")
    with context.database.session(exclusive=True) as session:
        known = rows.used_for(session, owner, key)
        if known is None:
            rows.use(session, owner, key, digest, forget_before=oldest)
    if known not in (None, digest):
        message = f"{key!r} was used for another request within the last day; choose a new key for a new request"
        raise FaultsError([Fault(f"header.{HEADER}", message)])


def _answered(context: Context, owner: str, key: str, answer: str) -> None:
    with context.database.session(exclusive=True) as session:
        rows.answered(session, owner, key, answer)
