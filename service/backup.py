"""Copies of what an embedded service stores: taken while it runs, whole or absent, checked by digests.

A backup is a folder::

    backup.json      what is in it, with the digest of the database and of this list; written last
    database.sqlite  the database at one moment
    artifacts/       every file that a row of it names, under its SHA-256

The database is copied first and the files after it. Files never change, so they still are what the rows say, and those
that came later do no harm. One that was deleted meanwhile is the only thing that can be missing; the database is then
copied again.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Collection
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import create_engine
from sqlalchemy.exc import DatabaseError
from sqlalchemy.orm import Session

from service.domain import digest_of, is_digest, utc_now
from service.folder import DataFolder
from service.metrics import package_version
from service.settings import Settings
from service.storage import staging
from service.storage.artifacts import ArtifactStore, open_artifacts
from supernet.errors import CheckpointError, ConfigError, OnceForAllError, StorageError, writing
from supernet.files import read_json, sha256_file, write_json

MANIFEST, DATABASE, ARTIFACTS = "backup.json", "database.sqlite", "artifacts"
_FORMAT = 1
_TRIES = 5
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class BackupReport:
    """What a backup holds.

    Attributes:
        path: its folder.
        created_at: when the database was copied.
        schema: version of the database's schema.
        files: number of stored files.
        size_bytes: of the files and the database.
    """

    path: str
    created_at: str
    schema: str
    files: int
    size_bytes: int

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)


def backup(settings: Settings, target: Path, *, progress: Progress = lambda _done, _total: None) -> BackupReport:
    """Copy everything that the service stores into a new folder; the service may run meanwhile.

    Args:
        settings: of the service.
        target: the folder; it must not exist, and it does not exist until it is whole.
        progress: called with files copied and files to copy.

    Raises:
        ConfigError: `target` exists, or the database is not a file of this machine's.
        CheckpointError: a stored file is gone or was altered: the store is damaged.
        StorageError: there is no database, or the disk is full.
    """
    source = _database_file(settings, "backup")
    if target.exists():
        raise ConfigError(f"{str(target)!r} exists; choose a name that is new, such as one with the date")
    if not source.exists():
        raise StorageError(f"no database at {str(source)!r}; name the folder of the service with --data-dir")
    with writing(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent))
    try:
        with writing(folder):
            manifest = _fill(folder, source, open_artifacts(settings.resolved_artifact_url), progress)
            write_json(folder / MANIFEST, manifest)
            _sync(folder, *folder.rglob("*"))
            folder.chmod(0o700)
        report = verify(folder)
        with writing(target):
            folder.rename(target)
            _sync(target.parent)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return BackupReport(**(asdict(report) | {"path": str(target)}))


def verify(folder: Path) -> BackupReport:
    """Read a whole backup again and hold every byte against its digest.

    Raises:
        CheckpointError: it is not a backup, or something in it is missing or altered.
    """
    manifest = _manifest(folder)
    database = folder / DATABASE
    if not database.is_file() or sha256_file(database) != manifest["database"]["sha256"]:
        raise CheckpointError(f"{str(database)!r} is missing or was altered; use another backup")
    _check_database(database)
    bad = [digest for digest in manifest["files"] if not _is_whole(_stored(folder, digest), digest)]
    if bad:
        raise CheckpointError(
            f"{len(bad)} of {len(manifest['files'])} files of the backup {str(folder)!r} are missing or were altered,"
            f" such as {bad[0]}; use another backup"
        )
    absent = named_files(database) - manifest["files"].keys()
    if absent:
        raise CheckpointError(f"the backup {str(folder)!r} lacks {len(absent)} files that its database names")
    sizes = [database.stat().st_size, *manifest["files"].values()]
    return BackupReport(str(folder), manifest["created_at"], manifest["schema"], len(manifest["files"]), sum(sizes))


def restore(settings: Settings, source: Path, *, progress: Progress = lambda _done, _total: None) -> BackupReport:
    """Bring a backup back into a service's empty folder. Stopped half way, it goes on when it is run again.

    Args:
        settings: of the service that is to be; it must not run.
        source: the backup.
        progress: called with files stored and files to store.

    Raises:
        ConfigError: there is a database already, or it is not to be a file of this machine's.
        CheckpointError: the backup is damaged; nothing was changed.
        RunBusyError: a service runs in the folder.
        StorageError: the disk is full.
    """
    target = _database_file(settings, "restore")
    report = verify(source)
    folder = DataFolder(settings.data_dir, settings.cache_dir)
    folder.hold()
    try:
        if target.exists():
            raise ConfigError(
                f"there is a database at {str(target)!r} already; choose another folder with --data-dir, or move that"
                " one away"
            )
        artifacts = open_artifacts(settings.resolved_artifact_url)
        files = _manifest(source)["files"]
        for number, digest in enumerate(files):
            stored = artifacts.put_file(_stored(source, digest), name=digest)
            if stored.sha256 != digest:
                raise CheckpointError(f"the file {digest} of the backup was altered just now; use another backup")
            progress(number + 1, len(files))
        with writing(target):  # last and at once: without it, there is no service in the folder
            temporary = target.with_name(f".{target.name}.tmp")
            shutil.copyfile(source / DATABASE, temporary)
            _sync(temporary)
            temporary.replace(target)
            _sync(target.parent)
        return report
    finally:
        folder.release()


def repair(source: Path, artifacts: ArtifactStore, digests: Collection[str]) -> tuple[str, ...]:
    """Bring files that are missing or altered back from a backup; the service may run, its rows stay as they are.

    Args:
        source: the backup, of whatever age: a file's name says what it holds.
        artifacts: of the service.
        digests: of the files.

    Returns:
        Digests of those that the backup does not have, or not whole.

    Raises:
        CheckpointError: it is no backup.
        StorageError: the disk is full.
    """
    there = _manifest(source)["files"]
    lacking = []
    for digest in digests:
        path = _stored(source, digest)
        if digest in there and _is_whole(path, digest):
            artifacts.put_file(path, name=digest)
        else:
            lacking.append(digest)
    return tuple(lacking)


def named_files(database: Path) -> set[str]:
    """Digests of the files that rows of an SQLite database name."""
    # Not `Database`, which would turn the file into one with a log beside it.
    engine = create_engine(f"sqlite:///file:{quote(str(database))}?mode=ro&uri=true")
    try:
        with Session(engine) as session:
            return staging.named(session)
    except DatabaseError as error:
        raise CheckpointError(
            f"the database {str(database)!r} cannot be read: {error.orig}; use another one"
        ) from error
    finally:
        engine.dispose()


def _fill(folder: Path, source: Path, artifacts: ArtifactStore, progress: Progress) -> dict[str, Any]:
    database = folder / DATABASE
    for last in [False] * (_TRIES - 1) + [True]:
        created_at = utc_now()
        schema = _copy_database(source, database)
        wanted = sorted(named_files(database))
        try:
            for number, digest in enumerate(wanted):
                target = _stored(folder, digest)
                if not target.exists():
                    target.parent.mkdir(parents=True, exist_ok=True)
                    artifacts.copy_to(digest, target)
                progress(number + 1, len(wanted))
            break
        except OnceForAllError as error:
            target.unlink(missing_ok=True)
            if last or isinstance(error, StorageError) or digest in named_files(source):
                raise  # it is not that somebody deleted it in the meantime
    for path in (folder / ARTIFACTS).rglob("*"):
        if path.is_file() and path.name not in wanted:  # of an earlier try
            path.unlink()
    sizes = {digest: _stored(folder, digest).stat().st_size for digest in wanted}
    manifest = {
        "format": _FORMAT,
        "created_at": created_at,
        "onceforall": package_version(),
        "schema": schema,
        "database": {"sha256": sha256_file(database), "size_bytes": database.stat().st_size},
        "files": sizes,
    }
    return manifest | {"sha256": digest_of(manifest)}


def _copy_database(source: Path, target: Path) -> str:
    """One consistent moment of a database that others may write meanwhile; returns the version of its schema."""
    target.unlink(missing_ok=True)
    try:
        with closing(sqlite3.connect(source, timeout=30)) as here, closing(sqlite3.connect(target)) as there:
            here.backup(there)  # in one step: with several, every write of others would start it anew
            there.execute("pragma journal_mode=delete")  # one file, without a log beside it
            return ", ".join(version for (version,) in there.execute("select version_num from alembic_version"))
    except sqlite3.Error as error:
        raise StorageError(
            f"cannot copy the database {str(source)!r}: {error}; free some space, or see whether it is the database of"
            " a service"
        ) from error


def _check_database(path: Path) -> None:
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)) as connection:
            found = [row[0] for row in connection.execute("pragma integrity_check(1)")]
    except sqlite3.Error as error:
        found = [str(error)]
    if found != ["ok"]:
        raise CheckpointError(f"the database {str(path)!r} is damaged: {found[0]}; use another backup")


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if not path.is_file():
        raise CheckpointError(f"{str(folder)!r} is no backup: it has no {MANIFEST}; make one with: onceforall backup")
    manifest = read_json(path)
    try:
        content = {name: value for name, value in manifest.items() if name != "sha256"}
        whole = digest_of(content) == manifest["sha256"] and all(map(is_digest, manifest["files"]))
        if content["format"] != _FORMAT:
            raise CheckpointError(
                f"the backup {str(folder)!r} has format {content['format']!r}; allowed: {_FORMAT}; use the version of"
                " onceforall that made it"
            )
    except (AttributeError, KeyError, TypeError, ValueError):
        whole = False
    if not whole:
        raise CheckpointError(f"{str(path)!r} was altered; use another backup")
    return dict(manifest)


def _database_file(settings: Settings, what: str) -> Path:
    if not settings.embedded:
        raise ConfigError(
            f"onceforall {what} is for a database that is a file of this machine's; PostgreSQL has its own tools,"
            " pg_dump and pg_restore: copy the database first and the bucket after it, as docs/operations.md says"
        )
    return Path(settings.resolved_database_url.removeprefix("sqlite:///"))


def _stored(folder: Path, digest: str) -> Path:
    return folder / ARTIFACTS / digest[:2] / digest


def _is_whole(path: Path, digest: str) -> bool:
    return path.is_file() and sha256_file(path) == digest


def _sync(*paths: Path) -> None:
    """See that files and folders are on the disk, and not on their way to it."""
    for path in paths:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
