"""Every refusal as `application/problem+json` (RFC 9457), with all faults of the request listed."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from service import errors as service_errors
from service import logs
from service.errors import Fault
from supernet import errors

_log = structlog.get_logger(__name__)

_STATUS: tuple[tuple[type[errors.OnceForAllError], int, str], ...] = (
    (service_errors.NotFoundError, 404, "not-found"),
    (service_errors.ConflictError, 409, "conflict"),
    (service_errors.BusyError, 429, "busy"),
    (service_errors.ForbiddenError, 403, "scope"),
    (service_errors.DamagedError, 500, "damaged"),
    (service_errors.FaultsError, 422, "not-allowed"),
    (service_errors.InfeasibleError, 409, "infeasible-budget"),
    (errors.InfeasibleBudgetError, 409, "infeasible-budget"),
    (errors.RunBusyError, 409, "busy"),
    (errors.StorageError, 507, "storage"),
    (errors.TableError, 422, "latency-table"),
    (errors.CheckpointError, 422, "checkpoint"),
    (errors.OnceForAllError, 422, "not-allowed"),
)


def problem(
    status: int,
    kind: str,
    detail: str,
    *,
    faults: Sequence[Fault] = (),
    details: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """A problem document.

    Args:
        status: HTTP status.
        kind: last part of the problem's type; stable, for programs.
        detail: what happened, for people.
        faults: the single faults of the request.
        details: further members.
        headers: further headers.
    """
    request_id = logs.request_id()
    body = {
        "type": f"urn:onceforall:problem:{kind}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        **({"instance": f"urn:onceforall:request:{request_id}", "request_id": request_id} if request_id else {}),
        **({"faults": [{"where": fault.where, "message": fault.message} for fault in faults]} if faults else {}),
        **_finite(details or {}),
    }
    content = json.dumps(body, allow_nan=False)
    return Response(content, status, headers=dict(headers or {}), media_type="application/problem+json")


def install(app: FastAPI) -> None:
    """Answer every error of `app` with a problem document."""
    app.add_exception_handler(RequestValidationError, _on_validation)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(errors.OnceForAllError, _on_refusal)
    app.add_exception_handler(Exception, _on_crash)


def from_error(error: errors.OnceForAllError) -> Response:
    """The problem document of one of the project's errors."""
    status, kind = _kind_of(error)
    faults = error.faults if isinstance(error, service_errors.FaultsError) else ()
    details = error.details if isinstance(error, service_errors.InfeasibleError) else None
    headers = {"Retry-After": "5"} if status == 429 else None
    if isinstance(error, service_errors.BackendError):
        _log.error("backend_refused", error=str(error))
    return problem(status, kind, service_errors.told(error), faults=faults, details=details, headers=headers)


def status_of(error: errors.OnceForAllError) -> int:
    """The HTTP status of one of the project's errors."""
    return _kind_of(error)[0]


async def _on_refusal(request: Request, error: Exception) -> Response:
    assert isinstance(error, errors.OnceForAllError)
    return from_error(error)


async def _on_validation(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    found = error.errors()
    if any(fault["type"] == "json_invalid" for fault in found):
        fault = Fault("body", f"not JSON: {found[0].get('ctx', {}).get('error', 'malformed')}")
        return problem(400, "not-json", "the body is not JSON; send application/json", faults=[fault])
    faults = [
        Fault(".".join(map(str, fault["loc"]))[:200], f"{fault['msg']}{_received(fault.get('input'))}")
        for fault in found
    ]
    count = len(faults)
    detail = f"{count} value{'s are' if count != 1 else ' is'} not allowed; see faults, mend them and send again"
    return problem(422, "not-allowed", detail, faults=faults[:50])


async def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    kind = "busy" if error.status_code == 429 else HTTPStatus(error.status_code).phrase.lower().replace(" ", "-")
    detail = str(error.detail)
    if error.status_code == 404 and detail == "Not Found":
        detail = f"nothing is at {request.url.path[:200]!r}; see /api/v1/openapi.json for what is"
    headers = dict(error.headers or {})
    if error.status_code == 405 and (allowed := _methods(request)):
        headers["Allow"] = ", ".join(allowed)
        detail = f"{request.method} is not allowed here; allowed: {headers['Allow']}"
    return problem(error.status_code, kind, detail, headers=headers)


async def _on_crash(request: Request, error: Exception) -> Response:
    return crash(request.method, request.url.path, error)


def crash(method: str, path: str, error: Exception) -> Response:
    """The answer to an error that nobody expected; its traceback is logged, and not told."""
    _log.error("request_failed", method=method, path=path, exc_info=error)
    detail = f"a fault of the service, not of the request: {type(error).__name__}; its log has the details"
    return problem(500, "internal", detail)


def _methods(request: Request) -> list[str]:
    """All methods of an address; the framework names those of the first route that it came to."""
    path = request.url.path
    return sorted(
        method.upper()
        for template, methods in request.app.openapi()["paths"].items()
        if re.fullmatch(re.sub(r"\\{[^/]*?\\}", "[^/]+", re.escape(template)), path)
        for method in methods
    )


def _kind_of(error: errors.OnceForAllError) -> tuple[int, str]:
    return next((status, kind) for cls, status, kind in _STATUS if isinstance(error, cls))


def _received(value: Any) -> str:
    """The value, if it is short and plain; it is never echoed otherwise (a NaN in it cannot be written as JSON)."""
    return f", got {str(value)[:80]!r}" if isinstance(value, str | int | float | bool) else ""


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return value
