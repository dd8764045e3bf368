"""`Idempotency-Key`: the same key with another request is a mistake of the client's, and refused.

Every POST of this interface is idempotent by itself: equal requests, tables and runs are one. So a repeated request is
answered anew, with what is true now, and the key only guards against being used twice for different things. A request
that was refused uses up no key: it can be mended and sent again.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
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
            if key_of(request) is None:
                return await handler(request)
            async with claimed(request, await _digest(request)) as claim:
                response = await handler(request)
                claim.kept = response.status_code < 400
                claim.answer = hashlib.sha256(bytes(getattr(response, "body", b""))).hexdigest()
            return response

        return guarded


@dataclass
class Claim:
    """A request's hold on its key.

    Attributes:
        kept: whether the key is used up.
        answer: digest of the answer.
    """

    kept: bool = True
    answer: str = ""


def key_of(request: Request) -> str | None:
    """The request's key; None where it has none.

    Raises:
        FaultsError: it is not written as one.
    """
    key = request.headers.get(HEADER)
    if key is not None and re.fullmatch(PATTERN[1:-1], key) is None:
        raise FaultsError([Fault(f"header.{HEADER}", "allowed: 1 to 128 printable ASCII characters, no space")])
    return key


@asynccontextmanager
async def claimed(request: Request, digest: str) -> AsyncIterator[Claim]:
    """Hold the request's key, if it has one, while the request is answered; an error lets go of it.

    Args:
        request: the request.
        digest: of all that tells it from others.

    Raises:
        FaultsError: the key was used for another request.
    """
    claim, key = Claim(), key_of(request)
    if key is None:
        yield claim
        return
    context: Context = request.app.state.context
    caller: Caller = getattr(request.state, "caller", ANYBODY)
    owner = caller.key_id or ""
    new = await run_in_threadpool(_claim, context, owner, key, digest)
    try:
        yield claim
    except Exception:
        claim.kept = False
        raise
    finally:
        if claim.kept:
            await run_in_threadpool(_answered, context, owner, key, claim.answer)
        elif new:
            await run_in_threadpool(_release, context, owner, key)


async def _digest(request: Request) -> str:
    """Of the method, the address and the body, which the handler then finds read already."""
    hasher = hashlib.sha256(f"{request.method} {request.url.path}?{request.url.query}\n".encode())
    hasher.update(await request.body())
    return hasher.hexdigest()


def _claim(context: Context, owner: str, key: str, digest: str) -> bool:
    """Whether the key is new; one that was used for this request already is not."""
    oldest = (datetime.now(UTC) - _KEPT).isoformat(timespec="microseconds")
    with context.database.session(exclusive=True) as session:
        known = rows.used_for(session, owner, key)
        if known is None:
            rows.use(session, owner, key, digest, forget_before=oldest)
    if known not in (None, digest):
        message = f"{key!r} was used for another request within the last day; choose a new key for a new request"
        raise FaultsError([Fault(f"header.{HEADER}", message)])
    return known is None


def _answered(context: Context, owner: str, key: str, answer: str) -> None:
    with context.database.session(exclusive=True) as session:
        rows.answered(session, owner, key, answer)


def _release(context: Context, owner: str, key: str) -> None:
    with context.database.session(exclusive=True) as session:
        rows.release(session, owner, key)
