"""What the service's parts share; made once, by the composition root."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from service.folder import DataFolder
from service.jobs import JobEngine
from service.settings import Settings
from service.storage import staging
from service.storage.artifacts import ArtifactStore
from service.storage.database import Database

if TYPE_CHECKING:
    from service.searches import Searches


@dataclass(frozen=True)
class Context:
    """Settings, stores and the job engine of one service.

    Attributes:
        settings: of the service.
        folder: the data folder.
        database: rows.
        artifacts: files.
        engine: jobs.
        searches: opened searches.
        process: id of this process among those that store files.
    """

    settings: Settings
    folder: DataFolder
    database: Database
    artifacts: ArtifactStore
    engine: JobEngine
    searches: Searches
    process: str = field(default_factory=lambda: f"api-{uuid.uuid4().hex}")

    def start(self) -> None:
        """Hold the data folder, then bring the database's schema up to date and take jobs. Once started: nothing.

        Raises:
            RunBusyError: another service is at work on the same data.
            StorageError: the data folder or the database cannot be written.
        """
        if self.folder.held:
            return
        self.folder.hold()
        try:
            self.database.migrate()
            if self.settings.embedded:  # nobody else stores anything: what is noted was left by a killed process
                staging.sweep(self.database, self.artifacts, older_than_s=0.0)
            self.engine.start()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop running jobs and let go of the data folder."""
        self.engine.stop()
        self.database.close()
        self.folder.release()
