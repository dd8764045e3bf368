"""What a pruning run starts from, brought onto this machine; needs no torch."""

from __future__ import annotations

from pathlib import Path

from service.errors import NotFoundError
from service.pruning_data import RUN_IMAGES
from service.pruning_spec import Architecture, Inputs, PruningRun, SupernetConfig
from service.searches import Searches
from service.storage import subnets
from service.storage.artifacts import ArtifactStore
from service.storage.database import Database
from supernet.files import atomic_path

SUBNET_FILES = {"safetensors": "subnet.safetensors", "config": "config.json", "card": "card.json"}
"""Of a stored subnet: format -> name of its file in a folder that `load_subnet` reads."""
WEIGHTS = "weights.safetensors"


def fetch(run: PruningRun, folder: Path, database: Database, artifacts: ArtifactStore, searches: Searches) -> Inputs:
    """Bring the inputs of a run into `folder`, where they are not there yet.

    Raises:
        NotFoundError: the subnet or the supernet was deleted.
        DamagedError: a stored file is gone or was altered.
        StorageError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    source = run.spec.source
    if isinstance(source, Architecture):
        if run.weights is None:
            return Inputs()
        _copy(artifacts, run.weights.sha256, folder / WEIGHTS)
        return Inputs(weights=folder / WEIGHTS)
    if isinstance(source, SupernetConfig):
        return Inputs(run=searches.supernet(source.supernet)[1])
    with database.session() as session:
        record = subnets.get_subnet(session, source.subnet)
    if record is None:
        raise NotFoundError(f"subnet {source.subnet[:12]} was deleted; ask for it again")
    for format, name in SUBNET_FILES.items():
        _copy(artifacts, record.files[format].sha256, folder / name)
    needs_run = run.spec.data == RUN_IMAGES
    return Inputs(subnet=folder, run=searches.supernet(record.supernet_id)[1] if needs_run else None)


def _copy(artifacts: ArtifactStore, sha256: str, path: Path) -> None:
    if not path.exists():
        with atomic_path(path) as temporary:
            artifacts.copy_to(sha256, temporary)
