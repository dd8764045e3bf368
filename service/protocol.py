"""HTTP/1.1 as uvicorn speaks it, with caps on what comes before and between a request's bytes of body.

uvicorn's httptools protocol keeps any number of header bytes in memory and waits for them for ever.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

MAX_HEAD_BYTES = 64 * 1024
"""Request line and headers, besides the first read of the socket; the frames of a chunked body and its trailers too,
besides 16 bytes for each of the body."""
HEAD_TIMEOUT_S = 10.0
"""From the connection, or the first byte of a further request, to the end of the headers."""
_FRAME_BYTES = 16
_TOO_LARGE = b"431 Request Header Fields Too Large", b"the headers are too large"
_TOO_SLOW = b"408 Request Timeout", b"the headers did not come in time"


class CappedProtocol(HttpToolsProtocol):
    """See the module."""

    _timer: asyncio.TimerHandle | None = None
    _received = 0
    _body_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client connects."""
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        self._cancel_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes came."""
        self._received += len(data)
        super().data_received(data)
        if self._received - self._body_bytes > MAX_HEAD_BYTES + _FRAME_BYTES * self._body_bytes:
            self._refuse(*_TOO_LARGE)

    def on_message_begin(self) -> None:
        """A request begins."""
        self._received = self._body_bytes = 0
        self._await_head()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Its headers are here."""
        self._cancel_timer()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Bytes of its body are here."""
        self._body_bytes += len(body)
        super().on_body(body)

    def _await_head(self) -> None:
        self._cancel_timer()
        self._timer = self.loop.call_later(HEAD_TIMEOUT_S, self._refuse, *_TOO_SLOW)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _refuse(self, status: bytes, reason: bytes) -> None:
        """Answer by hand, since no application was called, and hang up."""
        if self.transport.is_closing():
            return
        cycle: RequestResponseCycle | None = self.cycle  # None before the first request, whatever uvicorn's types say
        if cycle is None or cycle.response_complete:
            body = b'{"type": "about:blank", "status": %s, "detail": "%s"}' % (status[:3], reason)
            head: list[Any] = [b"HTTP/1.1 ", status, b"\r\ncontent-type: application/problem+json\r\nconnection: close"]
            self.transport.write(b"".join([*head, b"\r\ncontent-length: %d\r\n\r\n" % len(body), body]))
        self.transport.close()
