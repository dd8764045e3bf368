"""Whether this process can do its work now, and everything that keeps it from it."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote, urlsplit

import structlog

from service.context import Context
from service.errors import Fault, told
from supernet.errors import OnceForAllError

_PATIENCE_S = 3.0
"""A part that does not answer within this time is a fault; load balancers wait 5 s or so."""
_log = structlog.get_logger(__name__)


class Readiness:
    """Looks at the parts that requests need, all at the same time, and remembers for a moment what it saw.

    Args:
        context: of the service.
        patience_s: longest wait for a part.
    """

    def __init__(self, context: Context, *, patience_s: float = _PATIENCE_S) -> None:
        self._patience_s = patience_s
        self._reported: list[str] | None = None
        settings = context.settings
        folders = {settings.data_dir.resolve()}
        store = urlsplit(settings.resolved_artifact_url)
        if store.scheme == "file":
            folders.add(Path(unquote(store.path)))
        self._checks = (
            _Check("database", context.database.check, fresh_s=0.5),
            _Check("artifacts", context.artifacts.check, fresh_s=settings.ready_store_s),
            _Check("disk", lambda: _check_space(folders, settings.min_free_bytes), fresh_s=0.5),
            _Check("jobs", lambda: _check_jobs(context), fresh_s=0.5),
        )

    def faults(self) -> list[Fault]:
        """What is wrong, each named by its part; empty when the process is ready."""
        deadline = time.monotonic() + self._patience_s
        for check in self._checks:
            check.begin()
        found = [check.fault(deadline - time.monotonic()) for check in self._checks]
        faults = [fault for fault in found if fault is not None]
        parts = [fault.where for fault in faults]
        if parts != self._reported:  # not at every question: a load balancer asks once a second
            self._reported = parts
            if faults:
                _log.warning("not_ready", faults=[f"{fault.where}: {fault.message}" for fault in faults])
            else:
                _log.info("ready")
        return faults


class _Check:
    """One part. A look that hangs is not begun again, so that many questions do not make many hanging threads."""

    def __init__(self, name: str, look: Callable[[], None], *, fresh_s: float) -> None:
        self._name = name
        self._look = look
        self._fresh_s = fresh_s
        self._changed = threading.Condition()
        self._running_since: float | None = None
        self._seen_at = -float("inf")
        self._message: str | None = None

    def begin(self) -> None:
        """Look, unless what was seen is fresh or somebody looks already."""
        with self._changed:
            if self._running_since is not None or time.monotonic() - self._seen_at < self._fresh_s:
                return
            self._running_since = time.monotonic()
            threading.Thread(target=self._run, name=f"check-{self._name}", daemon=True).start()

    def fault(self, timeout_s: float) -> Fault | None:
        """What was seen, waiting for a look that was begun."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._running_since is None, max(timeout_s, 0)):
                since = time.monotonic() - (self._running_since or 0.0)
                return Fault(self._name, f"no answer for {since:.0f} s; see whether it can be reached from this host")
            return None if self._message is None else Fault(self._name, self._message)

    def _run(self) -> None:
        message: str | None = None
        try:
            self._look()
        except OnceForAllError as error:
            message = told(error)
            if message != str(error):
                _log.warning("check_failed", part=self._name, error=str(error))
        except Exception as error:
            _log.error("check_failed", part=self._name, exc_info=error)
            message = f"the check failed: {type(error).__name__}; the log has the details"
        with self._changed:
            self._message, self._seen_at, self._running_since = message, time.monotonic(), None
            self._changed.notify_all()


class NotReadyError(OnceForAllError):
    """A part cannot do its work now."""


def _check_space(folders: set[Path], least_bytes: int) -> None:
    for folder in sorted(folders):
        free = shutil.disk_usage(folder).free
        if free < least_bytes:
            raise NotReadyError(
                f"{free} bytes are free at {str(folder)!r}, {least_bytes} are needed; free some space, or lower"
                " ONCEFORALL_MIN_FREE_BYTES"
            )


def _check_jobs(context: Context) -> None:
    faults = context.engine.faults()
    if faults:
        raise NotReadyError("; ".join(faults))
