"""What the page of jobs shows: one row a job, with what it was asked for in words."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from service import exports, fronts, pruning_spec, requests
from service.api.schemas import JobOut
from service.domain import FrontSpec, Job, JobState
from service.storage import jobs, pruning_runs, subnets, supernets
from service.web import words

PAGE_SIZE = 25


@dataclass(frozen=True)
class JobRow:
    """A row.

    Attributes:
        job: the job.
        task: what it makes, in words.
        limits: of the budget, in words.
        subnet: id of the subnet that it made.
        seconds: from its start to its last change, "3.2 s".
    """

    job: JobOut
    task: str
    limits: tuple[str, ...]
    subnet: str | None
    seconds: str


def browse(session: Session, state: str | None, cursor: str | None) -> dict[str, Any]:
    """Values of the page of jobs; a state that does not exist is none.

    Raises:
        ConfigError: a cursor of another list.
    """
    known = JobState(state) if state in tuple(JobState) else None
    found = jobs.page(session, PAGE_SIZE, cursor, state=known)
    return {
        "rows": [_row(session, job) for job in found.items],
        "state": known,
        "states": tuple(JobState),
        "next_cursor": found.next_cursor,
        "first_page": cursor is None,
    }


def _row(session: Session, job: Job) -> JobRow:
    task, limits = _task(session, job)
    return JobRow(JobOut.of(job), task, limits, _subnet(job), _seconds(job))


def _task(session: Session, job: Job) -> tuple[str, tuple[str, ...]]:
    """What a job makes, and what it keeps to."""
    match job.kind:
        case requests.MAKE_SUBNET:
            request = subnets.get_request(session, job.payload["request"])
            if request is not None:
                limits = tuple(map(words.limit, request.spec.budget))
                return f"Subnet of {_supernet(session, request.spec.supernet)}", limits
        case pruning_spec.PRUNE_NETWORK:
            run = pruning_runs.get(session, job.payload["request"])
            if run is not None:
                limits = tuple(words.limit(limit, of="the dense network") for limit in run.spec.budget)
                share = () if run.spec.sparsity is None else (f"Units that go ≥ {words.percent(run.spec.sparsity)}",)
                return f"Pruning of {_pruned(session, run.spec.source)} by {run.spec.method}", (*limits, *share)
        case exports.EXPORT_SUBNET:
            return f"{', '.join(job.payload['formats'])} of subnet {words.short(job.payload['subnet'])}", ()
        case fronts.FIND_FRONT:
            spec = FrontSpec.from_dict(job.payload["spec"])
            against = f"Against: {words.metric_name(spec.metric, spec.device)}"
            return f"Accuracy front of {_supernet(session, spec.supernet)}", (against,)
    return job.kind.replace("_", " "), ()


def _pruned(session: Session, source: pruning_spec.Source) -> str:
    """What is pruned, in words."""
    if isinstance(source, pruning_spec.Architecture):
        return source.architecture
    if isinstance(source, pruning_spec.StoredSubnet):
        return f"subnet {words.short(source.subnet)}"
    return f"a subnet of {_supernet(session, source.supernet)}"


def _supernet(session: Session, supernet_id: str) -> str:
    found = supernets.get(session, supernet_id)
    return "a deleted supernet" if found is None else found.name


def _subnet(job: Job) -> str | None:
    if job.kind == exports.EXPORT_SUBNET:
        return str(job.payload["subnet"])
    found = (job.result or {}).get("subnet")
    return None if found is None else str(found)


def _seconds(job: Job) -> str:
    begun, ended = (datetime.fromisoformat(time) for time in (job.created_at, job.updated_at))
    return f"{(ended - begun).total_seconds():.1f} s"
