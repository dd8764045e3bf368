"""What Prometheus reads at /metrics: counted as it happens, or read from the database and the system at each scrape.

The registry belongs to one application. Several API processes each have an address of their own and are scraped one by
one; what they read from the shared database they all tell alike: a dashboard takes the maximum of it, not the sum.
Labels take few values: templates of paths, never paths; kinds and states of jobs, never ids.
"""

from __future__ import annotations

import platform
import threading
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from importlib.metadata import PackageNotFoundError, version

import structlog
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy.orm import Session
from sqlalchemy.pool import QueuePool

from service.domain import JobState, utc_now
from service.errors import BusyError
from service.jobs import queue
from service.storage import executors, figures
from service.storage.database import Database
from supernet.errors import StorageError

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_LATENCIES_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_JOBS_S = (0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0)
_OVERLAP = timedelta(minutes=2)
_MOST_ENDED = 1000
_log = structlog.get_logger(__name__)


class Metrics:
    """The figures of one application.

    Args:
        database: of the service; asked when somebody scrapes.
    """

    def __init__(self, database: Database) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call] # a time beside every counter would double what is sent
        self._registry = CollectorRegistry()
        labels = ("route", "method", "status")
        self._requests = Counter("onceforall_http_requests", "Requests answered.", labels, registry=self._registry)
        self._seconds = Histogram(
            "onceforall_http_request_seconds",
            "Time from a request's first byte to its answer's last one; event streams are left out.",
            ("route", "method"),
            buckets=_LATENCIES_S,
            registry=self._registry,
        )
        self.event_streams = Gauge(
            "onceforall_event_streams", "Server-sent event streams that are open.", registry=self._registry
        )
        build = Gauge("onceforall_build_info", "Always 1.", ("version", "python"), registry=self._registry)
        build.labels(package_version(), platform.python_version()).set(1)
        ProcessCollector(registry=self._registry)
        self._registry.register(_Stored(database))

    def note_request(self, method: str, route: str, status: int, seconds: float) -> None:
        """A request has ended.

        Args:
            method: HTTP method, of a closed list.
            route: template of the path.
            status: HTTP status.
            seconds: from its beginning to its end.
        """
        self._requests.labels(route, method, str(status)).inc()
        if not route.endswith("/events"):
            self._seconds.labels(route, method).observe(seconds)

    def text(self) -> bytes:
        """All figures in Prometheus's text format."""
        return generate_latest(self._registry)


def package_version() -> str:
    """The installed version; "unknown" in a checkout that was not installed."""
    try:
        return version("onceforall")
    except PackageNotFoundError:
        return "unknown"


class _EndedJobs:
    """Durations of the jobs that end while this process runs, wherever they run, read from the database.

    Hosts write the time of the end by their own clocks and commit a little later, so a span that was read is read again
    for `_OVERLAP`, and what was counted there is remembered.
    """

    def __init__(self) -> None:
        self._seconds = Histogram(
            "onceforall_job_seconds",
            "Time from a job's last start to its end, of the jobs that ended since this process began.",
            ("kind", "state"),
            buckets=_JOBS_S,
            registry=None,
        )
        self._begin = self._from = utc_now()
        self._counted: dict[tuple[str, str], None] = {}
        self._lock = threading.Lock()

    def collect(self) -> Iterable[Metric]:
        """What was counted so far."""
        return self._seconds.collect()

    def look(self, session: Session) -> None:
        """Count what has ended since the last look."""
        with self._lock:
            while True:
                found = figures.ended_since(session, self._from, _MOST_ENDED)
                fresh = [job for job in found if (job.id, job.ended_at) not in self._counted]
                for job in fresh:
                    self._counted[job.id, job.ended_at] = None
                    if job.started_at is not None:
                        spent = _seconds_between(job.started_at, job.ended_at)
                        self._seconds.labels(job.kind, job.state).observe(spent)
                if len(found) < _MOST_ENDED or found[-1].ended_at == self._from:
                    break
                self._from = found[-1].ended_at
            recent = datetime.now(UTC) - _OVERLAP
            self._from = max(self._begin, recent.isoformat(timespec="microseconds"))
            self._counted = {key: None for key in self._counted if key[1] >= self._from}


class _Stored(Collector):
    """What the database knows. A database that refuses costs these figures, and not the scrape."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._ended = _EndedJobs()

    def describe(self) -> list[Metric]:
        """Nothing is asked of the database before the first scrape."""
        return []

    def collect(self) -> Iterator[Metric]:
        yield from self._pool()
        answers = GaugeMetricFamily("onceforall_database_up", "Whether the database answered this scrape.")
        try:
            found = list(self._rows())
        except (StorageError, BusyError) as error:
            _log.warning("metrics_without_database", error=str(error))
            found = []
        answers.add_metric([], float(bool(found)))
        yield answers
        yield from found
        yield from self._ended.collect()

    def _rows(self) -> Iterator[Metric]:
        with self._database.session() as session:
            counts = figures.jobs_by_kind(session)
            oldest = figures.oldest_waiting(session)
            usage = figures.usage(session)
            hosts = executors.alive(session, queue.SILENCE_S)
            self._ended.look(session)
        jobs = GaugeMetricFamily("onceforall_jobs", "Jobs by kind and state.", labels=("kind", "state"))
        for kind in sorted({kind for kind, _ in counts}):
            for state in JobState:
                jobs.add_metric([kind, state.value], counts.get((kind, state.value), 0))
        yield jobs
        age = 0.0 if oldest is None else _seconds_between(oldest, utc_now())
        yield _gauge("onceforall_job_queue_age_seconds", "Time that the oldest waiting job has waited.", age)
        yield _gauge("onceforall_job_hosts", "Processes that do jobs and gave a sign of life.", hosts)
        sizes = GaugeMetricFamily(
            "onceforall_artifact_bytes", "Size of the stored files by their owners.", labels=("of",)
        )
        files = GaugeMetricFamily("onceforall_artifact_files", "Number of those files.", labels=("of",))
        for what, used in usage.items():
            sizes.add_metric([what], used.size_bytes)
            files.add_metric([what], used.files)
        yield sizes
        yield files

    def _pool(self) -> Iterator[Metric]:
        pool = self._database.engine.pool
        if isinstance(pool, QueuePool):
            family = GaugeMetricFamily(
                "onceforall_database_connections", "Connections of this process's pool.", labels=("state",)
            )
            family.add_metric(["in_use"], pool.checkedout())
            family.add_metric(["idle"], pool.checkedin())
            yield family


def _gauge(name: str, text: str, value: float) -> Metric:
    family = GaugeMetricFamily(name, text)
    family.add_metric([], value)
    return family


def _seconds_between(begin: str, end: str) -> float:
    return max((datetime.fromisoformat(end) - datetime.fromisoformat(begin)).total_seconds(), 0.0)
