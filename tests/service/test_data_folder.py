"""Processes that share a folder leave each other's work alone, and what a killed one left goes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from small_service import small_settings

from service.domain import SupernetRecord
from service.folder import DataFolder, clear_leftovers, temporary_folder
from service.runs import forget_deleted
from service.storage import supernets
from service.storage.database import Database

_AT_WORK = """
import pathlib, sys
from service.folder import temporary_folder
with temporary_folder(pathlib.Path(sys.argv[1]), "subnet") as folder:
    (folder / "file").write_text("x")
    print(folder, flush=True)
    sys.stdin.read()
"""


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def test_a_folder_that_a_living_process_works_in_stays_and_a_killed_ones_goes(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    shared = DataFolder(tmp_path, cache, shared=True)
    with subprocess.Popen(
        [sys.executable, "-c", _AT_WORK, str(cache)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
    ) as process:
        assert process.stdout is not None
        folder = Path(process.stdout.readline().strip())
        assert folder.parent == cache
        shared.hold()  # as a service that was restarted beside a worker
        with temporary_folder(cache, "upload") as own:
            assert clear_leftovers(cache) == 0
            assert (folder / "file").exists()
            assert own.is_dir()
        process.kill()
        process.wait()
    assert folder.exists()
    assert clear_leftovers(cache) == 1  # without any restart
    assert list(cache.iterdir()) == []
    shared.release()


def test_a_worker_holds_its_data_folder(tmp_path: Path) -> None:
    other = DataFolder(tmp_path, tmp_path / "cache")
    other.hold()
    variables = {"ONCEFORALL_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none"}
    done = subprocess.run(
        [sys.executable, "-m", "service.cli", "worker", "--data-dir", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        env=environment() | variables,
    )
    other.release()
    assert done.returncode == 2
    assert "another service is at work in" in done.stderr


@pytest.mark.parametrize("gone", [False, True])
def test_what_is_cached_of_a_supernet_goes_with_it_in_every_cache(tmp_path: Path, gone: bool) -> None:
    settings = small_settings(tmp_path)
    database = Database(settings.resolved_database_url)
    database.migrate()
    record = SupernetRecord("1" * 64, "noise", "s", 2, {}, "d", {}, "2026-01-01")
    with database.session(exclusive=True) as session:
        supernets.add(session, record)
        if gone:  # by another process, with a cache of its own
            supernets.delete(session, record.id)
    cached, other = settings.cache_dir / record.id, settings.cache_dir / "pruning-x"
    for folder in (cached, other):
        folder.mkdir(parents=True)
    assert forget_deleted(database, settings.cache_dir) == int(gone)
    assert cached.exists() is not gone
    assert other.exists()
    database.close()
