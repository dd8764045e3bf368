"""The interface described as OpenAPI 3.1: every refusal as a problem document, keys, and the headers that all share."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute

from service.api.access import needed
from service.api.idempotency import HEADER, PATTERN

_PROBLEM = {"$ref": "#/components/schemas/Problem"}
_EXAMPLES: dict[int, dict[str, Any]] = {
    400: {"kind": "not-json", "detail": "the body is not JSON; send application/json"},
    401: {"kind": "no-key", "detail": "a key is needed here; send it as Authorization: Bearer ofa_..."},
    403: {"kind": "scope", "detail": "this needs the scope admin; key 0f3a5b7c9d1e has: read, request"},
    404: {"kind": "not-found", "detail": "no device 'note10'; see /api/v1/devices for those that exist"},
    408: {"kind": "request-timeout", "detail": "the body came too slowly: 12 bytes in 10 s"},
    409: {"kind": "conflict", "detail": "device 'note10' is described otherwise already; choose another name"},
    413: {"kind": "too-large", "detail": "the body is too large; allowed here: at most 262144 bytes"},
    415: {"kind": "unsupported-media-type", "detail": "Content-Type is 'text/plain'; allowed: application/json"},
    416: {"kind": "range", "detail": "range 'bytes=9999-' lies outside of the file's 1024 bytes"},
    421: {"kind": "host", "detail": "host 'example.org' is not served here; allowed: 127.0.0.1, ::1, localhost"},
    422: {
        "kind": "not-allowed",
        "detail": "1 value is not allowed; see faults, mend them and send again",
        "faults": [{"where": "body.constraints.0.max", "message": "Input should be greater than 0, got '-1'"}],
    },
    429: {"kind": "busy", "detail": "64 jobs wait or run, no more are allowed; send the request again later"},
    431: {"kind": "headers", "detail": "the headers are too large"},
    500: {"kind": "internal", "detail": "a fault of the service, not of the request; its log has the details"},
    503: {"kind": "not-ready", "detail": "not ready: database: no answer for 3 s; see whether it can be reached"},
    507: {"kind": "storage", "detail": "the database refused: database or disk is full; free some space"},
}
_EVERYWHERE = (403, 421, 429, 500, 507)
_WITH_BODY = (400, 408, 413, 415)

PREFER: dict[str, Any] = {
    "name": "Prefer",
    "in": "header",
    "required": False,
    "description": "`wait=10` (RFC 7240): answer when the job has ended, or after 10 seconds; other preferences pass",
    "schema": {"type": "string"},
    "example": "wait=10",
}
IDEMPOTENCY_KEY: dict[str, Any] = {
    "name": HEADER,
    "in": "header",
    "required": False,
    "description": "the same key with another request is refused (422) for a day",
    "schema": {"type": "string", "pattern": PATTERN},
    "example": "2f1c6c1e-6f0b-4f4e-9a54-0d4c2c6f5b8a",
}
ETAG: dict[str, Any] = {
    "ETag": {"schema": {"type": "string"}, "description": "the content's SHA-256 in quotes"},
    "Repr-Digest": {"schema": {"type": "string"}, "description": "the same as RFC 9530 has it"},
}
CONDITIONS: list[dict[str, Any]] = [
    {
        "name": name,
        "in": "header",
        "required": False,
        "description": description,
        "schema": {"type": "string"},
        "example": example,
    }
    for name, description, example in (
        ("If-None-Match", "304 where it names the ETag", f'"{"0" * 64}"'),
        ("Range", "one range of bytes; of several, and of JSON, the whole file is sent", "bytes=0-1023"),
        ("If-Range", "the whole file unless it is the ETag", f'"{"0" * 64}"'),
    )
]
IF_NONE_MATCH = CONDITIONS[0]


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Refusals as `responses=` of a route."""
    return {status: _response(status) for status in statuses}


def operation_id(route: APIRoute) -> str:
    """What generated clients call an operation, such as ``subnet_requests_ask``."""
    return "_".join([*map(str, route.tags[:1]), route.name]).lower().replace(" ", "_")


def install(app: FastAPI) -> None:
    """Describe `app` when somebody asks, once."""

    def describe() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app)
        return app.openapi_schema

    app.openapi = describe  # type: ignore[method-assign]


def _document(app: FastAPI) -> dict[str, Any]:
    document = get_openapi(
        title=app.title,
        version=app.version,
        summary=app.summary,
        description=(
            "Every refusal is a problem document (RFC 9457) that lists all faults of the request. Lists are cut into"
            " slices: pass `next_cursor` as `cursor`. A POST that is repeated changes nothing. On an address that other"
            " machines can reach a key is needed."
        ),
        routes=app.routes,
        separate_input_output_schemas=False,
    )
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    schemas["Problem"] = _problem_schema()
    components["securitySchemes"] = {
        "key": {"type": "http", "scheme": "bearer", "bearerFormat": "ofa_ID_SECRET"},
        "password": {"type": "http", "scheme": "basic", "description": "any user name, the key as the password"},
    }
    optional = not app.state.context.settings.keys_required
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            _complete(path, method, operation, optional=optional)
    return document


def _complete(path: str, method: str, operation: dict[str, Any], *, optional: bool) -> None:
    """Add what all operations share, and no more than can happen; `optional`: whether it goes without a key."""
    scope = needed(method.upper(), path)
    responses = operation["responses"]
    if not operation.get("parameters") and "requestBody" not in operation:
        responses.pop("422", None)
    statuses = [*_EVERYWHERE, *(_WITH_BODY if "requestBody" in operation else ())]
    if scope is not None:
        statuses.append(401)
        operation["security"] = [*([{}] if optional else []), {"key": []}, {"password": []}]
        operation["description"] = f"{operation.get('description', '')}\n\nScope of the key: `{scope}`.".strip()
    for status in statuses:
        responses.setdefault(str(status), _response(status))
    operation["responses"] = dict(sorted(responses.items()))


def _response(status: int) -> dict[str, Any]:
    example = dict(_EXAMPLES[status])
    kind = example.pop("kind")
    document = {
        "type": f"urn:onceforall:problem:{kind}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        **example,
    }
    response: dict[str, Any] = {
        "description": HTTPStatus(status).phrase,
        "content": {"application/problem+json": {"schema": _PROBLEM, "example": document}},
    }
    if status in (429, 503):
        seconds = {"schema": {"type": "integer", "minimum": 1}, "description": "seconds until it is worth while"}
        response["headers"] = {"Retry-After": seconds}
    return response


def _problem_schema() -> dict[str, Any]:
    return {
        "title": "Problem",
        "description": "A refusal (RFC 9457). Programs tell them apart by `type`; further members depend on it.",
        "type": "object",
        "required": ["type", "title", "status", "detail"],
        "properties": {
            "type": {"type": "string", "pattern": "^urn:onceforall:problem:[a-z-]+$"},
            "title": {"type": "string"},
            "status": {"type": "integer", "minimum": 400, "maximum": 599},
            "detail": {"type": "string", "description": "what happened and what to do, for people"},
            "faults": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["where", "message"],
                    "properties": {"where": {"type": "string"}, "message": {"type": "string"}},
                },
            },
            "tightest": {"type": "object", "description": "of an infeasible budget: the limit that is hardest to meet"},
            "nearest": {"type": "object", "description": "of an infeasible budget: the subnet that misses it least"},
            "offer": {
                "type": "object",
                "description": "of an infeasible budget: the pruning run that may meet it, to be POSTed as it is",
                "required": ["url", "body", "note"],
                "properties": {
                    "url": {"type": "string"},
                    "body": {"$ref": "#/components/schemas/PruningRunIn"},
                    "note": {"type": "string"},
                },
            },
        },
    }
