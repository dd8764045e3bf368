"""What the client makes of answers that a sound service gives seldom or never."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from service import client as module
from service.client import Client, ServiceError
from service.runs import PARTS

JOB = {"id": "j" * 64, "stage": "done", "fraction": 1.0, "error": None}
EVENTS = (
    "data: " + '{"id": "' + "j" * 64 + '", "state": "succeeded", "stage": "done", "fraction": 1.0, "error": null}\n\n'
)


def client_of(answer: Callable[[httpx.Request], httpx.Response], **options: float) -> Client:
    client = Client("http://service", **options)
    client._http = httpx.Client(base_url="http://service", transport=httpx.MockTransport(answer))
    return client


def pending(state: str, **headers: str) -> httpx.Response:
    return httpx.Response(202, json={"points": None, "job": JOB | {"state": state}}, headers=headers)


def test_a_front_is_asked_for_again_as_late_as_the_service_says(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [
        pending("queued", **{"Retry-After": "3"}),
        pending("running"),
        httpx.Response(200, json={"points": []}),
    ]
    slept: list[float] = []
    monkeypatch.setattr(module.time, "sleep", slept.append)
    with client_of(lambda _request: answers.pop(0)) as client:
        assert client.front("noise") == {"points": []}
    assert slept == [3.0, 1.0]


def test_a_front_that_is_not_there_after_its_job_is_an_error_and_no_wait_for_ever() -> None:
    with client_of(lambda _request: pending("succeeded")) as client:
        begin = time.monotonic()
        with pytest.raises(ServiceError, match="job jjjjjjjjjjjj succeeded, and its front is not there; ask again"):
            client.front("noise", wait_s=3600)
    assert time.monotonic() - begin < 10


@pytest.mark.parametrize(
    ("subnet", "lacking"), [(None, "the network"), ({"files": [{"format": "safetensors"}, {"format": "onnx"}]}, "pt2")]
)
def test_what_is_not_there_after_its_jobs_is_an_error_that_names_it(
    subnet: dict[str, Any] | None, lacking: str
) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/events"):
            return httpx.Response(200, text=EVENTS)
        return httpx.Response(200, json={"id": "r" * 64, "job": JOB, "subnet": subnet})

    with (
        client_of(answer) as client,
        pytest.raises(ServiceError, match=f"request rrrrrrrrrrrr succeeded without {lacking}, which"),
    ):
        client.request_subnet("noise", "macs<=3M", formats=["onnx", "pt2"])


def busy(retry_after: str) -> httpx.Response:
    return httpx.Response(429, json={"detail": "busy; later"}, headers={"Retry-After": retry_after})


def test_what_a_busy_service_refuses_is_sent_again_whole_until_the_patience_ends(
    monkeypatch: pytest.MonkeyPatch, run_folder: Path
) -> None:
    now = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr(module.time, "sleep", sleep)
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    sizes: list[int] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sizes.append(len(request.read()))
        return busy("5") if len(sizes) < 3 else httpx.Response(201, json={"id": "s"})

    with client_of(answer) as client:
        assert client.register_run(run_folder, "noise") == {"id": "s"}
    assert now == 10
    assert len(sizes) == 3
    assert min(sizes) == max(sizes) > sum((run_folder / name).stat().st_size for name in PARTS.values())

    with client_of(lambda _request: busy("25")) as client, pytest.raises(ServiceError, match="busy; later") as error:
        client.ask("noise", "macs<=3M")
    assert error.value.status == 429
    assert now == 10 + 50  # a third pause would end after 60 s

    now = 0.0
    with client_of(lambda _request: busy("1"), busy_s=0) as client, pytest.raises(ServiceError):
        client.ask("noise", "macs<=3M")
    assert now == 0

    with client_of(lambda _request: busy("1")) as client, pytest.raises(ServiceError):
        client.front("noise", wait_s=5)
    assert now == 5


def test_uploads_that_are_sent_again_and_events_that_are_asked_for_again_come_whole(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    slept: list[float] = []
    monkeypatch.setattr(module.time, "sleep", slept.append)
    content = bytes(range(256)) * 1000
    (tmp_path / "w.safetensors").write_bytes(content)
    sent: list[bytes] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(request.read())
        return busy("2") if len(sent) < 3 else httpx.Response(201, json={"sha256": "w"})

    with client_of(answer) as client:
        assert client.upload_weights(tmp_path / "w.safetensors") == "w"
    assert sent == [content] * 3
    assert slept == [2.0, 2.0]

    answers = [busy("3"), httpx.Response(200, text=EVENTS)]
    with client_of(lambda _request: answers.pop(0)) as client:
        assert [job["state"] for job in client.follow("j" * 64)] == ["succeeded"]
    assert slept[2:] == [3.0]
