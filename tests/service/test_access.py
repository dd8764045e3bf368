from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import Response
from fastapi.testclient import TestClient
from small_service import make_run, serving, small_settings
from test_retention import stored_subnet
from typer.testing import CliRunner

from service import keys
from service.api.access import needed
from service.api.guards import Guards
from service.cli import app
from service.client import Client, ServiceError
from service.keys import Scope, new_key
from service.storage import keys as rows
from service.storage.artifacts import open_artifacts
from service.storage.database import Database

EVERYWHERE = "0.0.0.0"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("guarded")


@pytest.fixture(scope="module")
def guarded(folder: Path) -> Iterator[str]:
    """A service on an address that other machines can reach; it does no jobs."""
    with serving(small_settings(folder, host=EVERYWHERE, job_workers=0)) as url:
        yield url.replace(EVERYWHERE, "127.0.0.1")


@pytest.fixture(scope="module")
def database(folder: Path, guarded: str) -> Iterator[Database]:
    database = Database(f"sqlite:///{folder / 'service.sqlite'}")
    yield database
    database.close()


def make_key(database: Database, *scopes: Scope, **caps: Any) -> tuple[str, str]:
    """A new key of the service, and its id."""
    text, key = new_key("a test", scopes or (Scope.READ,), **caps)
    with database.session() as session:
        rows.add(session, key)
    return text, key.id


def get(url: str, path: str = "/api/v1/devices", key: str | None = None) -> httpx.Response:
    return httpx.get(url + path, headers={} if key is None else {"Authorization": f"Bearer {key}"})


def test_off_loopback_a_request_without_a_key_is_a_401_that_says_how(guarded: str) -> None:
    for path in ("/api/v1/devices", "/api/v1/subnets", "/api/v1/nothing", "/metrics", "/"):
        answer = get(guarded, path)
        assert answer.status_code == 401, path
        assert answer.headers["content-type"] == "application/problem+json"
        assert "Authorization: Bearer" in answer.json()["detail"]
        assert answer.headers["www-authenticate"].startswith("Bearer" if path.startswith("/api") else "Basic")
    assert httpx.post(f"{guarded}/api/v1/devices", json={"name": "x"}).status_code == 401


def test_what_tells_nothing_about_the_data_is_open(guarded: str) -> None:
    for path in ("/healthz", "/version", "/api/v1/openapi.json", "/docs"):
        assert get(guarded, path).status_code == 200, path
    assert get(guarded, "/readyz").status_code in (200, 503, 507)


def test_a_key_opens_and_a_wrong_secret_an_unknown_id_and_no_key_do_not(guarded: str, database: Database) -> None:
    key, key_id = make_key(database)
    assert get(guarded, key=key).status_code == 200
    other, _ = new_key("nobody", [Scope.ADMIN])
    for wrong in (
        key[:-1] + ("A" if key[-1] != "A" else "B"),
        f"ofa_{key_id}_{'A' * 43}",
        other,
        "ofa_",
        "x",
        key + "x",
    ):
        answer = get(guarded, key=wrong)
        assert answer.status_code == 401, wrong
        assert wrong[-43:] not in answer.text or len(wrong) < 43


def test_a_browser_sends_the_key_as_the_password(guarded: str, database: Database) -> None:
    key, _ = make_key(database)
    assert httpx.get(f"{guarded}/", auth=("anybody", key)).status_code == 200
    assert httpx.get(f"{guarded}/api/v1/devices", auth=("", key)).status_code == 200
    assert httpx.get(f"{guarded}/", auth=("anybody", "guess")).status_code == 401
    assert httpx.get(f"{guarded}/", headers={"Authorization": b"Basic \xff"}).status_code == 401


@pytest.mark.parametrize(
    ("scope", "method", "path", "allowed"),
    [
        (Scope.READ, "GET", "/api/v1/subnets", True),
        (Scope.READ, "POST", "/api/v1/devices", False),
        (Scope.READ, "POST", "/api/v1/subnet-requests", False),
        (Scope.READ, "POST", f"/api/v1/jobs/{'0' * 64}/cancel", False),
        (Scope.READ, "DELETE", "/api/v1/supernets/x", False),
        (Scope.READ, "POST", f"/api/v1/latency-tables/{'0' * 64}/estimate", True),
        (Scope.REQUEST, "POST", "/api/v1/subnet-requests", True),
        (Scope.READ, "POST", "/api/v1/pruning-runs", False),
        (Scope.REQUEST, "POST", "/api/v1/pruning-runs", True),
        (Scope.REQUEST, "POST", "/api/v1/weights", False),
        (Scope.UPLOAD, "POST", "/api/v1/weights", True),
        (Scope.REQUEST, "GET", "/api/v1/subnets", False),
        (Scope.REQUEST, "POST", "/api/v1/devices", False),
        (Scope.UPLOAD, "POST", "/api/v1/devices", True),
        (Scope.UPLOAD, "POST", "/api/v1/supernets", True),
        (Scope.UPLOAD, "DELETE", "/api/v1/supernets/x", False),
        (Scope.ADMIN, "GET", "/api/v1/subnets", True),
        (Scope.ADMIN, "POST", "/api/v1/devices", True),
        (Scope.ADMIN, "DELETE", "/api/v1/supernets/x", True),
        (Scope.ADMIN, "DELETE", f"/api/v1/latency-tables/{'0' * 64}", True),
    ],
)
def test_a_key_may_do_what_its_scopes_say(
    guarded: str, database: Database, scope: Scope, method: str, path: str, allowed: bool
) -> None:
    key, key_id = make_key(database, scope)
    answer = httpx.request(method, guarded + path, headers={"Authorization": f"Bearer {key}"})
    if allowed:
        assert answer.status_code not in (401, 403)
    else:
        assert answer.status_code == 403
        assert f"key {key_id} has: {scope}" in answer.json()["detail"]


def test_every_operation_that_changes_something_needs_more_than_read(guarded: str) -> None:
    for path, operations in get(guarded, "/api/v1/openapi.json").json()["paths"].items():
        for method in operations:
            scope = needed(method.upper(), path)
            if scope is None:
                assert method == "get"
            elif method != "get" and not path.endswith("/estimate"):
                assert scope is not Scope.READ, (method, path)


def test_an_expired_and_a_revoked_key_are_refused_with_the_reason(guarded: str, database: Database) -> None:
    expired, key_id = make_key(database, days=0)
    assert f"key {key_id} expired at" in get(guarded, key=expired).json()["detail"]
    key, key_id = make_key(database)
    assert get(guarded, key=key).status_code == 200
    with database.session() as session:
        assert rows.revoke(session, key_id)
    deadline = time.monotonic() + 30
    while get(guarded, key=key).status_code == 200 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert f"key {key_id} was revoked" in get(guarded, key=key).json()["detail"]


def test_requests_over_a_keys_rate_are_a_429_that_says_when(guarded: str, database: Database) -> None:
    key, key_id = make_key(database, requests_per_minute=5)
    answers = [get(guarded, key=key) for _ in range(8)]
    assert [answer.status_code for answer in answers[:5]] == [200] * 5
    refused = answers[-1]
    assert refused.status_code == 429
    assert f"key {key_id} sent more requests than it may" in refused.json()["detail"]
    assert 1 <= int(refused.headers["retry-after"]) <= 12
    other, _ = make_key(database)
    assert get(guarded, key=other).status_code == 200


def test_active_jobs_over_a_keys_quota_are_a_429(tmp_path: Path) -> None:
    with serving(small_settings(tmp_path, host=EVERYWHERE, job_workers=0)) as address:
        url = address.replace(EVERYWHERE, "127.0.0.1")
        database = Database(f"sqlite:///{tmp_path / 'service.sqlite'}")
        admin, _ = make_key(database, Scope.ADMIN)
        capped, capped_id = make_key(database, Scope.READ, Scope.REQUEST, max_active_jobs=2)
        free, _ = make_key(database, Scope.READ, Scope.REQUEST)
        database.close()
        with Client(url, key=admin) as client:
            client.register_run(make_run(tmp_path / "run"), "noise")
        with Client(url, key=capped, busy_s=0) as client, Client(url, key=free) as other:
            first = client.ask("noise", "macs<=3M")
            client.ask("noise", "macs<=4M")
            with pytest.raises(ServiceError, match=f"2 jobs of key {capped_id} wait or run") as error:
                client.ask("noise", "macs<=5M")
            assert error.value.status == 429
            assert client.ask("noise", "macs<=3M")["id"] == first["id"]  # it waits already
            other.ask("noise", "macs<=5M")
            client.cancel(first["id"])
            client.ask("noise", "macs<=6M")


FOREIGN = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"}


def test_a_get_starts_a_job_only_for_who_may_and_not_for_a_page_of_another_site(data_copy: Path) -> None:
    settings = small_settings(data_copy, host=EVERYWHERE, job_workers=0)
    with serving(settings) as address:
        url = address.replace(EVERYWHERE, "127.0.0.1")
        database = Database(settings.resolved_database_url)
        admin, _ = make_key(database, Scope.ADMIN)
        reader, reader_id = make_key(database, Scope.READ)
        both, _ = make_key(database, Scope.READ, Scope.REQUEST)
        artifacts = open_artifacts(settings.resolved_artifact_url)
        subnet = stored_subnet((database, artifacts), "made", days_old=0).id
        front = f"{url}/api/v1/pareto-fronts?supernet=noise&metric=macs"
        export = f"{url}/api/v1/subnets/{subnet}/download?format=pt2"

        def ask(address: str, key: str, method: str = "GET", **headers: str) -> httpx.Response:
            sent = {"Authorization": f"Bearer {key}", "Prefer": "wait=0", **headers}
            return httpx.request(method, address, headers=sent, timeout=60)

        for asked in (front, export):
            refused = ask(asked, reader)
            assert refused.status_code == 403
            assert f"needs the scope request; key {reader_id} has: read" in refused.json()["detail"]
            for site in ("cross-site", "same-site"):
                foreign = ask(asked, both, **FOREIGN | {"Sec-Fetch-Site": site})
                assert foreign.status_code == 403
                assert "a page of another site" in foreign.json()["detail"]
        assert ask(export, both, "HEAD").status_code == 404
        with Client(url, key=admin) as client:
            assert {job["state"] for job in client.list_jobs()} == {"succeeded"}  # those of the stored subnet
        for asked in (front, export):
            assert ask(asked, both, **{"Sec-Fetch-Site": "same-origin"}).status_code == 202
            assert ask(asked, reader).status_code == 202  # it is under way: no new job
        database.close()


def test_on_loopback_a_page_of_another_site_starts_no_job(data_copy: Path) -> None:
    with serving(small_settings(data_copy, job_workers=0)) as url:
        front = f"{url}/api/v1/pareto-fronts?supernet=noise&metric=macs"
        assert httpx.get(front, headers=FOREIGN).status_code == 403
        assert httpx.get(f"{url}/api/v1/jobs").json()["items"] == []
        assert httpx.get(front).status_code == 202


def test_a_key_cancels_its_own_jobs_and_admin_all(data_copy: Path) -> None:
    with serving(small_settings(data_copy, host=EVERYWHERE, job_workers=0)) as address:
        url = address.replace(EVERYWHERE, "127.0.0.1")
        database = Database(f"sqlite:///{data_copy / 'service.sqlite'}")
        admin, _ = make_key(database, Scope.ADMIN)
        mine, _ = make_key(database, Scope.READ, Scope.REQUEST)
        other, other_id = make_key(database, Scope.READ, Scope.REQUEST)
        database.close()
        with Client(url, key=mine) as client, Client(url, key=other) as stranger, Client(url, key=admin) as operator:
            first, second = (client.ask("noise", f"macs<={limit}M")["id"] for limit in (3, 4))
            assert stranger.ask("noise", "macs<=3M")["id"] == first  # the same job, and still not his
            with pytest.raises(ServiceError, match=f"was not started with key {other_id}") as error:
                stranger.cancel(first)
            assert error.value.status == 403
            page = httpx.post(f"{url}/jobs/{first}/cancel", auth=("", other))
            assert page.status_code == 403
            assert client.job(first)["state"] == "queued"
            assert client.cancel(first)["state"] == "cancelled"
            assert operator.cancel(second)["state"] == "cancelled"


def test_on_loopback_a_key_is_optional_but_counts_when_it_is_sent(url: str) -> None:
    assert get(url).status_code == 200
    other, _ = new_key("nobody", [Scope.ADMIN])
    assert get(url, key=other).status_code == 401


@pytest.mark.parametrize(
    ("host", "public", "required"),
    [
        ("127.0.0.1", False, False),
        ("::1", False, False),
        ("localhost", False, False),
        ("0.0.0.0", False, True),
        ("::", False, True),
        ("192.168.0.1", False, True),
        ("example.org", False, True),
        ("0.0.0.0", True, False),
    ],
)
def test_keys_are_required_where_other_machines_reach_the_service_unless_a_proxy_guards_it(
    tmp_path: Path, host: str, public: bool, required: bool
) -> None:
    assert small_settings(tmp_path, host=host, public=public).keys_required is required


@pytest.mark.parametrize(
    ("settings", "served", "refused"),
    [
        ({}, ["localhost", "127.0.0.1", "[::1]:80"], ["evil.example", "127.0.0.1.evil.example", ""]),
        ({"host": EVERYWHERE, "public": True}, ["localhost", "127.0.0.1:8000"], ["evil.example:8000", "10.0.0.1"]),
        ({"public": True, "allowed_hosts": "Cut.example.org, 10.0.0.1"}, ["cut.example.org:80", "10.0.0.1"], ["evil"]),
        ({"host": EVERYWHERE, "allowed_hosts": ("cut.example.org",)}, ["cut.example.org"], ["evil"]),
        ({"host": EVERYWHERE}, ["anything.example"], []),
        ({"public": True, "allowed_hosts": "*"}, ["anything.example"], []),
    ],
)
def test_where_no_key_is_asked_for_a_name_that_a_stranger_made_resolve_here_is_refused(
    tmp_path: Path, settings: dict[str, Any], served: list[str], refused: list[str]
) -> None:
    async def nothing(scope: Any, _receive: Any, send: Any) -> None:
        await Response(status_code=204)(scope, _receive, send)

    made = small_settings(tmp_path, **settings)
    guards = Guards(nothing, settings=made, body_limit=lambda _path: 10, hosts=made.hosts)
    http = TestClient(guards)
    for host in (*served, *refused):
        headers = {"Host": host, "Origin": f"http://{host}"}  # what a page of that name sends
        answer = http.post("/api/v1/devices", headers=headers)
        assert answer.status_code == (204 if host in served else 421), host
        assert http.get("/healthz", headers=headers).status_code == 204


def test_a_host_with_a_port_is_not_a_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'a\.example:80' is no name; allowed: names without ports"):
        small_settings(tmp_path, allowed_hosts="a.example:80")


def test_secrets_are_random_and_only_their_digests_are_stored(database: Database) -> None:
    made = [make_key(database)[0] for _ in range(20)]
    assert len({keys.parse(text) for text in made}) == 20
    with database.session() as session:
        stored = rows.every(session)
    assert all(keys.parse(text)[1] not in repr(stored) for text in made)  # type: ignore[index]
    first = keys.parse(made[0])
    assert first is not None
    found = next(key for key in stored if key.id == first[0])
    assert keys.matches(found, first[1])
    assert not keys.matches(found, first[1][::-1])
    assert "secret" not in repr(sorted(found.scopes))


def test_a_key_expires_when_its_days_are_over() -> None:
    _, key = new_key("x", [Scope.READ], days=1)
    assert key.ended(datetime.now(UTC).isoformat()) is None
    assert "expired" in (key.ended((datetime.now(UTC) + timedelta(days=1, seconds=1)).isoformat()) or "")


def test_the_command_makes_lists_and_revokes_keys(tmp_path: Path, guarded: str, folder: Path) -> None:
    runner = CliRunner()
    where = ["--data-dir", str(folder)]
    made = runner.invoke(app, ["keys", "create", "ci", "--scope", "read", "--days", "3", *where])
    assert made.exit_code == 0
    key = made.stdout.strip()
    assert get(guarded, key=key).status_code == 200
    listed = json.loads(runner.invoke(app, ["keys", "list", "--json", *where]).stdout)
    mine = next(entry for entry in listed if entry["name"] == "ci")
    assert mine["scopes"] == ["read"]
    assert "secret_sha256" not in mine
    assert key.startswith(f"ofa_{mine['id']}_")
    assert runner.invoke(app, ["keys", "revoke", mine["id"], *where]).exit_code == 0
    table = runner.invoke(app, ["keys", "list", *where]).stdout
    assert "revoked" in table
    nobody = runner.invoke(app, ["keys", "revoke", "nobody", *where])
    assert "no key 'nobody'; see those that exist with: onceforall keys list" in str(nobody.exception)
    fresh = runner.invoke(app, ["keys", "create", "first", "--json", "--data-dir", str(tmp_path / "new")])
    assert json.loads(fresh.stdout)["scopes"] == ["read", "request"]


def test_the_client_takes_its_key_from_the_environment(
    guarded: str, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, _ = make_key(database)
    with Client(guarded) as client, pytest.raises(ServiceError, match="a key is needed here") as error:
        list(client.list_devices())
    assert error.value.status == 401
    monkeypatch.setenv("ONCEFORALL_KEY", key)
    with Client(guarded) as client:
        assert list(client.list_devices()) == []
    with Client(guarded, key="x") as client, pytest.raises(ServiceError, match="holds no key of the form"):
        list(client.list_devices())
