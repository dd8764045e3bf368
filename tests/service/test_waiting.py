from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from small_service import serving, small_settings

from service.answers import Kind
from service.client import Client, ServiceError
from service.context import Context
from service.runs import PARTS
from service.storage import jobs, subnets
from service.storage.database import Database
from service.storage.models import JobRow


def post(url: str, most: float, **headers: str) -> httpx.Response:
    body = {"supernet": "noise", "constraints": [{"metric": "macs", "max": most}]}
    return httpx.post(f"{url}/api/v1/subnet-requests", json=body, headers=headers, timeout=120)


def test_a_client_that_waits_gets_the_subnet_in_one_answer(url: str) -> None:
    answer = post(url, 2_111_111, Prefer="respond-async, wait=30")
    assert answer.status_code == 200
    assert answer.headers["preference-applied"] == "wait=30"
    assert answer.json()["subnet"]["measured"]["macs"] <= 2_111_111
    assert answer.json()["job"]["state"] == "succeeded"
    known = post(url, 2_111_111, Prefer="wait=30")
    assert known.status_code == 200
    assert known.json() == answer.json()


def test_other_preferences_are_ignored(url: str, client: Client) -> None:
    for most, wish in ((2_222_221, "wait=x"), (2_222_222, "return=minimal"), (2_222_223, "wait=-1"), (2_222_224, "")):
        answer = post(url, most, Prefer=wish)
        assert answer.status_code == 202, wish
        assert "preference-applied" not in answer.headers
        client.cancel(answer.json()["id"])


def test_the_answer_is_202_when_the_time_is_up_and_tells_of_a_job_that_was_cancelled(data_copy: Path) -> None:
    # no job host of its own: a job waits until somebody cancels it
    settings = small_settings(data_copy, job_workers=0, max_wait_s=1, max_event_streams=3)
    with serving(settings) as url, ThreadPoolExecutor(4) as pool:
        begin = time.monotonic()
        answer = post(url, 3e6, Prefer="wait=600")  # more than the service waits
        assert answer.status_code == 202
        assert answer.headers["preference-applied"] == "wait=1"
        assert answer.headers["location"] == f"/api/v1/jobs/{answer.json()['id']}"
        assert 1 <= time.monotonic() - begin < 20
        zero = post(url, 3e6, Prefer="wait=0")
        assert (zero.status_code, zero.headers["preference-applied"]) == (202, "wait=0")
    with serving(small_settings(data_copy, job_workers=0, max_event_streams=1)) as url, ThreadPoolExecutor(4) as pool:
        first = pool.submit(post, url, 4e6, Prefer="wait=30")
        with Client(url) as client:
            while not (jobs := [job for job in client.list_jobs(state="queued") if job["id"] != answer.json()["id"]]):
                time.sleep(0.05)
            time.sleep(0.3)
            at_once = post(url, 5e6, Prefer="wait=30")  # as many wait as may
            assert at_once.status_code == 202
            assert "preference-applied" not in at_once.headers
            client.cancel(jobs[0]["id"])
        ended = first.result()
        assert (ended.status_code, ended.json()["job"]["state"]) == (202, "cancelled")


def test_who_asks_again_is_told_how_far_the_job_is_at_that_time(data_copy: Path) -> None:
    settings = small_settings(data_copy, job_workers=0)
    with serving(settings) as url:
        job_id = post(url, 3e6).json()["id"]
        queued = post(url, 3e6)
        assert (queued.status_code, queued.json()["job"]["state"]) == (202, "queued")
        assert queued.headers["location"] == f"/api/v1/jobs/{job_id}"
        database = Database(settings.resolved_database_url)
        with database.session() as session:
            job = session.get(JobRow, job_id)
            assert job is not None
            run = jobs.Run(job_id, job.submission, "host")
            assert jobs.claim(session, run, most_attempts=3, reason="") is not None
        for fraction in (0.25, 0.5):
            with database.session() as session:
                assert jobs.report(session, run, "search", fraction)
            for _ in range(2):
                again = post(url, 3e6)
                assert again.status_code == 202
                told = again.json()["job"]
                assert (told["state"], told["stage"], told["fraction"]) == ("running", "search", fraction)
        with database.session() as session:
            assert jobs.fail(session, run, {"kind": "broken", "message": "for the test"})
        anew = post(url, 3e6)  # a failed job is started anew
        assert (anew.status_code, anew.json()["job"]["state"], anew.json()["id"]) == (202, "queued", job_id)
        database.close()


def test_a_job_that_is_cancelled_while_its_answer_is_written_is_started_anew(
    data_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = small_settings(data_copy, job_workers=0)
    with serving(settings) as url, Client(url) as client:
        job_id = post(url, 3e6).json()["id"]
        show = Kind.show

        def cancelled_before(kind: Kind[Any], context: Context, request: str) -> Any:
            client.cancel(job_id)
            return show(kind, context, request)

        monkeypatch.setattr(Kind, "show", cancelled_before)
        answer = post(url, 3e6)
        assert (answer.status_code, answer.json()["job"]["state"]) == (202, "queued")


def test_formats_that_are_asked_for_while_a_job_waits_are_made_by_it(data_copy: Path) -> None:
    settings = small_settings(data_copy, job_workers=0)
    with serving(settings) as url, Client(url) as client:
        job_id = client.ask("noise", "macs<=3M", formats=["onnx"])["job"]["id"]
        assert client.ask("noise", "macs<=3M", formats=["pt2"])["job"]["id"] == job_id
        assert client.ask("noise", "macs<=3M")["job"]["id"] == job_id
        database = Database(settings.resolved_database_url)
        with database.session() as session:
            assert subnets.formats_wanted(session, job_id) == ("onnx", "pt2")
        database.close()


def test_an_idempotency_key_is_for_one_request(client: Client, url: str) -> None:
    first = client.ask("noise", "macs<=2.3M", idempotency_key="order-1")
    assert client.ask("noise", "macs<=2.3M", idempotency_key="order-1")["id"] == first["id"]
    with pytest.raises(ServiceError, match="'order-1' was used for another request within the last day") as error:
        client.ask("noise", "macs<=2.4M", idempotency_key="order-1")
    assert error.value.status == 422
    assert error.value.problem["faults"][0]["where"] == "header.Idempotency-Key"
    body, headers = {"name": "order-2"}, {"Idempotency-Key": "order-2"}
    for status in (201, 200):
        assert httpx.post(f"{url}/api/v1/devices", json=body, headers=headers).status_code == status
    elsewhere = httpx.post(f"{url}/api/v1/devices", json={"name": "order-3"}, headers={"Idempotency-Key": "order-1"})
    assert elsewhere.status_code == 422
    for wrong in ("", "a b", "x" * 129):
        answer = httpx.post(f"{url}/api/v1/devices", json=body, headers={"Idempotency-Key": wrong})
        assert (answer.status_code, answer.json()["faults"][0]["where"]) == (422, "header.Idempotency-Key")


def test_a_refused_request_uses_up_no_idempotency_key(url: str, run_folder: Path) -> None:
    headers = {"Idempotency-Key": "mended"}
    for body, status in (({"name": "NOT A NAME"}, 422), ({"name": "mended"}, 201), ({"name": "mended"}, 200)):
        assert httpx.post(f"{url}/api/v1/devices", json=body, headers=headers).status_code == status
    assert httpx.post(f"{url}/api/v1/devices", json={"name": "other"}, headers=headers).status_code == 422
    for name, status in (("NOT A NAME", 422), ("noise", 200), ("noise", 200), ("another", 422)):
        answer = upload(url, run_folder, name, key="run")
        assert answer.status_code == status, answer.text
    assert "'run' was used for another request" in answer.json()["detail"]
    assert upload(url, run_folder, "noise", key="a b").json()["faults"][0]["where"] == "header.Idempotency-Key"


def upload(url: str, run: Path, name: str, *, key: str | None = None) -> httpx.Response:
    with ExitStack() as stack:
        files = {part: stack.enter_context((run / path).open("rb")) for part, path in PARTS.items()}
        headers = {} if key is None else {"Idempotency-Key": key}
        return httpx.post(f"{url}/api/v1/supernets", data={"name": name}, files=files, headers=headers, timeout=120)


def test_an_idempotency_key_holds_when_it_is_used_twice_at_once(url: str) -> None:
    def send(number: int) -> int:
        body = {"name": f"twin-{number % 2}"}
        return httpx.post(f"{url}/api/v1/devices", json=body, headers={"Idempotency-Key": "twins"}).status_code

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(send, range(16)))
    assert found.count(422) == 8
    assert set(found) <= {200, 201, 422}
