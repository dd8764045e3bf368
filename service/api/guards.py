"""What every request passes before a router sees it: number, host, origin, encoding, size and speed of the body."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from urllib.parse import urlsplit

from fastapi import Response
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.problems import problem
from service.errors import Fault
from service.settings import Settings

_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
        " form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
_ALWAYS_SERVED = ("/healthz", "/readyz", "/metrics")
_PROBES = ("/healthz", "/readyz")
"""Asked by supervisors that know an address and no name; they tell nothing about what is stored."""
_RETRY_S = 1


class Guards:
    """ASGI middleware.

    Args:
        app: the application.
        settings: of the service.
        body_limit: path -> greatest number of bytes of a body.
        hosts: names in the Host header that are answered, without ports; None for any. A name that an attacker's page
            makes resolve to this machine is not among them.
    """

    def __init__(
        self, app: ASGIApp, *, settings: Settings, body_limit: Callable[[str], int], hosts: frozenset[str] | None
    ) -> None:
        self._app = app
        self._settings = settings
        self._body_limit = body_limit
        self._hosts = hosts
        self._served = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = self._body_limit(scope["path"])

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        refusal = self._refusal(scope, limit)
        if refusal is not None:
            await refusal(scope, receive, guarded)
            return
        self._served += 1
        try:
            await self._app(scope, self._capped(receive, limit), guarded)
        finally:
            self._served -= 1

    def _capped(self, receive: Receive, limit: int) -> Receive:
        """The body, refused as soon as it is too large or comes too slowly."""
        settings = self._settings
        clock = asyncio.get_running_loop().time
        waited, received, ended = 0.0, 0, False

        async def capped() -> Message:
            nonlocal waited, received, ended
            if ended:
                return await receive()  # only the end of the connection can come, and that may take long
            # Only the time spent here counts: what the service itself takes between two pieces is not the client's.
            allowed = settings.body_timeout_s + received / settings.body_bytes_per_s
            started = clock()
            try:
                async with asyncio.timeout(max(allowed - waited, 0)):
                    message = await receive()
            except TimeoutError:
                detail = (
                    f"the body came too slowly: {received} bytes in {allowed:.0f} s; send it within"
                    f" {settings.body_timeout_s:g} s, or at {settings.body_bytes_per_s} bytes a second"
                )
                raise HTTPException(408, detail, {"Connection": "close"}) from None
            waited += clock() - started
            received += len(message.get("body", b""))
            ended = not message.get("more_body", False)
            if received > limit:
                raise HTTPException(413, _too_large(limit), {"Connection": "close"})
            return message

        return capped

    def _refusal(self, scope: Scope, limit: int) -> Response | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if self._served >= self._settings.max_requests and scope["path"] not in _ALWAYS_SERVED:
            detail = f"{self._served} requests are served, no more at a time; send the request again later"
            return problem(429, "busy", detail, headers={"Retry-After": str(_RETRY_S)})
        probed = scope["path"] in _PROBES
        if self._hosts is not None and _host_name(host) not in self._hosts and not probed:
            detail = (
                f"host {host[:80]!r} is not served here; allowed: {', '.join(sorted(self._hosts))}; the operator names"
                " others in ONCEFORALL_ALLOWED_HOSTS"
            )
            return problem(421, "host", detail)
        origin = headers.get("origin")
        if scope["method"] not in _SAFE_METHODS and origin is not None and urlsplit(origin).netloc != host:
            detail = f"a page of {origin[:80]!r} may not change anything here; use this service's own page"
            return problem(403, "origin", detail)
        if headers.get("content-encoding", "identity") != "identity":
            detail = "a compressed body is not accepted; send it as it is, without Content-Encoding"
            return problem(415, "content-encoding", detail)
        if "\0" in scope["path"] or b"%00" in scope["query_string"]:  # SQLite takes it, PostgreSQL does not
            where = "path" if "\0" in scope["path"] else "query"
            fault = Fault(where, "it holds a zero character, %00; no name has one")
            return problem(422, "not-allowed", f"{where}: {fault.message}", faults=[fault])
        length = headers.get("content-length", "0")
        if length.isascii() and length.isdigit() and int(length[:20]) > limit:
            return problem(413, "too-large", _too_large(limit), headers={"Connection": "close"})
        return None


def _too_large(limit: int) -> str:
    return f"the body is too large; allowed here: at most {limit} bytes"


def _host_name(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
