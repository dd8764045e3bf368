"""How long finished subnets are kept, and what to do about files and rows that lost each other.

Nothing here takes a file that somebody needs. Rows are deleted and files noted in one exclusive transaction
(`service.storage.staging`), a file that two rows name goes with the second one, and a file that no row names is taken
only when it is older than any upload can be, after one more look while nobody can announce it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import TypeVar

from service import exports
from service.settings import Settings
from service.storage import figures, staging
from service.storage import retention as rows
from service.storage.artifacts import ArtifactStore
from service.storage.database import Database
from supernet.errors import ConfigError

LEAST_AGE = timedelta(hours=2)
"""Younger subnets stay, whatever the limits: their requests are just being answered and downloaded."""
ORPHAN_AGE = timedelta(hours=24)
"""Default age at which a file that no row names is taken for lost."""
_BATCH = 50
"""Rows or files at a time: while one batch is chosen, nobody else can store."""
_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
Item = TypeVar("Item")


@dataclass(frozen=True)
class Limits:
    """What is kept; None: no limit.

    Attributes:
        age: of a subnet.
        size_bytes: of the files of all subnets; the oldest go first.
        orphan_age: of a file that no row names; None: such files stay.
    """

    age: timedelta | None = None
    size_bytes: int | None = None
    orphan_age: timedelta | None = None

    @classmethod
    def of(cls, settings: Settings, *, orphan_age: timedelta | None = None) -> Limits:
        """The limits on subnets that the settings say."""
        age = None if settings.retain_days is None else timedelta(days=settings.retain_days)
        return cls(age, settings.max_store_bytes, orphan_age)


@dataclass(frozen=True)
class Cleaning:
    """What was removed, or would be.

    Attributes:
        subnets: number of subnets and pruned networks, with their requests, runs and jobs.
        subnet_bytes: of their files; those that others share are counted, and stay.
        orphans: number of files that no row named.
        orphan_bytes: their size.
        unfinished: number of temporary files that a killed process left in the store's folder.
    """

    subnets: int
    subnet_bytes: int
    orphans: int
    orphan_bytes: int
    unfinished: int


@dataclass(frozen=True)
class Inventory:
    """How rows and files fit together.

    Attributes:
        files: number of files in the store.
        size_bytes: their size.
        missing: (digest, who names it), of files that rows name and the store lacks.
        altered: digests of files whose content is another; None: not read.
        orphans: digests of files that no row names and nobody is storing.
    """

    files: int
    size_bytes: int
    missing: tuple[tuple[str, str], ...]
    altered: tuple[str, ...] | None
    orphans: tuple[str, ...]


def clean(database: Database, artifacts: ArtifactStore, limits: Limits, *, dry_run: bool = False) -> Cleaning:
    """Remove what the limits do not keep. Any number of processes may do so at the same time, while others store.

    Args:
        database: rows.
        artifacts: files.
        limits: what is kept.
        dry_run: whether to count only.

    Raises:
        ConfigError: orphans are to be younger than an upload may take.
        StorageError: the database or the store refuses.
    """
    least = timedelta(seconds=staging.GRACE_S)
    if limits.orphan_age is not None and limits.orphan_age < least:
        raise ConfigError(
            f"a file without a row may be on its way for {staging.GRACE_S / 3600:g} h; allowed: an age of at least"
            f" that, not {limits.orphan_age}"
        )
    count, size = _clean_subnets(database, artifacts, limits, dry_run=dry_run)
    if limits.age is not None and not dry_run:
        _forget_ended(database, artifacts, limits.age)
    orphans = orphan_bytes = unfinished = 0
    if limits.orphan_age is not None:
        before = datetime.now(UTC) - limits.orphan_age
        orphans, orphan_bytes = _clean_orphans(database, artifacts, before, dry_run=dry_run)
        unfinished = artifacts.remove_unfinished(before, dry_run=dry_run)
    return Cleaning(count, size, orphans, orphan_bytes, unfinished)


def take_stock(database: Database, artifacts: ArtifactStore, *, read: bool = False) -> Inventory:
    """Compare rows and files.

    Args:
        database: rows.
        artifacts: files.
        read: whether to read every file and hold it against its digest.

    Raises:
        StorageError: the database or the store refuses.
    """
    entries = {entry.sha256: entry for entry in artifacts.entries()}
    with database.session() as session:
        owners = rows.owners(session)
        used = staging.in_use(session)
    # A file that was stored or removed since is not at fault: look once more at what seems to be.
    missing = {digest for digest in owners.keys() - entries.keys() if not artifacts.has(digest)}
    if missing:
        with database.session() as session:
            missing &= rows.owners(session).keys()
    altered = tuple(sorted(digest for digest in entries if not artifacts.is_whole(digest))) if read else None
    return Inventory(
        files=len(entries),
        size_bytes=sum(entry.size_bytes for entry in entries.values()),
        missing=tuple(sorted((digest, owners[digest]) for digest in missing)),
        altered=altered,
        orphans=tuple(sorted(entries.keys() - used)),
    )


def parse_age(text: str) -> timedelta:
    """``"90d"``, ``"36h"``, ``"2w"``, ``"90m"`` as a time span.

    Raises:
        ConfigError: it is none.
    """
    match = re.fullmatch(r"(\d{1,6})([mhdw])", text.strip())
    if match is None:
        raise ConfigError(f"age {text!r} is not known; allowed: a whole number and m, h, d or w, such as 90d")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


def parse_size(text: str) -> int:
    """``"500MB"``, ``"20GiB"``, ``"1000000"`` as bytes.

    Raises:
        ConfigError: it is none.
    """
    match = re.fullmatch(r"(\d{1,15})\s*(?:([kKMGT])(i?)B?|B)?", text.strip())
    if match is None:
        raise ConfigError(f"size {text!r} is not known; allowed: a whole number, and B, kB, MB, GB, GiB or the like")
    power = 0 if match[2] is None else "KMGT".index(match[2].upper()) + 1
    return int(match[1]) * int((1024 if match[3] else 1000) ** power)


def _clean_subnets(database: Database, artifacts: ArtifactStore, limits: Limits, *, dry_run: bool) -> tuple[int, int]:
    count = size = 0
    newest = _text(datetime.now(UTC) - LEAST_AGE)
    before = None if limits.age is None else min(newest, _text(datetime.now(UTC) - limits.age))
    with database.session() as session:
        excess = 0
        if limits.size_bytes is not None:
            excess = figures.usage(session)["subnets"].size_bytes - limits.size_bytes
        doomed = list(rows.oldest(session, before=before, excess=excess, not_after=newest))
    for batch in _batches(doomed):
        if dry_run:
            count, size = count + len(batch), size + sum(row.size_bytes for row in batch)
            continue
        with database.session(exclusive=True) as session:
            found = [(row, rows.delete_subnet(session, row.id, exports.job_ids(row.id))) for row in batch]
            gone = [(row, files) for row, files in found if files is not None]
            ticket = staging.leave(session, {digest for _, files in gone for digest in files})
        staging.sweep(database, artifacts, tickets=[ticket])
        count, size = count + len(gone), size + sum(row.size_bytes for row, _ in gone)
    return count, size


def _forget_ended(database: Database, artifacts: ArtifactStore, age: timedelta) -> None:
    """Rows of what came to nothing, of jobs whose products stay, and weights that were uploaded for pruning runs."""
    before = _text(datetime.now(UTC) - max(age, LEAST_AGE))
    while True:
        with database.session(exclusive=True) as session:
            count, lost = rows.forget_ended(session, before, _BATCH)
            ticket = staging.leave(session, lost)
        staging.sweep(database, artifacts, tickets=[ticket])
        if not count:
            return


def _clean_orphans(database: Database, artifacts: ArtifactStore, before: datetime, *, dry_run: bool) -> tuple[int, int]:
    with database.session() as session:
        used = staging.in_use(session)
    old = (entry for entry in artifacts.entries() if entry.modified < before and entry.sha256 not in used)
    count = size = 0
    for batch in _batches(old):
        lost = {entry.sha256 for entry in batch}
        if not dry_run:
            lost = staging.remove_unused(database, artifacts, lost)
        count += len(lost)
        size += sum(entry.size_bytes for entry in batch if entry.sha256 in lost)
    return count, size


def _batches(items: Iterator[Item] | list[Item]) -> Iterator[list[Item]]:
    source = iter(items)
    while batch := list(islice(source, _BATCH)):
        yield batch


def _text(moment: datetime) -> str:
    return moment.isoformat(timespec="microseconds")
