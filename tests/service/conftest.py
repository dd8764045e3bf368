from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers import postgres_server, postgres_url, s3_server, s3_url
from small_service import make_run, make_table, serving, small_settings

from service.client import Client
from service.settings import Settings
from service.storage.artifacts import ObjectArtifacts, open_artifacts
from service.storage.database import Database

__all__ = ["postgres_server", "postgres_url", "s3_server", "s3_url"]


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="session")
def data_folder(tmp_path_factory: pytest.TempPathFactory, run_folder: Path) -> Path:
    """The data of a service that ended, with a supernet "noise"; copy it, because registering takes seconds."""
    folder = tmp_path_factory.mktemp("registered")
    with serving(small_settings(folder)) as address, Client(address) as client:
        client.register_run(run_folder, "noise")
    return folder


@pytest.fixture
def data_copy(tmp_path: Path, data_folder: Path) -> Path:
    """The data of a service that ended, for one test."""
    return Path(shutil.copytree(data_folder, tmp_path / "data"))


@pytest.fixture(scope="session")
def settings(tmp_path_factory: pytest.TempPathFactory, data_folder: Path) -> Settings:
    return small_settings(Path(shutil.copytree(data_folder, tmp_path_factory.mktemp("service") / "data")))


@pytest.fixture(scope="session")
def url(settings: Settings, run_folder: Path) -> Iterator[str]:
    """A service with a supernet "noise", a device "bench" and its table."""
    with serving(settings) as address:
        with Client(address) as client:
            client.create_device("bench", hardware="a formula", runtime="formula")
            path = run_folder / "bench.json"
            make_table().save(path)
            client.upload_table("bench", path)
        yield address


@pytest.fixture(params=["sqlite", "postgresql"])
def either_database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """An empty database of this version's schema, of each kind in turn."""
    sqlite = request.param == "sqlite"
    url = f"sqlite:///{tmp_path / 'service.sqlite'}" if sqlite else request.getfixturevalue("postgres_url")
    database = Database(url)
    database.migrate()
    yield database
    database.close()


@pytest.fixture(params=["folder", "bucket"])
def either_store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectArtifacts:
    """An empty artefact store of each kind in turn."""
    folder = request.param == "folder"
    return open_artifacts((tmp_path / "store").as_uri() if folder else request.getfixturevalue("s3_url"))


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    with Client(url) as client:
        yield client
