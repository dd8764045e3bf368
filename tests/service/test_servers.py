"""The servers that other tests need are what they say: real, reachable, empty, gone afterwards."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import obstore
import psycopg
import pytest
from obstore.exceptions import AlreadyExistsError, PermissionDeniedError, UnauthenticatedError
from obstore.store import S3Store
from servers import S3Server, new_database
from sqlalchemy import create_engine, text


def test_every_test_gets_an_empty_postgresql_database_of_its_own(postgres_url: str, postgres_server: str) -> None:
    for url in (postgres_url, new_database(postgres_server)):
        engine = create_engine(url)
        with engine.begin() as connection:
            assert int(connection.exec_driver_sql("show server_version_num").scalar_one()) >= 160000
            connection.execute(text("create table mine (x integer)"))
        engine.dispose()


def test_postgresql_asks_for_its_password(postgres_server: str) -> None:
    engine = create_engine(postgres_server)
    wrong = engine.url.set(drivername="postgresql", password="wrong").render_as_string(hide_password=False)
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(wrong)


def test_the_s3_server_stores_creates_once_reads_ranges_lists_and_deletes(s3_url: str) -> None:
    store = S3Store.from_url(f"{s3_url}/some/where")
    content = bytes(range(256)) * 4096 * 12  # more than one part of an upload
    obstore.put(store, "a/b", content, mode="create", use_multipart=False)
    with pytest.raises(AlreadyExistsError):
        obstore.put(store, "a/b", b"other", mode="create")
    assert bytes(obstore.get_range(store, "a/b", start=1000, end=1300)) == content[1000:1300]
    assert obstore.head(store, "a/b")["size"] == len(content)
    assert [entry["path"] for entry in obstore.list(store).collect()] == ["a/b"]
    obstore.delete(store, "a/b")
    with pytest.raises(FileNotFoundError):
        obstore.head(store, "a/b")


def test_the_s3_server_asks_for_its_key(s3_url: str, s3_server: S3Server) -> None:
    store = S3Store.from_url(s3_url, secret_access_key="wrong")
    with pytest.raises((PermissionDeniedError, UnauthenticatedError)):
        obstore.put(store, "x", b"x")


def test_the_servers_end_when_the_process_that_started_them_is_killed() -> None:
    code = """
import sys, time
sys.path.insert(0, sys.argv[1])
import servers
with servers.postgres() as url, servers.s3() as s3:
    print(url.rpartition(":")[2].partition("/")[0], s3.endpoint.rpartition(":")[2], flush=True)
    time.sleep(600)
"""
    command = [sys.executable, "-c", code, str(Path(__file__).parent)]
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o711)  # PostgreSQL runs as somebody else
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env=os.environ | {"TMPDIR": folder}
        ) as process:
            assert process.stdout is not None
            ports = [int(port) for port in process.stdout.readline().split()]
            process.kill()
        assert len(ports) == 2
        for _ in range(600):
            if not any(map(listening, ports)):
                break
            time.sleep(0.1)
        assert not any(map(listening, ports))


def listening(port: int) -> bool:
    """Whether somebody listens on a port of 127.0.0.1."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return any(line.split()[1] == f"0100007F:{port:04X}" and line.split()[3] == "0A" for line in lines)
