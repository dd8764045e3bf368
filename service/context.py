"""What the service's parts share; made once, by the composition root."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from service.jobs import JobEngine
from service.settings import Settings
from service.storage.artifacts import ArtifactStore
from service.storage.database import Database

if TYPE_CHECKING:
    from service.searches import Searches


@dataclass(frozen=True)
class Context:
    """Settings, stores and the job engine of one service.

    Attributes:
        settings: of the service.
        database: rows.
        artifacts: files.
        engine: jobs.
        searches: opened searches.
        registering: held while something is stored under a name or deleted, so that no two of these interleave.
    """

    settings: Settings
    database: Database
    artifacts: ArtifactStore
    engine: JobEngine
    searches: Searches
    registering: threading.Lock = field(default_factory=threading.Lock)
