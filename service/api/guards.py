"""What every request passes before a router sees it: host, origin, encoding and size; what every answer carries."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.problems import problem

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


class Guards:
    """ASGI middleware.

    Args:
        app: the application.
        body_limit: path -> greatest number of bytes of a body.
        hosts: names in the Host header that are answered, without ports; None for any. A name that an attacker's page
            makes resolve to this machine is not among them.
    """

    def __init__(self, app: ASGIApp, *, body_limit: Callable[[str], int], hosts: frozenset[str] | None) -> None:
        self._app = app
        self._body_limit = body_limit
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = self._body_limit(scope["path"])
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit:
                raise HTTPException(413, _too_large(limit))
            return message

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        refusal = self._refusal(scope, limit)
        if refusal is not None:
            status, kind, detail = refusal
            await problem(status, kind, detail)(scope, receive, guarded)
            return
        await self._app(scope, counted, guarded)

    def _refusal(self, scope: Scope, limit: int) -> tuple[int, str, str] | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if self._hosts is not None and _host_name(host) not in self._hosts:
            return 421, "host", f"host {host[:80]!r} is not served here; allowed: {', '.join(sorted(self._hosts))}"
        origin = headers.get("origin")
        if scope["method"] not in _SAFE_METHODS and origin is not None and urlsplit(origin).netloc != host:
            return 403, "origin", f"a page of {origin[:80]!r} may not change anything here; use this service's own page"
        if headers.get("content-encoding", "identity") != "identity":
            return (
                415,
                "content-encoding",
                "a compressed body is not accepted; send it as it is, without Content-Encoding",
            )
        length = headers.get("content-length", "0")
        if length.isascii() and length.isdigit() and int(length[:20]) > limit:
            return 413, "too-large", _too_large(limit)
        return None


def _too_large(limit: int) -> str:
    return f"the body is too large; allowed here: at most {limit} bytes"


def _host_name(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
