"""Runs that the service holds: checked, stored file by file, brought back as a folder for a job."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from sqlalchemy.orm import Session

from latency_tables.budget import NAME_PATTERN
from service.context import Context
from service.domain import SupernetRecord, canonical_json, digest_of, is_digest, utc_now
from service.errors import ConflictError, Fault, FaultsError, NotFoundError
from service.folder import temporary_folder
from service.fronts import under_way
from service.storage import fronts, pruning_runs, staging, subnets, supernets
from service.storage.artifacts import CHUNK, ArtifactStore, stored_file
from service.storage.database import Database
from service.tensorfile import check_tensor_file
from service.verify import verify_run
from supernet.errors import CheckpointError, ConfigError, writing
from supernet.files import read_json, sha256_file
from supernet.spaces import get_space

PARTS = {
    "manifest": "manifest.json",
    "weights": "supernet.safetensors",
    "images": "images.safetensors",
    "predictor": "predictor/predictor.json",
    "predictor_weights": "predictor/predictor.safetensors",
}
"""Part of the upload -> path inside the run folder."""
_MAX_JSON_BYTES = 1 << 20
_MAX_CLASSES = 100_000


def register(context: Context, name: str, files: Mapping[str, BinaryIO]) -> tuple[SupernetRecord, bool]:
    """Check an uploaded run and store it.

    Args:
        context: of the service.
        name: unique name for it.
        files: part (a key of `PARTS`) -> content.

    Returns:
        The supernet, and whether it is new: the same files under the same name are the same supernet.

    Raises:
        FaultsError: the name or the parts are not as they should be.
        CheckpointError: a file is truncated, altered, or does not belong to the others.
        ConflictError: the name is taken, or the same run has another name.
        StorageError: the disk is full.
    """
    _check_upload(name, files)
    cache = context.settings.cache_dir
    with temporary_folder(cache, "upload") as folder:
        for part, path in PARTS.items():
            _save(files[part], folder / path)
        manifest, predictor = check_run(folder)
        supernet_id = digest_of({path: sha256_file(folder / path) for path in PARTS.values()})
        with context.database.session() as session:
            known = _known(supernets.get(session, supernet_id), supernets.get(session, name), supernet_id, name)
        if known is None:
            verify_run(folder, memory_bytes=context.settings.job_memory_bytes)
        files_in_folder = {path: stored_file(folder / path, name=Path(path).name) for path in PARTS.values()}
        record = SupernetRecord(
            supernet_id,
            name,
            manifest["space"],
            manifest["num_classes"],
            manifest,
            predictor["weights"]["sha256"],
            files_in_folder,
            utc_now(),
        )
        digests = [file.sha256 for file in files_in_folder.values()]
        ticket = staging.note(context.database, digests, process=context.process)
        for path, file in files_in_folder.items():  # of a known run too: that heals what was altered or is gone
            context.artifacts.put_file(folder / path, name=file.name)

        def insert(session: Session) -> bool:
            nonlocal known
            known = _known(supernets.get(session, supernet_id), supernets.get(session, name), supernet_id, name)
            if known is None:
                supernets.add(session, record)
            return known is None

        new = staging.enter(context.database, context.artifacts, ticket, digests, insert)
    return known or record, new


def check_run(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Check a run's files without torch.

    Returns:
        The manifest, and the predictor's document.

    Raises:
        CheckpointError: a file is truncated, altered, or does not belong to the others.
    """
    manifest, predictor = (_document(folder, PARTS[part]) for part in ("manifest", "predictor"))
    try:
        if type(manifest["num_classes"]) is not int or manifest["num_classes"] > _MAX_CLASSES:
            raise ConfigError(f"num_classes is {manifest['num_classes']!r}; allowed: 2 to {_MAX_CLASSES}")
        space = get_space(manifest["space"]).with_num_classes(manifest["num_classes"])
        if manifest["status"] != "complete":
            raise ConfigError(f"status is {manifest['status']!r}; allowed: complete")
        if predictor["space"] != space.name:
            raise ConfigError(
                f"the predictor was made for space {predictor['space']!r}, the supernet has {space.name!r}"
            )
        weights = manifest["weights"]["sha256"]
        fitted_for = predictor["details"].get("weights_sha256", weights)
        if fitted_for != weights:
            raise ConfigError(
                f"the predictor was fitted for the weights {str(fitted_for)[:12]}..., the supernet has"
                f" {str(weights)[:12]}...; fit one with: onceforall predictor RUN_FOLDER"
            )
        digests = {
            "weights": weights,
            "images": manifest["images"]["sha256"],
            "predictor_weights": predictor["weights"]["sha256"],
        }
    except ConfigError as error:
        raise CheckpointError(f"the run cannot be served: {error}; upload the files of one finished run") from None
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"manifest.json or predictor.json lacks a field ({error}); upload them as they were made"
        ) from None
    for part, expected in digests.items():
        path = folder / PARTS[part]
        found = sha256_file(path)
        if found != expected:
            raise CheckpointError(
                f"{PARTS[part]} has SHA-256 {found[:12]}..., its description says {str(expected)[:12]}...: it is"
                " truncated, altered, or of another run; upload the files of one run as they were written"
            )
        tensors = check_tensor_file(path, name=PARTS[part])
        if part == "weights":
            _check_classifier(tensors, manifest["num_classes"])
    return manifest, predictor


def _check_classifier(tensors: Mapping[str, tuple[str, tuple[int, ...]]], num_classes: int) -> None:
    """Refuse a number of classes that no tensor has, before torch makes a network of that size to compare with."""
    shape = next((shape for name, (_, shape) in tensors.items() if name.endswith("classifier.linear.bias")), None)
    if shape is not None and shape != (num_classes,):  # an absent one is named with all that is wrong, later
        raise CheckpointError(
            f"{PARTS['weights']}: its classifier has the shape {shape}, manifest.json says {num_classes} classes;"
            " upload the files of one run as they were written"
        )


def delete(context: Context, supernet_id: str) -> None:
    """Forget a supernet; its subnets stay.

    Raises:
        NotFoundError: no such supernet.
        ConflictError: its jobs wait or run.
    """
    with context.database.session(exclusive=True) as session:
        record = supernets.get(session, supernet_id)
        if record is None:
            raise NotFoundError(f"no supernet {supernet_id!r}; see /api/v1/supernets for those that exist")
        active = (spec["supernet"] == record.id for spec in subnets.specs_of_active_jobs(session))
        searched = {spec.supernet for spec in under_way(session)}
        if any(active) or record.id in searched | pruning_runs.read_by_active(session):
            raise ConflictError(f"supernet {record.name!r} has waiting or running jobs; cancel them, or wait")
        supernets.delete(session, record.id)
        lost = {file.sha256 for file in record.files.values()} | fronts.delete_of(session, record.id)
        ticket = staging.leave(session, lost)
    staging.sweep(context.database, context.artifacts, tickets=[ticket])
    shutil.rmtree(context.settings.cache_dir / record.id, ignore_errors=True)


def materialise(artifacts: ArtifactStore, record: SupernetRecord, cache: Path) -> Path:
    """The run as a folder, made where it is absent: `cache/<supernet id>`."""
    target = cache / record.id
    if target.is_dir():
        return target
    with temporary_folder(cache, "run") as temporary, writing(target):
        for path, file in record.files.items():
            (temporary / path).parent.mkdir(parents=True, exist_ok=True)
            artifacts.copy_to(file.sha256, temporary / path)
        try:
            temporary.rename(target)
        except OSError:
            if not target.is_dir():  # otherwise another job was faster
                raise
    return target


def forget_deleted(database: Database, cache: Path) -> int:
    """Remove the folders that `materialise` made of supernets which were deleted since, by whatever process.

    Returns:
        Number of folders that were removed.
    """
    found = [path for path in cache.glob("*") if is_digest(path.name)]  # first: rows are older than their folders
    if not found:
        return 0
    with database.session() as session:
        gone = [path for path in found if supernets.identify(session, path.name) is None]
    for path in gone:
        shutil.rmtree(path, ignore_errors=True)
    return len(gone)


def _check_upload(name: str, files: Mapping[str, BinaryIO]) -> None:
    faults = [Fault(f"body.{part}", "this part is missing; send it as a file") for part in PARTS if part not in files]
    if not re.fullmatch(NAME_PATTERN[1:-1], name):
        faults.insert(0, Fault("body.name", f"{name[:80]!r} is not a name; allowed: {NAME_PATTERN}"))
    if faults:
        raise FaultsError(faults)


def _known(
    same_files: SupernetRecord | None, same_name: SupernetRecord | None, supernet_id: str, name: str
) -> SupernetRecord | None:
    if same_name is not None and same_name.id != supernet_id:
        raise ConflictError(f"the name {name!r} belongs to another supernet; choose another name, or delete that one")
    if same_files is not None and same_files.name != name:
        raise ConflictError(
            f"this run is registered already, as {same_files.name!r}; use that name, or delete it first"
        )
    return same_files


def _document(folder: Path, name: str) -> dict[str, Any]:
    if (folder / name).stat().st_size > _MAX_JSON_BYTES:
        raise CheckpointError(f"{name} has more than {_MAX_JSON_BYTES} bytes; upload the file as it was written")
    try:
        document = read_json(folder / name)
    except RecursionError:
        document = None
    except CheckpointError as error:
        raise CheckpointError(str(error).replace(f"{folder}/", "")) from None
    try:
        canonical_json(document)
    except (ValueError, RecursionError):
        raise CheckpointError(
            f"{name} holds NaN, an infinity, or is nested too deep; upload the file as it was written"
        ) from None
    if not isinstance(document, dict):
        raise CheckpointError(f"{name} is not a JSON object; upload the file as it was written")
    return document


def _save(source: BinaryIO, target: Path) -> None:
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as file:
            shutil.copyfileobj(source, file, CHUNK)
