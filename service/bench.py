"""What jobs work with, and what every job does that makes a stored network. Runs in the child process; needs torch."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from sqlalchemy.orm import Session

from latency_tables import this_machine
from service.domain import StoredFile, SupernetRecord
from service.searches import Searches
from service.settings import Settings
from service.storage import staging
from service.storage.artifacts import open_artifacts
from service.storage.database import Database
from supernet.images import ImagePack
from supernet.network import Supernet
from supernet.runs import RunFolder

Progress = Callable[[str, float], None]
"""Called as (stage, fraction in [0, 1])."""
_EVERY_S = 0.5


class Bench:
    """Settings, stores and searches of one child process, and the last supernet, which it keeps open.

    Args:
        settings: of the service.
    """

    def __init__(self, settings: Settings) -> None:
        torch.set_num_threads(settings.job_threads)
        self.settings = settings
        self.database = Database(settings.resolved_database_url)
        self.artifacts = open_artifacts(settings.resolved_artifact_url)
        self.searches = Searches(self.database, self.artifacts, settings.cache_dir)
        self._open: tuple[str, RunFolder, Supernet, ImagePack] | None = None

    def supernet(self, supernet_id: str) -> tuple[SupernetRecord, RunFolder, Supernet, ImagePack]:
        """A supernet, opened.

        Raises:
            NotFoundError: it was deleted.
            CheckpointError: its files were altered.
        """
        record, folder = self.searches.supernet(supernet_id)
        if self._open is None or self._open[0] != supernet_id:
            run = RunFolder(folder)
            self._open = (supernet_id, run, run.load_supernet(), run.images())
        return record, *self._open[1:]

    def store(
        self, folder: Path, files: Mapping[str, StoredFile], executor: str, insert: Callable[[Session], bool]
    ) -> None:
        """Store files and, in one transaction, the row that names them.

        Args:
            folder: where they are, under their names.
            files: to store.
            executor: id of the job host.
            insert: inserts the row; False where another host was quicker, whose files are then kept, not these.
        """
        digests = [file.sha256 for file in files.values()]
        ticket = staging.note(self.database, digests, process=executor)
        for file in files.values():
            self.artifacts.put_file(folder / file.name, name=file.name)
        staging.enter(self.database, self.artifacts, ticket, digests, insert)


def measured_here(provenance: Mapping[str, Any]) -> bool:
    """Whether a table was measured on this host, in the way that this process can measure a network.

    Args:
        provenance: a `Provenance` as plain JSON, such as a `TableRecord` has.
    """
    here = this_machine()
    version = here.pop("torch")
    return (
        dict(provenance["hardware"]) == here
        and provenance["runtime"] == "torch-eager"
        and provenance["runtime_versions"].get("torch") == version
        and None not in (provenance["batch"], provenance["threads"])
    )


def now_and_then(progress: Progress) -> Progress:
    """`progress` for who tells of every step: passes on a new stage, and otherwise twice a second."""
    told: tuple[str, float] = ("", 0.0)

    def tell(stage: str, fraction: float) -> None:
        nonlocal told
        now = time.monotonic()
        if stage != told[0] or now - told[1] >= _EVERY_S:
            told = (stage, now)
            progress(stage, fraction)

    return tell
