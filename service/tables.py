"""Latency tables that the service holds: checked, versioned, never changed."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

from sqlalchemy.orm import Session

from latency_tables import LatencyTable, parse_table
from latency_tables.outliers import outliers
from service import fronts
from service.context import Context
from service.domain import Device, StoredFile, TableRecord, utc_now
from service.errors import ConflictError, NotFoundError
from service.folder import temporary_folder
from service.storage import devices, staging, uses
from service.storage.artifacts import ArtifactStore
from supernet.errors import TableError
from supernet.spaces import get_space

OFA_NAME = re.compile(r"[0-9]{1,6}_lookup_table\.ya?ml")
MEDIA_TYPES = {"application/json": "json", "application/yaml": "yaml", "text/csv": "csv"}
"""Of an uploaded table -> its format."""


@dataclass(frozen=True)
class RegisteredTable:
    """What became of an uploaded table.

    Attributes:
        record: the row.
        outliers: rows that are doubtful, and why.
        unknown: rows that no subnet of the space needs.
        stored: whether it was stored now (not for a dry run, nor when it was there already).
    """

    record: TableRecord
    outliers: tuple[str, ...]
    unknown: tuple[str, ...]
    stored: bool


def register(context: Context, device_name: str, data: bytes, format: str, *, dry_run: bool) -> RegisteredTable:
    """Check an uploaded table and store it as the device's next version.

    A table with missing rows is stored, and says so; it prices no request before a complete one follows.

    Raises:
        NotFoundError: no such device.
        TableError: the table is malformed, or for another device.
        ConfigError: its space is unknown.
        ConflictError: it says that it was measured with other threads or another batch than the device states.
    """
    device = find_device(context, device_name)
    return _register(context, device, parse_table(data, format), data, format, dry_run=dry_run)


def register_ofa(context: Context, device_name: str, files: Mapping[str, bytes], *, dry_run: bool) -> RegisteredTable:
    """`register` for tables of the `ofa` package: one file a resolution, which become one JSON document of ours.

    Args:
        context: of the service.
        device_name: of the device.
        files: name, such as ``160_lookup_table.yaml``, -> content.
        dry_run: check only.

    Raises:
        As `register`; TableError also: a name that the package's files do not have, or layers of another network.
    """
    device = find_device(context, device_name)
    strange = [name[:80] for name in files if OFA_NAME.fullmatch(name) is None]
    if strange or not files:
        raise TableError(
            f"no table of the ofa package is called {', '.join(map(repr, strange)) or 'nothing'}; name its files as"
            " they were: 160_lookup_table.yaml, one a resolution"
        )
    with temporary_folder(context.settings.cache_dir, "upload") as folder:
        for name, content in files.items():
            (folder / name).write_bytes(content)
        table = LatencyTable.load(folder, device=device.name)
    return _register(context, device, table, table.render("json"), "json", dry_run=dry_run)


def delete(context: Context, table_id: str) -> None:
    """Remove a table that has missing rows or that nothing was priced with; nothing happens where there is none.

    Raises:
        ConflictError: a subnet, a request or a front refers to it.
    """
    with context.database.session(exclusive=True) as session:
        record = devices.get_table(session, table_id)
        if record is None:
            return
        searched = (table for spec in fronts.under_way(session) for table in spec.tables.values())
        if not record.missing and (uses.prices(session, table_id) or table_id in searched):
            raise ConflictError(
                f"requests or fronts were priced with table {table_id[:12]} of {record.device!r}, so it stays; upload a"
                " newer version, which then prices new ones"
            )
        devices.delete_table(session, table_id)
        ticket = staging.leave(session, [record.content.sha256])
    staging.sweep(context.database, context.artifacts, tickets=[ticket])


def _register(
    context: Context, device: Device, table: LatencyTable, data: bytes, format: str, *, dry_run: bool
) -> RegisteredTable:
    _check_device(device, table)
    space = get_space(table.space).with_num_classes(table.num_classes)
    coverage = table.coverage(space)
    notes = (tuple(map(str, outliers(table))), tuple(coverage.unknown))
    record = TableRecord(
        id=table.digest,
        device=device.name,
        version=0,
        space=space.name,
        num_classes=space.num_classes,
        rows=len(table.rows),
        missing=tuple(coverage.missing),
        provenance=asdict(table.provenance),
        content=StoredFile("", "", 0),
        format=format,
        created_at=utc_now(),
    )
    if dry_run:
        with context.database.session() as session:
            known = devices.get_table(session, record.id)
            version = devices.next_version(session, device.name)
        return RegisteredTable(known or replace(record, version=version), *notes, stored=False)
    sha256 = hashlib.sha256(data).hexdigest()
    ticket = staging.note(context.database, [sha256], process=context.process)
    context.artifacts.put_bytes(data, name="latency table")
    found = record

    def insert(session: Session) -> bool:
        nonlocal found
        known = devices.get_table(session, record.id)
        if known is not None:  # the same table, perhaps written in another way
            found = known
            return False
        version = devices.next_version(session, device.name)
        content = StoredFile(f"{device.name}-v{version}.{format}", sha256, len(data))
        found = replace(record, version=version, content=content)
        devices.add_table(session, found)
        return True

    stored = staging.enter(context.database, context.artifacts, ticket, [sha256], insert)
    return RegisteredTable(found, *notes, stored=stored)


def find_device(context: Context, name: str) -> Device:
    """The device of that name.

    Raises:
        NotFoundError: no such device.
    """
    with context.database.session() as session:
        device = devices.get_device(session, name)
    if device is None:
        raise NotFoundError(f"no device {name[:80]!r}; see /api/v1/devices for those that exist, or POST it there")
    return device


def load(artifacts: ArtifactStore, record: TableRecord) -> LatencyTable:
    """The stored table."""
    return parse_table(artifacts.read(record.content.sha256), record.format)


def _check_device(device: Device, table: LatencyTable) -> None:
    if table.device != device.name:
        raise TableError(
            f"the table was measured on {table.device!r}, not on {device.name!r}; upload it to"
            f" /api/v1/devices/{table.device}/latency-tables, or measure one with: onceforall profile"
            f" RUN_FOLDER --device {device.name} --out FILE"
        )
    faults = [
        f"{what} is {have}, the device has {want}"
        for what, have, want in (
            ("threads", table.provenance.threads, device.threads),
            ("batch", table.provenance.batch, device.batch),
        )
        if have is not None and have != want
    ]
    if faults:
        raise ConflictError(
            f"the table of {device.name!r} was measured in another way: {'; '.join(faults)}; measure it as the"
            " device is described, or describe another device"
        )
