"""The outermost layer of the application: names every request, logs it, counts it, and answers what nobody caught."""

from __future__ import annotations

import re
import time
import uuid
from typing import Any

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.problems import crash
from service.metrics import Metrics

_GIVEN = re.compile(r"[A-Za-z0-9._-]{1,64}")
_GONE = 499
"""Status in logs and metrics of a request whose client left before there was an answer; nobody receives it."""
_OFTEN = ("/healthz", "/readyz", "/metrics")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_log = structlog.get_logger(__name__)


class RequestLog:
    """ASGI middleware. A request's id is its `X-Request-ID`, or made; it is in that header of the answer, in problem
    documents, and in every log line that is written on the request's behalf.

    Args:
        app: the application.
        metrics: where requests are counted.
    """

    def __init__(self, app: ASGIApp, *, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _GIVEN.fullmatch(given) else uuid.uuid4().hex
        status = 0
        begin = time.perf_counter()

        async def named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-ID"] = request_id
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self._app(scope, receive, named)
            except ClientDisconnect:
                status = status or _GONE
            except Exception as error:
                answer = crash(scope["method"], route_of(scope), error)
                if status:
                    raise  # too late for an answer; the server cuts the connection
                await answer(scope, receive, named)
            finally:
                self._note(scope, status or _GONE, time.perf_counter() - begin)

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        method = scope["method"] if scope["method"] in _METHODS else "other"
        route = route_of(scope)
        self._metrics.note_request(method, route, status, seconds)
        key_id = getattr(scope.get("state", {}).get("caller"), "key_id", None)
        key: dict[str, Any] = {"key": key_id} if key_id else {}
        log = _log.debug if route in _OFTEN and status < 400 else _log.info
        log("request", method=method, route=route, status=status, duration_ms=round(1000 * seconds, 2), **key)


def route_of(scope: Scope) -> str:
    """The template of the path, such as ``/api/v1/jobs/{job}``, so that there are few; "none" for unknown ones."""
    template = getattr(scope.get("route"), "path", None)
    if isinstance(template, str):
        # Routers that are included may know their own part only; what stands before it holds no parameters.
        return str(scope["path"]).rsplit("/", template.count("/"))[0] + template
    folder = scope.get("root_path") if "endpoint" in scope else None  # of files
    return str(folder) if folder else "none"
