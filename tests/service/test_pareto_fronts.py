from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from small_service import SPACE, make_table, serving, small_settings
from sqlalchemy import delete

from latency_tables import macs
from service.app import create_context
from service.client import Client, ServiceError
from service.domain import FrontSpec
from service.errors import NotFoundError
from service.handlers import Workshop
from service.storage import fronts as front_rows
from service.storage import retention, staging, supernets, uses
from service.storage.artifacts import open_artifacts
from service.storage.database import Database
from service.storage.models import FrontRow
from supernet import SubnetConfig


@pytest.fixture(scope="module")
def fronts(tmp_path_factory: pytest.TempPathFactory, data_folder: Path) -> Iterator[str]:
    import shutil

    folder = Path(shutil.copytree(data_folder, tmp_path_factory.mktemp("fronts") / "data"))
    with serving(small_settings(folder, front_population=60, front_generations=8)) as url, Client(url) as client:
        client.create_device("bench", hardware="a formula", runtime="formula")
        make_table().save(folder / "bench.json")
        client.upload_table("bench", folder / "bench.json")
        yield url


def test_a_front_has_no_subnet_that_another_beats_and_its_costs_are_true(fronts: str) -> None:
    with Client(fronts) as client:
        found = client.front("noise", device="bench")
        assert found["metric"] == "latency_ms@bench"
        points = found["points"]
        table = make_table()
        assert len(points) > 3
        for point in points:
            config = SubnetConfig.from_dict(point["config"])
            assert point["costs"]["macs"] == macs(SPACE.layers(config))
            assert point["costs"]["latency_ms@bench"] == pytest.approx(table.estimate_ms(SPACE, config))
        ordered = [(-point["predicted_accuracy"], point["costs"]["latency_ms@bench"]) for point in points]
        assert ordered == sorted(ordered)  # the best first, and every next one cheaper
        costs = [cost for _, cost in ordered]
        assert costs == sorted(costs, reverse=True)
        assert client.front("noise", device="bench") == found
        assert found["table"] == next(client.list_tables("bench"))["id"]
        assert sum(job["kind"] == "find_front" for job in client.list_jobs()) == 1


def test_the_first_request_starts_the_job_and_the_next_ones_name_it(fronts: str) -> None:
    first = httpx.get(f"{fronts}/api/v1/pareto-fronts?supernet=noise&metric=params")
    assert (first.status_code, first.json()["points"]) == (202, None)
    assert first.headers["location"] == f"/api/v1/jobs/{first.json()['id']}"
    assert int(first.headers["retry-after"]) >= 1
    waited = httpx.get(
        f"{fronts}/api/v1/pareto-fronts?supernet=noise&metric=params", headers={"Prefer": "wait=30"}, timeout=120
    )
    assert (waited.status_code, waited.json()["job"]) == (200, None)
    assert waited.json()["id"] == first.json()["id"]


def test_a_front_is_also_csv_and_a_304_for_who_has_it(fronts: str) -> None:
    with Client(fronts) as client:
        points = client.front("noise")["points"]
    address = f"{fronts}/api/v1/pareto-fronts?supernet=noise&format=csv"
    answer = httpx.get(address)
    assert answer.headers["content-type"].startswith("text/csv")
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert [float(row["predicted_accuracy"]) for row in rows] == [point["predicted_accuracy"] for point in points]
    assert [json.loads(row["config"]) for row in rows] == [point["config"] for point in points]
    assert [float(row["macs"]) for row in rows] == [point["costs"]["macs"] for point in points]
    same = httpx.get(address, headers={"If-None-Match": answer.headers["etag"]})
    assert (same.status_code, same.content) == (304, b"")
    as_json = httpx.get(address.replace("csv", "json"))
    assert as_json.headers["etag"] != answer.headers["etag"]


@pytest.mark.parametrize(
    ("query", "where", "message"),
    [
        ({"supernet": "nobody"}, "query.supernet", "no supernet 'nobody'"),
        ({"supernet": "noise", "device": "nobody"}, "query.device", "no complete latency table of 'nobody'"),
        ({"supernet": "noise", "device": "bench", "metric": "macs"}, "query.metric", "leave device out"),
        ({"supernet": "noise", "metric": "latency_ms"}, "query.metric", "add device=NAME"),
        ({"supernet": "noise", "metric": "beauty"}, "query.metric", "'latency_ms', 'macs'"),
        ({}, "query.supernet", "required"),
    ],
)
def test_a_wrong_question_is_refused_and_named(fronts: str, query: dict[str, str], where: str, message: str) -> None:
    answer = httpx.get(f"{fronts}/api/v1/pareto-fronts", params=query)
    assert answer.status_code == 422
    assert any(fault["where"] == where and message in fault["message"] for fault in answer.json()["faults"])


def test_a_front_whose_job_was_cancelled_is_said_to_be(data_copy: Path) -> None:
    with serving(small_settings(data_copy, job_workers=0)) as url, Client(url) as client:
        job = httpx.get(f"{url}/api/v1/pareto-fronts?supernet=noise").json()["job"]
        client.cancel(job["id"])
        again = httpx.get(f"{url}/api/v1/pareto-fronts?supernet=noise")  # starts it anew
        assert again.json()["job"]["state"] == "queued"
        begin = time.monotonic()
        with pytest.raises(ServiceError, match="was not there after 0 s"):
            client.front("noise", wait_s=0)
        assert time.monotonic() - begin < 10  # no longer than it was to wait


def test_a_fronts_file_is_in_use_until_its_supernet_is_deleted(data_copy: Path) -> None:
    settings = small_settings(data_copy, front_population=20, front_generations=2)
    artifacts = open_artifacts(settings.resolved_artifact_url)
    database = Database(settings.resolved_database_url)
    with serving(settings) as url, Client(url) as client:
        client.front("noise", metric="macs")
        with database.session() as session:
            named = retention.owners(session)
            assert set(artifacts.digests()) == staging.in_use(session) == named.keys() == uses.files(session)
        assert sum(owner.startswith("front ") for owner in named.values()) == 1
        client.delete_supernet("noise")
    assert not set(artifacts.digests())
    database.close()


def test_a_front_of_a_supernet_that_was_deleted_and_registered_again_is_searched_again(
    data_copy: Path, run_folder: Path
) -> None:
    with serving(small_settings(data_copy, front_population=20, front_generations=3)) as url, Client(url) as client:
        first = client.front("noise", metric="macs", wait_s=120)
        client.delete_supernet("noise")
        assert first["id"] not in {job["id"] for job in client.list_jobs()}
        client.register_run(run_folder, "noise")
        assert client.front("noise", metric="macs", wait_s=120) == first
        database = Database(f"sqlite:///{data_copy / 'service.sqlite'}")
        with database.session() as session:  # as a version left it that did not forget jobs with what they had made
            session.execute(delete(FrontRow))
        database.close()
        assert client.job(first["id"])["state"] == "succeeded"
        assert client.front("noise", metric="macs", wait_s=120)["points"] == first["points"]


def test_what_a_front_under_way_needs_is_not_deleted(data_copy: Path) -> None:
    with serving(small_settings(data_copy, job_workers=0)) as url, Client(url) as client:
        client.create_device("bench", runtime="formula")
        make_table().save(data_copy / "bench.json")
        table = client.upload_table("bench", data_copy / "bench.json")
        job = httpx.get(f"{url}/api/v1/pareto-fronts?supernet=noise&device=bench").json()["job"]
        with pytest.raises(ServiceError, match="supernet 'noise' has waiting or running jobs; cancel them, or wait"):
            client.delete_supernet("noise")
        with pytest.raises(ServiceError, match=r"requests or fronts were priced with table .* so it stays"):
            client.delete_table(table["id"])
        client.cancel(job["id"])
        client.delete_table(table["id"])
        client.delete_supernet("noise")


def test_a_front_whose_supernet_is_deleted_while_it_is_searched_leaves_nothing(data_copy: Path) -> None:
    settings = small_settings(data_copy, front_population=20, front_generations=20)
    context = create_context(settings)
    context.database.migrate()
    with context.database.session() as session:
        record = supernets.get(session, "noise")
    assert record is not None
    before = set(context.artifacts.digests())
    spec = FrontSpec(record.id, "macs", None, None, settings.front_population, settings.front_generations)

    def progress(stage: str, _fraction: float) -> None:
        if stage == "searching":  # the job was cancelled, and this process was not told yet
            with context.database.session(exclusive=True) as session:
                supernets.delete(session, record.id)

    with pytest.raises(NotFoundError, match="was deleted; register its run again"):
        Workshop(settings).do("find_front", {"spec": spec.to_dict()}, progress, executor="host")
    with context.database.session() as session:
        assert front_rows.get(session, spec.digest) is None
    assert set(context.artifacts.digests()) == before
    context.database.close()
