"""A backup that is taken under load is one moment of the service, whole or absent, and comes back as it was."""

from __future__ import annotations

import json
import shutil
import sqlite3
import threading
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from obstore import put
from small_service import make_run, make_table, serving, small_settings
from typer.testing import CliRunner

from service import backup as backups
from service import runs
from service.app import create_context
from service.cli import app
from service.client import Client
from service.errors import DamagedError
from service.settings import Settings
from service.storage.artifacts import ObjectArtifacts, open_artifacts
from supernet.errors import CheckpointError, ConfigError, OnceForAllError, RunBusyError, StorageError
from supernet.files import sha256_file


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, data_folder: Path) -> Settings:
    """The data of a service that has made a subnet."""
    settings = small_settings(Path(shutil.copytree(data_folder, tmp_path_factory.mktemp("served") / "data")))
    with serving(settings) as url, Client(url) as client:
        client.request_subnet("noise", "macs<=4M")
    return settings


def files_of(folder: Path) -> dict[str, str]:
    return {path.name: sha256_file(path) for path in folder.rglob("*") if path.is_file()}


def test_a_backup_comes_back_as_it_was_and_the_service_goes_on_from_it(served: Settings, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    report = backups.backup(served, tmp_path / "copy", progress=lambda *done: seen.append(done))
    assert report == backups.verify(tmp_path / "copy")
    assert seen[-1] == (report.files, report.files) == (8, 8)  # five of the supernet, three of the subnet
    assert {path.name for path in (tmp_path / "copy").iterdir()} == {"backup.json", "database.sqlite", "artifacts"}
    assert (tmp_path / "copy").stat().st_mode & 0o077 == 0  # others may not read it
    assert all(name == digest for name, digest in files_of(tmp_path / "copy" / "artifacts").items())
    target = small_settings(tmp_path / "new")
    assert backups.restore(target, tmp_path / "copy").files == 8
    assert files_of(tmp_path / "new" / "artifacts") == files_of(served.data_dir / "artifacts")
    with serving(target) as url, Client(url) as client:
        (subnet,) = client.list_subnets()
        assert client.ask("noise", "macs<=4M")["subnet"]["id"] == subnet["id"]  # known: nothing is made anew
        assert len(client.download(subnet["id"], tmp_path / "files")) == 3
        assert client.request_subnet("noise", "macs<=5M")["id"] != subnet["id"]


def test_backups_under_load_are_whole_and_of_one_moment(data_folder: Path, tmp_path: Path) -> None:
    settings = small_settings(Path(shutil.copytree(data_folder, tmp_path / "data")))
    stop, failed = threading.Event(), []
    run_b = make_run(tmp_path / "b", seed=5)

    def busy(url: str, what: int) -> None:
        try:
            with Client(url) as client:
                number = 0
                while not stop.is_set():
                    number += 1
                    if what == 0:
                        client.request_subnet("noise", f"macs<={4_000_000 + number}")
                    elif what == 1:
                        client.create_device(f"device-{number}")
                        make_table(f"device-{number}", scale=1 + number).save(tmp_path / "table.json")
                        client.upload_table(f"device-{number}", tmp_path / "table.json")
                    else:  # a supernet that comes and goes, so that files vanish while they are copied
                        client.register_run(run_b, "b")
                        client.delete_supernet("b")
        except Exception as error:
            failed.append(error)

    with serving(settings) as url:
        threads = [threading.Thread(target=busy, args=(url, what)) for what in range(3)]
        for thread in threads:
            thread.start()
        for number in range(6):
            backups.backup(settings, tmp_path / f"copy-{number}")
        stop.set()
        for thread in threads:
            thread.join(timeout=120)
        assert failed == []
    counts = []
    for number in range(6):
        report = backups.restore(small_settings(tmp_path / f"new-{number}"), tmp_path / f"copy-{number}")
        context = create_context(small_settings(tmp_path / f"new-{number}", job_workers=0))
        digests = set(context.artifacts.digests())
        assert len(digests) == report.files
        assert all(context.artifacts.is_whole(digest) for digest in digests)
        assert backups.named_files(tmp_path / f"new-{number}" / "service.sqlite") == digests
        context.database.close()
        counts.append(report.files)
    assert counts[-1] > counts[0]
    assert not list(tmp_path.glob(".copy*"))


def test_a_file_that_vanishes_between_the_database_and_its_copy_starts_the_backup_anew(
    served: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_folder: Path
) -> None:
    settings = small_settings(Path(shutil.copytree(served.data_dir, tmp_path / "data")), job_workers=0)
    context = create_context(settings)
    copied = ObjectArtifacts.copy_to
    calls = []

    def deleting(self: ObjectArtifacts, sha256: str, target: Path) -> None:
        if not calls:
            runs.delete(context, "noise")
        calls.append(sha256)
        copied(self, sha256, target)

    monkeypatch.setattr(ObjectArtifacts, "copy_to", deleting)
    report = backups.backup(settings, tmp_path / "copy")
    assert report.files == 3  # the subnet's; the supernet is gone from database and files
    assert len(files_of(tmp_path / "copy" / "artifacts")) == 3
    context.database.close()


def test_a_damaged_store_is_told_and_leaves_no_backup(served: Settings, tmp_path: Path) -> None:
    settings = small_settings(Path(shutil.copytree(served.data_dir, tmp_path / "data")))
    victim = next(path for path in (tmp_path / "data" / "artifacts").rglob("*") if path.is_file())
    victim.write_bytes(b"altered")
    with pytest.raises(OnceForAllError, match="was altered on the disk"):
        backups.backup(settings, tmp_path / "copy")
    victim.unlink()
    with pytest.raises(OnceForAllError, match="is gone from the artefact store"):
        backups.backup(settings, tmp_path / "copy")
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_an_altered_backup_is_refused_before_anything_is_changed(served: Settings, tmp_path: Path) -> None:
    backups.backup(served, tmp_path / "copy")
    target = small_settings(tmp_path / "new")

    def refused(message: str) -> None:
        with pytest.raises(CheckpointError, match=message):
            backups.restore(target, tmp_path / "copy")
        assert not (tmp_path / "new" / "service.sqlite").exists()

    victim = next(path for path in (tmp_path / "copy" / "artifacts").rglob("*") if path.is_file())
    content = victim.read_bytes()
    victim.write_bytes(content[:-1])
    refused("1 of 8 files of the backup .* are missing or were altered, such as")
    victim.unlink()
    refused("1 of 8 files")
    victim.write_bytes(content)
    database = tmp_path / "copy" / "database.sqlite"
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("delete from subnets")
    refused("database.sqlite' is missing or was altered")
    manifest = tmp_path / "copy" / "backup.json"
    document = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(document | {"schema": "9999"}))
    refused("backup.json' was altered")
    manifest.write_text("[]")
    refused("backup.json' was altered")
    manifest.unlink()
    refused("is no backup: it has no backup.json; make one with: onceforall backup")


def test_nothing_is_overwritten_and_a_running_service_is_not_restored_into(served: Settings, tmp_path: Path) -> None:
    backups.backup(served, tmp_path / "copy")
    with pytest.raises(ConfigError, match="exists; choose a name that is new"):
        backups.backup(served, tmp_path / "copy")
    with pytest.raises(ConfigError, match=r"there is a database at .* already"):
        backups.restore(served, tmp_path / "copy")
    with (
        serving(small_settings(tmp_path / "other", job_workers=0)),
        pytest.raises(RunBusyError, match="another service"),
    ):
        backups.restore(small_settings(tmp_path / "other"), tmp_path / "copy")
    with pytest.raises(StorageError, match="no database at"):
        backups.backup(small_settings(tmp_path / "none"), tmp_path / "copy-2")
    shared = small_settings(tmp_path / "pg", database_url="postgresql://me:pw@127.0.0.1:9/x")
    for refused in (lambda: backups.backup(shared, tmp_path / "x"), lambda: backups.restore(shared, tmp_path / "copy")):
        with pytest.raises(ConfigError, match=r"PostgreSQL has its own tools, pg_dump and pg_restore"):
            refused()


def test_a_restore_that_was_killed_goes_on_when_it_is_run_again(
    served: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backups.backup(served, tmp_path / "copy")
    target = small_settings(tmp_path / "new")

    def killed(done: int, _total: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        backups.restore(target, tmp_path / "copy", progress=killed)
    assert not (tmp_path / "new" / "service.sqlite").exists()
    assert len(files_of(tmp_path / "new" / "artifacts")) == 4
    assert backups.restore(target, tmp_path / "copy").files == 8
    assert len(files_of(tmp_path / "new" / "artifacts")) == 8


def test_files_in_a_bucket_are_backed_up_and_restored_alike(served: Settings, tmp_path: Path, s3_url: str) -> None:
    backups.backup(served, tmp_path / "copy")
    target = small_settings(tmp_path / "new", artifact_url=f"{s3_url}/here")
    report = backups.restore(target, tmp_path / "copy")
    bucket = open_artifacts(f"{s3_url}/here")
    assert len(set(bucket.digests())) == report.files == 8
    again = backups.backup(target, tmp_path / "copy-2")
    assert replace(again, path="", created_at="") == replace(report, path="", created_at="")


def test_the_commands_say_what_they_did(served: Settings, tmp_path: Path) -> None:
    runner = CliRunner()
    made = runner.invoke(app, ["backup", "--data-dir", str(served.data_dir), "--out", str(tmp_path / "copy")])
    assert made.exit_code == 0, made.output
    assert "8 files and the database" in made.stdout
    assert f"onceforall restore {tmp_path / 'copy'} --data-dir NEW_FOLDER" in made.stdout
    checked = runner.invoke(app, ["restore", str(tmp_path / "copy"), "--check"])
    assert "whole; 8 files" in checked.stdout
    back = runner.invoke(app, ["restore", str(tmp_path / "copy"), "--data-dir", str(tmp_path / "new"), "--json"])
    assert json.loads(back.stdout)["files"] == 8


def test_storing_a_file_again_heals_what_was_altered_under_its_name(either_store: ObjectArtifacts) -> None:
    artifacts = either_store
    file = artifacts.put_bytes(b"as it was", name="x")
    as_long = b"rotten!!!"
    put(artifacts._store, f"sha256/{file.sha256[:2]}/{file.sha256}", as_long, mode="overwrite")
    with pytest.raises(DamagedError, match="bring it back with: onceforall storage repair BACKUP, or register the run"):
        artifacts.read(file.sha256)
    artifacts.put_bytes(b"as it was", name="x")
    assert artifacts.read(file.sha256) == b"as it was"


def test_files_that_are_missing_or_altered_come_back_from_a_backup_or_with_their_run(
    served: Settings, tmp_path: Path, run_folder: Path
) -> None:
    folder = Path(shutil.copytree(served.data_dir, tmp_path / "data"))
    backups.backup(small_settings(folder), tmp_path / "copy")
    before = files_of(folder / "artifacts")
    gone, altered = sorted(path for path in (folder / "artifacts").rglob("*") if path.is_file())[:2]
    runner, arguments = CliRunner(), ["--data-dir", str(folder), "--json"]

    def damage() -> None:
        gone.unlink()
        altered.write_bytes(bytes(altered.stat().st_size))

    damage()
    done = runner.invoke(app, ["storage", "repair", str(tmp_path / "copy"), *arguments])
    assert (done.exit_code, json.loads(done.stdout)) == (0, {"repaired": [gone.name, altered.name], "lacking": []})
    assert files_of(folder / "artifacts") == before
    damage()
    poor = Path(shutil.copytree(tmp_path / "copy", tmp_path / "poor"))
    next((poor / "artifacts").rglob(gone.name)).write_bytes(b"rotten too")
    done = runner.invoke(app, ["storage", "repair", str(poor), *arguments])
    assert (done.exit_code, json.loads(done.stdout)) == (1, {"repaired": [altered.name], "lacking": [gone.name]})
    weights = folder / "artifacts" / "sha256"
    with serving(small_settings(folder)) as url, Client(url) as client:
        client.register_run(run_folder, "noise")  # known: it is stored all the same
        names = {sha256_file(run_folder / part) for part in runs.PARTS.values()}
        damaged = [weights / name[:2] / name for name in sorted(names)]
        damaged[0].unlink()
        damaged[1].write_bytes(bytes(damaged[1].stat().st_size))
        (supernet,) = client.list_supernets()
        assert client.register_run(run_folder, "noise")["id"] == supernet["id"]
        assert all(sha256_file(path) == path.name for path in damaged)
