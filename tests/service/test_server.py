from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from fastapi import FastAPI
from obstore.store import LocalStore
from small_service import SPACE, serving, small_settings
from sqlalchemy import select, text
from sqlalchemy.exc import IntegrityError
from test_health import wait_ready

from latency_tables import profile_space
from service.api import problems
from service.api.problems import problem
from service.api.schemas import SupernetOut
from service.client import Client, ServiceError
from service.domain import SupernetRecord, utc_now
from service.errors import BusyError
from service.server import run
from service.settings import load_settings
from service.storage.artifacts import ObjectArtifacts
from service.storage.database import Database
from service.storage.models import Base, DeviceRow
from supernet.errors import CheckpointError, ConfigError, RunBusyError, StorageError, TableError
from supernet.files import read_json
from supernet.training.data import ImageData
from supernet.training.settings import TrainingSettings
from supernet.training.trainer import start_run


def test_health_readiness_and_version_answer(url: str) -> None:
    assert httpx.get(f"{url}/healthz").json() == {"status": "ok"}
    assert wait_ready(url).json() == {"status": "ready"}
    assert httpx.get(f"{url}/version").json()["name"] == "onceforall"


def test_a_port_in_use_is_named_with_the_next_step(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            ConfigError, match=rf"cannot serve at 127\.0\.0\.1:{port}: address already in use; .* --port"
        ):
            run(small_settings(tmp_path, port=port))
    assert not (tmp_path / "service.sqlite").exists()


def test_a_second_service_on_the_same_folder_is_refused(tmp_path: Path) -> None:
    settings = small_settings(tmp_path)
    with serving(settings) as url:
        assert httpx.get(f"{url}/healthz").status_code == 200
        with pytest.raises(RunBusyError, match="another service is at work"):
            run(settings)
    with serving(settings) as url:
        assert httpx.get(f"{url}/healthz").status_code == 200


def test_a_data_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"cannot write .*file.*free some space or choose another folder"):
        run(small_settings(tmp_path / "file" / "data"))


def test_wrong_settings_are_all_named() -> None:
    with pytest.raises(ConfigError, match=r"port: .*; job_workers: .*; allowed: data_dir, database_url"):
        load_settings(port=70000, job_workers=-1)
    assert load_settings(port=None).port == 8000


def test_the_environment_sets_what_arguments_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONCEFORALL_PORT", "1234")
    monkeypatch.setenv("ONCEFORALL_HOST", "::1")
    settings = load_settings(port=99)
    assert (settings.port, settings.host) == (99, "::1")


def test_the_api_process_never_imports_torch() -> None:
    code = "import sys, service.server, service.client; sys.exit(any(m in sys.modules for m in ('torch', 'sklearn')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_the_migrations_give_the_models_schema(tmp_path: Path, kind: str, request: pytest.FixtureRequest) -> None:
    sqlite = kind == "sqlite"
    database = Database(f"sqlite:///{tmp_path / 'x.sqlite'}" if sqlite else request.getfixturevalue("postgres_url"))
    database.migrate()
    database.migrate()
    with database.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []
        assert not sqlite or connection.exec_driver_sql("pragma journal_mode").scalar() == "wal"
    database.close()


def test_equal_content_is_one_artefact_and_altered_content_is_noticed(tmp_path: Path) -> None:
    store = ObjectArtifacts(LocalStore(tmp_path / "store", mkdir=True))
    content = bytes(range(256)) * 40_000
    first, second = store.put_bytes(content, name="a"), store.put_bytes(content, name="b")
    assert first.sha256 == second.sha256
    assert [path for path in (tmp_path / "store").rglob("*") if path.is_file()] == [
        tmp_path / "store" / "sha256" / first.sha256[:2] / first.sha256
    ]
    assert store.read(first.sha256) == content
    assert b"".join(store.chunks(first.sha256, start=1_500_000, end=1_500_007)) == content[1_500_000:1_500_007]
    store.copy_to(first.sha256, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == content
    (tmp_path / "store" / "sha256" / first.sha256[:2] / first.sha256).write_bytes(b"other")
    with pytest.raises(CheckpointError, match="was altered on the disk"):
        store.copy_to(first.sha256, tmp_path / "copy")
    store.delete(first.sha256)
    store.delete(first.sha256)
    with pytest.raises(CheckpointError, match="is gone from the artefact store"):
        store.read(first.sha256)
    for key in ("../../etc/passwd", "", "A" * 64, "a" * 63, "a" * 64 + "\n"):
        with pytest.raises(ValueError, match="not a SHA-256 digest"):
            store.read(key)


def test_a_damaged_database_is_a_storage_error_with_the_next_step(tmp_path: Path) -> None:
    path = tmp_path / "x.sqlite"
    database = Database(f"sqlite:///{path}")
    database.migrate()
    database.close()
    data = path.read_bytes()
    path.write_bytes(data[:4096] + b"\x55" * (len(data) - 4096))  # the first page says where the tables are
    with (
        pytest.raises(StorageError, match=r"the database '.*' refused: .* is malformed; restore it from a copy"),
        database.session() as session,
    ):
        session.scalars(select(DeviceRow)).all()
    database.close()


def test_too_many_sessions_at_a_time_are_told_as_such_and_a_broken_rule_is_not(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'x.sqlite'}")
    database.migrate()
    database.engine.pool._timeout = 0.01  # type: ignore[attr-defined]
    with ExitStack() as stack:
        for _ in range(15):  # the pool's five connections and the ten that it may add
            stack.enter_context(database.session()).execute(text("select 1"))
        with pytest.raises(BusyError, match="all connections to the database are busy; send the request again later"):
            database.check()
    with pytest.raises(IntegrityError), database.session() as session:
        session.execute(text("insert into devices (name) values (null)"))
    database.close()


def test_nothing_passes_through_the_systems_temporary_folder_to_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "full"))
    (tmp_path / "file").write_bytes(b"content")
    store = ObjectArtifacts(LocalStore(tmp_path / "store", mkdir=True))
    assert store.put_file(tmp_path / "file", name="a") == store.put_bytes(b"content", name="a")


def test_an_upload_that_the_temporary_folder_cannot_hold_is_a_507(
    client: Client, run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    with pytest.raises(ServiceError, match=r"cannot write '/nowhere': .*; free some space") as error:
        client.register_run(run_folder, "noise")
    assert error.value.status == 507


def test_the_recipe_of_a_supernet_is_the_settings_that_its_trainer_wrote(
    tmp_path: Path, few_digits: ImageData, short_settings: TrainingSettings
) -> None:
    start_run(tmp_path, short_settings, few_digits, {"root": None, "size": 32})
    manifest = read_json(tmp_path / "manifest.json") | {"weights": {"sha256": "0" * 64}}
    record = SupernetRecord("0" * 64, "x", SPACE.name, 10, manifest, "0" * 64, {}, utc_now())
    recipe = SupernetOut.of(record).recipe
    assert recipe["seed"] == 1
    assert [stage["name"] for stage in recipe["stages"]] == [stage.name for stage in short_settings.stages]


def answering(handler: Callable[[httpx.Request], httpx.Response]) -> Client:
    client = Client("http://test")
    client._http.close()
    client._http = httpx.Client(base_url="http://test", transport=httpx.MockTransport(handler))
    return client


class Broken(httpx.SyncByteStream):
    def __iter__(self) -> Iterator[bytes]:
        yield b"half"
        raise httpx.RemoteProtocolError("peer closed connection")


@pytest.mark.parametrize(
    ("answer", "kind", "message"),
    [
        (lambda: httpx.Response(404, json={"detail": "no such file"}), ServiceError, "no such file"),
        (lambda: httpx.Response(200, stream=Broken()), ServiceError, "peer closed connection"),
        (lambda: httpx.Response(200, content=b"other"), CheckpointError, "was altered on its way; download it again"),
    ],
)
def test_a_download_that_fails_leaves_what_was_there(
    tmp_path: Path, answer: Callable[[], httpx.Response], kind: type[Exception], message: str
) -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/file":
            return answer()
        file = {"name": "card.json", "url": "/file", "sha256": "0" * 64}
        return httpx.Response(200, json={"files": [file]})

    with answering(handler) as client:
        with pytest.raises(kind, match=message):
            client.download("a" * 64, tmp_path / "new")
        assert list((tmp_path / "new").iterdir()) == []
        (tmp_path / "new" / "card.json").write_text("earlier")
        with pytest.raises(kind, match=message):
            client.download("a" * 64, tmp_path / "new")
        assert [path.read_text() for path in (tmp_path / "new").iterdir()] == ["earlier"]


def test_a_subnet_for_this_machine_is_also_timed(client: Client, tmp_path: Path) -> None:
    table = profile_space(SPACE, device="here", repeats=2, warmup=1)
    table.save(tmp_path / "here.yaml")
    client.create_device("here")
    client.upload_table("here", tmp_path / "here.yaml")
    most = table.estimate_ms(SPACE, SPACE.smallest()) * 1.5
    subnet = client.request_subnet("noise", f"latency_ms@here<={most:.4f}")
    assert subnet["predicted"]["latency_ms"]["here"] <= most
    assert 0.1 < subnet["measured"]["latency_ms"]["here"] / most < 10


def test_the_client_says_when_there_is_no_service(tmp_path: Path) -> None:
    with Client("http://127.0.0.1:9") as client:
        with pytest.raises(ServiceError, match=r"no answer from http://127.0.0.1:9: .* onceforall serve") as error:
            client.job("0" * 64)
        assert error.value.status == 0
        with pytest.raises(CheckpointError, match=r"lacks manifest.json, .* onceforall train"):
            client.register_run(tmp_path, "x")
        with pytest.raises(ServiceError, match="no latency table; allowed endings"):
            client.upload_table("x", tmp_path / "table.xls")
        with pytest.raises(
            TableError,
            match=r"cannot read latency table '.*no\.json': No such file.*onceforall profile RUN_FOLDER --dev",
        ):
            client.upload_table("x", tmp_path / "no.json")
        with pytest.raises(ServiceError, match="is no subnet's id"):
            client.download("../x", tmp_path)


def test_a_fault_of_the_service_is_a_500_that_tells_no_details() -> None:
    app = FastAPI()
    problems.install(app)

    @app.get("/crash")
    def crash() -> None:
        raise ZeroDivisionError("secret")

    async def get() -> httpx.Response:
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.get("/crash")

    answer = asyncio.run(get())
    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["type"] == "urn:onceforall:problem:internal"
    assert "ZeroDivisionError" in answer.json()["detail"]
    assert "secret" not in answer.text


def test_a_problem_is_valid_json_whatever_its_details_hold() -> None:
    answer = problem(409, "x", "detail", details={"a": float("nan"), "b": [float("inf"), 1.5]})
    assert b'"a": null' in answer.body
    assert b"[null, 1.5]" in answer.body
