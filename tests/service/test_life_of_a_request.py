from __future__ import annotations

import base64
import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import torch

from latency_tables import Budget, macs, params, peak_memory_bytes
from service.client import Client, ServiceError
from service.settings import Settings
from service.storage import retention
from service.storage.database import Database
from supernet import SubnetConfig, get_space
from supernet.subnet_file import load_subnet

SPACE = get_space("mobilenet_v3_tiny")
BUDGET = "macs<=3M, latency_ms@bench<=2"


def test_a_budget_becomes_a_downloadable_subnet_that_meets_it(client: Client, tmp_path: Path) -> None:
    seen: list[tuple[str, float]] = []
    budget = "macs<=2.97M, latency_ms@bench<=1.97"  # that no other test asks for
    subnet = client.request_subnet("noise", budget, on_progress=lambda stage, done: seen.append((stage, done)))
    config = SubnetConfig.from_dict(subnet["config"])
    assert macs(SPACE.layers(config)) == subnet["predicted"]["macs"] == subnet["measured"]["macs"] <= 2.97e6
    assert params(SPACE.layers(config)) == subnet["predicted"]["params"] == subnet["measured"]["params"]
    assert subnet["predicted"]["latency_ms"]["bench"] <= 1.97
    assert subnet["measured"]["latency_ms"] == {}  # the table is not of this machine
    assert subnet["measured"]["correct"] / subnet["measured"]["total"] == subnet["measured"]["accuracy"]
    assert [fraction for _, fraction in seen] == sorted(fraction for _, fraction in seen)
    assert seen[-1] == ("done", 1.0)
    paths = client.download(subnet["id"], tmp_path)
    assert sorted(path.name for path in paths) == ["card.json", "config.json", "subnet.safetensors"]
    net = load_subnet(tmp_path)
    assert net.config == config
    with torch.inference_mode():
        assert net(torch.zeros(1, 3, config.resolution, config.resolution)).shape == (1, 10)
    assert json.loads((tmp_path / "card.json").read_text()) == subnet["card"]


def test_a_subnet_that_was_forgotten_is_made_anew_at_once(client: Client, settings: Settings) -> None:
    budget = "macs<=2.93M"  # that no other test asks for
    first = client.request_subnet("noise", budget)
    database = Database(f"sqlite:///{settings.data_dir / 'service.sqlite'}")
    with database.session() as session:
        assert retention.delete_subnet(session, first["id"])
    database.close()
    begin = time.monotonic()
    second = client.request_subnet("noise", budget)
    assert time.monotonic() - begin < 30  # although dbos still knows the workflow of the first job
    assert second["created_at"] > first["created_at"]
    assert {key: second[key] for key in ("id", "files")} == {key: first[key] for key in ("id", "files")}


def test_the_card_names_everything_that_decided_the_subnet(client: Client) -> None:
    card = client.request_subnet("noise", BUDGET)["card"]
    supernet = client._call("GET", "/supernets/noise")
    tables = client._call("GET", "/devices/bench/latency-tables")["items"]
    assert card["digests"]["supernet"] == supernet["id"]
    assert card["digests"]["weights"] == supernet["weights_sha256"]
    assert card["digests"]["predictor"] == supernet["predictor_sha256"]
    assert card["digests"]["tables"] == {"bench": tables[-1]["id"]}
    assert Budget.from_dict(card["budget"]) == Budget.parse(BUDGET)
    assert card["seed"] == 0
    assert card["measured"]["images"] == "holdout"
    assert set(card["digests"]) == {"supernet", "weights", "images", "data", "predictor", "tables"}
    assert set(card["measured"]) == {
        *(
            "accuracy",
            "accuracy_before_calibration",
            "correct",
            "total",
            "images",
            "standard_error",
            "accuracy_interval",
        ),
        *("macs", "params", "latency_ms"),
    }
    assert set(card) == {
        *("format", "request", "config", "config_digest", "space", "num_classes", "budget", "seed", "search"),
        *("digests", "predicted", "measured"),
    }


def test_equal_requests_are_one_request_one_job_and_one_subnet(client: Client, url: str) -> None:
    first = client.request_subnet("noise", BUDGET)
    jobs = len(client._call("GET", "/jobs")["items"])
    limits = [
        {"metric": "latency_ms", "device": "bench", "max": 2.0},
        {"metric": "macs", "max": 3e6},
    ]
    for constraints in (limits, limits[::-1]):
        answer = httpx.post(
            f"{url}/api/v1/subnet-requests", json={"supernet": "noise", "constraints": constraints, "seed": 0}
        )
        assert answer.status_code == 200
        assert answer.json()["subnet"] == first
    assert len(client._call("GET", "/jobs")["items"]) == jobs


def test_equal_requests_at_the_same_moment_are_one_job(client: Client) -> None:
    jobs = len(client._call("GET", "/jobs", params={"limit": 200})["items"])
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: client.ask("noise", "macs<=3.3M"), range(16)))
    assert len({answer["id"] for answer in answers}) == 1
    assert len(client._call("GET", "/jobs", params={"limit": 200})["items"]) == jobs + 1


def test_another_seed_is_another_request(client: Client) -> None:
    first, second = client.ask("noise", BUDGET), client.ask("noise", BUDGET, seed=1)
    assert first["id"] != second["id"]
    assert second["spec"]["seed"] == 1
    assert client.request_subnet("noise", BUDGET, seed=1)["request"] == second["id"]


def test_a_new_request_answers_202_with_the_location_of_its_job(client: Client, url: str) -> None:
    body = {"supernet": "noise", "constraints": [{"metric": "params", "max": 400000}]}
    answer = httpx.post(f"{url}/api/v1/subnet-requests", json=body)
    assert answer.status_code == 202
    job = httpx.get(url + answer.headers["location"]).json()
    assert job["id"] == answer.json()["id"]
    assert client.request_subnet("noise", "params<=400K")["measured"]["params"] <= 400_000


def test_shares_percentiles_and_peak_memory_are_kept_by_the_subnet(client: Client) -> None:
    largest = macs(SPACE.layers(SPACE.largest()))
    subnet = client.request_subnet("noise", "macs<=25%, latency_ms@bench<=2.5 p95, peak_memory_bytes<=100kB")
    config = SubnetConfig.from_dict(subnet["config"])
    assert macs(SPACE.layers(config)) <= 0.25 * largest
    assert peak_memory_bytes(SPACE.layers(config)) <= 100_000
    predicted = subnet["predicted"]["costs"]
    assert predicted["latency_ms@bench"] < predicted["latency_ms@bench:p95"] <= 2.5


def test_an_infeasible_budget_is_refused_at_once_with_the_tightest_limit_and_the_nearest_subnet(client: Client) -> None:
    smallest = macs(SPACE.layers(SPACE.smallest()))
    with pytest.raises(ServiceError, match="no subnet of 'mobilenet_v3_tiny' meets the budget") as error:
        client.ask("noise", "macs<=1K, latency_ms@bench<=1000")
    problem = error.value.problem
    assert problem["status"] == 409
    assert problem["type"] == "urn:onceforall:problem:infeasible-budget"
    assert problem["tightest"]["metric"] == "macs"
    assert problem["tightest"]["least"] <= smallest
    nearest = SubnetConfig.from_dict(problem["nearest"]["config"])
    assert macs(SPACE.layers(nearest)) == problem["nearest"]["costs"]["macs"] == problem["tightest"]["least"]


def test_downloads_carry_a_strong_etag_and_answer_304_ranges_and_head(client: Client, url: str) -> None:
    subnet = client.request_subnet("noise", BUDGET)
    for file in subnet["files"]:
        whole = httpx.get(url + file["url"])
        assert whole.headers["etag"] == f'"{file["sha256"]}"'
        assert whole.headers["cache-control"] == "private, no-cache"  # made anew, a subnet may have another card
        assert len(whole.content) == file["size_bytes"]
        assert whole.headers["content-disposition"] == f'attachment; filename="{file["name"]}"'
        head = httpx.head(url + file["url"])
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-length"] == str(file["size_bytes"])
        for tag in (whole.headers["etag"], f'"other", W/{whole.headers["etag"]}', "*"):
            again = httpx.get(url + file["url"], headers={"If-None-Match": tag})
            assert (again.status_code, again.content) == (304, b"")
        assert httpx.get(url + file["url"], headers={"If-None-Match": '"other"'}).status_code == 200
        if file["name"].endswith(".json"):  # a piece of JSON is no JSON
            assert whole.headers["accept-ranges"] == "none"
            assert httpx.get(url + file["url"], headers={"Range": "bytes=0-9"}).content == whole.content
            continue
        for header, expected in (
            ("bytes=0-9", whole.content[:10]),
            ("bytes=7-", whole.content[7:]),
            ("bytes=-5", whole.content[-5:]),
        ):
            part = httpx.get(url + file["url"], headers={"Range": header})
            assert (part.status_code, part.content) == (206, expected)
        outside = httpx.get(url + file["url"], headers={"Range": "bytes=99999999-"})
        assert outside.status_code == 416
        assert outside.headers["content-range"] == f"bytes */{file['size_bytes']}"


def test_browsing_by_cursor_gives_every_subnet_once_in_order(client: Client) -> None:
    for most in (2.5, 3.5, 4.5):
        client.request_subnet("noise", f"macs<={most}M, latency_ms@bench<=3")
    everything = list(client.list_subnets(limit=200))
    for sort in ("created_at", "-created_at", "accuracy", "-macs", "params", "latency_ms"):
        filters = {"device": "bench"} if sort == "latency_ms" else {}
        paged = list(client.list_subnets(limit=2, sort=sort, **filters))
        ids = [subnet["id"] for subnet in paged]
        assert len(ids) == len(set(ids))
        if not filters:
            assert set(ids) == {subnet["id"] for subnet in everything}
        key = sort.removeprefix("-")
        values = [
            subnet["predicted"]["latency_ms"]["bench"]
            if key == "latency_ms"
            else subnet[key]
            if key == "created_at"
            else subnet["measured"][key]
            for subnet in paged
        ]
        assert values == sorted(values, reverse=sort.startswith("-"))


def test_filters_keep_exactly_the_subnets_that_pass(client: Client) -> None:
    client.request_subnet("noise", BUDGET)
    everything = list(client.list_subnets())
    bound = sorted(subnet["measured"]["macs"] for subnet in everything)[len(everything) // 2]
    kept = {subnet["id"] for subnet in client.list_subnets(**{"macs.lte": bound})}
    assert kept == {subnet["id"] for subnet in everything if subnet["measured"]["macs"] <= bound}
    kept = {subnet["id"] for subnet in client.list_subnets(**{"latency_ms.lte": 2.0, "device": "bench"})}
    assert kept == {s["id"] for s in everything if s["predicted"]["latency_ms"].get("bench", 9) <= 2.0}
    assert list(client.list_subnets(supernet="nobody")) == []


def cursor_of(*parts: str) -> str:
    return base64.urlsafe_b64encode(json.dumps(parts).encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("sort=beauty", "unknown sort 'beauty'"),
        ("sort=latency_ms", "latency_ms needs a device"),
        ("latency_ms.lte=3", "latency_ms needs a device"),
        ("cursor=abc", "is not one of this list"),
        ("cursor=%ff%01", "is not one of this list"),
        ("cursor=" + cursor_of("-created_at", "\ud800", "x"), "is not one of this list"),
        ("cursor=" + cursor_of("-created_at", "x", "\ud800"), "is not one of this list"),
        ("limit=201", "less than or equal to 200"),
        ("macs.lte=nan", "finite number"),
        ("maks.lte=3", "Extra inputs are not permitted"),
    ],
)
def test_a_wrong_query_is_refused_with_the_reason(url: str, query: str, message: str) -> None:
    answer = httpx.get(f"{url}/api/v1/subnets?{query}")
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert message in answer.text


def test_a_cursor_of_another_order_is_refused(client: Client) -> None:
    client.request_subnet("noise", BUDGET)
    client.request_subnet("noise", BUDGET, seed=1)
    cursor = client._call("GET", "/subnets", params={"limit": 1})["next_cursor"]
    with pytest.raises(ServiceError, match="not one of this list in this order"):
        client._call("GET", "/subnets", params={"limit": 1, "cursor": cursor, "sort": "macs"})
