"""What the service uses of dbos: two queues, each of one kind of workflow, in the service's own database.

A pruning run takes minutes to hours, everything else seconds. With queues and child processes of their own, the long
jobs keep nobody waiting.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy.orm import Session

from service.pruning_spec import PRUNE_NETWORK
from service.storage.database import Database

if TYPE_CHECKING:
    from dbos import DBOSClient, DBOSConfig


@dataclass(frozen=True)
class Lane:
    """A queue.

    Attributes:
        name: of the queue.
        workflow: name of its workflows.
        poll_s: how often a host looks for jobs, seconds. Ten times a second costs 3 % of a core, and a job waits half
            as long on average.
    """

    name: str
    workflow: str
    poll_s: float


SHORT, LONG = Lane("jobs", "run_job", 0.1), Lane("long_jobs", "run_long_job", 1.0)
BEAT_S = 1.0
"""How often a host gives a sign of life."""
SILENCE_S = 5.0
"""A host without a sign of life for so long is taken for dead, and its jobs go to others."""
_APPLICATION = "onceforall"
_VERSION = "1"  # dbos gives workflows of one version to hosts of the same; rows and workflows have outlived all of ours


def migrate(database: Database) -> None:
    """Bring dbos's tables to its version's schema."""
    from dbos import DBOS

    _quiet()
    with database.refusing("cannot prepare the job queue in the database {}"), database.alone():
        DBOS.migrate(database.url)


def client(database: Database) -> DBOSClient:
    """Submits jobs from a process that does none."""
    from dbos import DBOSClient, DBOSPortableJSONSerializer

    _quiet()
    return DBOSClient(
        system_database_engine=database.engine,
        serializer=DBOSPortableJSONSerializer(),
        application_name=_APPLICATION,
        lazy=True,
        retry_connection_errors=False,
    )


def lane_of(kind: str) -> Lane:
    """The queue for jobs of a kind."""
    return LONG if kind == PRUNE_NETWORK else SHORT


def enqueue(client: DBOSClient, session: Session, kind: str, job_id: str, submission: int) -> None:
    """Queue a job's workflow in the caller's transaction."""
    lane = lane_of(kind)
    client.enqueue_in_transaction(
        session,
        {"workflow_name": lane.workflow, "queue_name": lane.name, "workflow_id": workflow_id(job_id, submission)},
        job_id,
        submission,
    )


def workflow_id(job_id: str, submission: int) -> str:
    """The workflow of one submission of a job."""
    return f"{job_id}:{submission}"


def job_of(workflow: str) -> tuple[str, int]:
    """The inverse of `workflow_id`."""
    job_id, _, submission = workflow.rpartition(":")
    return job_id, int(submission)


def configuration(database: Database, executor: str) -> DBOSConfig:
    """Of the process that takes workflows off the queue."""
    from dbos import DBOSPortableJSONSerializer

    return {
        "name": _APPLICATION,
        "system_database_url": database.url,
        "system_database_engine": database.engine,
        "executor_id": executor,
        "application_version": _VERSION,
        "serializer": DBOSPortableJSONSerializer(),
        "enable_otlp": False,
        "use_listen_notify": False,
        "run_migrations": False,
        "log_level": "WARNING",
        "console_log_level": "WARNING",
    }


def _quiet() -> None:
    import logging

    logging.getLogger("dbos").setLevel(logging.WARNING)
