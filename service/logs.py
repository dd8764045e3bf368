"""Logs: one JSON object a line (or words, on a terminal), for our own events and for those of every library."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping, MutableMapping
from contextlib import AbstractContextManager
from typing import Any, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from service.settings import Settings

_HIDDEN = "***"
_SECRETS = (
    (re.compile(r"\b(ofa_[A-Za-z0-9]{1,64}_)[A-Za-z0-9_-]+"), rf"\1{_HIDDEN}"),  # keys: the id may be seen
    (re.compile(r"(\b[a-z][a-z0-9+.-]*://[^\s:/@'\"]*:)[^\s@'\"]+(?=@)", re.IGNORECASE), rf"\1{_HIDDEN}"),  # URLs
    (re.compile(r"(?i)\b((?:bearer|basic)\s+)[A-Za-z0-9._~+/=-]{8,}"), rf"\1{_HIDDEN}"),
)
_SECRET_NAME = re.compile(r"(?i)password|passwd|secret|token|authorization|cookie|api_?key|access_?key")
_QUIET = {
    "alembic": logging.INFO,
    "sse_starlette": logging.WARNING,
    "httpx": logging.WARNING,
    "httpcore": logging.WARNING,
    "asyncio": logging.WARNING,
    "multipart": logging.WARNING,
    "python_multipart": logging.WARNING,
}
"""Loggers of libraries that tell more than an operator reads, and the least level that is passed on."""
_CHATTER = re.compile(r"^(Context impl |Will assume |setup plugin )")  # alembic's, at every start


def configure(settings: Settings, stream: TextIO | None = None) -> None:
    """Send every log line of this process to one stream; for the process's own entry point, once.

    Args:
        settings: `log_format` ("auto": words where the stream is a terminal, otherwise JSON) and `log_level`.
        stream: where to; standard error when not given.
    """
    stream = stream or sys.stderr
    words = settings.log_format == "console" or (settings.log_format == "auto" and stream.isatty())
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.UnicodeDecoder(),
    ]
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    last: list[Processor] = (
        [structlog.dev.ConsoleRenderer(colors=stream.isatty())]
        if words
        else [_in_order, structlog.processors.JSONRenderer(default=str)]
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder()],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.StackInfoRenderer(),
                _without_colours,
                structlog.processors.format_exc_info,  # before secrets are hidden: messages of errors hold URLs
                hide_secrets,
                *last,
            ],
        )
    )
    handler.addFilter(lambda record: not _CHATTER.match(str(record.msg)))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    dbos = logging.getLogger("dbos")  # gives itself a handler where it has none
    dbos.handlers[:], dbos.propagate = [handler], False
    root.setLevel(level)
    for name, least in _QUIET.items():
        logging.getLogger(name).setLevel(max(least, level))
    logging.captureWarnings(True)


def hide_secrets(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Processor: whatever is named or looks like a secret becomes ``***``, in nested values and tracebacks too."""
    hidden = _hide(event)
    assert isinstance(hidden, MutableMapping)
    return hidden


def of_job(job_id: str, payload: Mapping[str, Any]) -> AbstractContextManager[None]:
    """Lines written in the `with` block carry the job's id, and that of the request that asked for it."""
    asked = {"request_id": payload["request_id"]} if payload.get("request_id") else {}
    return structlog.contextvars.bound_contextvars(job_id=job_id, **asked)


def request_id() -> str | None:
    """Id of the request that this code works for; None outside of one."""
    found = structlog.contextvars.get_contextvars().get("request_id")
    return found if isinstance(found, str) else None


def _in_order(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """What every line has stands first, for those who read the lines as they are."""
    first = {name: event[name] for name in ("timestamp", "level", "event") if name in event}
    return {**first, **event}


def _without_colours(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Uvicorn's lines carry a copy for terminals."""
    event.pop("color_message", None)
    return event


def _hide(value: Any) -> Any:
    if isinstance(value, str):
        for pattern, replacement in _SECRETS:
            value = pattern.sub(replacement, value)
        return value
    if isinstance(value, Mapping):
        return {
            name: _HIDDEN if isinstance(name, str) and _SECRET_NAME.search(name) and entry is not None else _hide(entry)
            for name, entry in value.items()
        }
    if isinstance(value, list | tuple):
        return [_hide(entry) for entry in value]
    return value if isinstance(value, int | float | bool) or value is None else _hide(str(value))
