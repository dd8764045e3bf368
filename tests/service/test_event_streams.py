"""Event streams: from any API process, and no more at a time than may be open."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from processes import service_process
from sse_starlette import ServerSentEvent
from starlette.datastructures import State

from service.api.jobs import _Stream
from service.client import Client
from service.storage import jobs
from service.storage.database import Database
from service.storage.jobs import Run


def test_a_job_that_one_process_took_in_is_followed_at_another(
    tmp_path: Path, postgres_url: str, run_folder: Path
) -> None:
    shared = {"database_url": postgres_url, "artifact_url": (tmp_path / "store").as_uri(), "job_workers": 0}
    with ExitStack() as stack:
        processes = [stack.enter_context(service_process(tmp_path / str(number), **shared)) for number in range(2)]
        first, second = (stack.enter_context(Client(process.url)) for process in processes)
        first.register_run(run_folder, "noise")
        job_id = first.ask("noise", "macs<=3M")["id"]
        database = Database(postgres_url)
        stack.callback(database.close)
        with database.session() as session:
            (submission,) = [number for one, number in jobs.waiting(session, 10) if one == job_id]
        run = Run(job_id, submission, "a host that is none of these processes")
        events = second.follow(job_id)
        assert next(events)["state"] == "queued"
        with database.session() as session:
            assert jobs.claim(session, run, most_attempts=3, reason="") is not None
        assert next(events)["state"] == "running"
        with database.session() as session:
            assert jobs.report(session, run, "searching", 0.25)
        told = next(events)
        assert (told["stage"], told["fraction"]) == ("searching", 0.25)
        with database.session() as session:
            assert jobs.succeed(session, run, {"subnet": "x"})
        last = list(events)
        assert [job["state"] for job in last] == ["succeeded"]
        assert last[0]["result"] == {"subnet": "x"}


def test_streams_that_are_asked_for_at_the_same_time_are_counted_before_they_begin() -> None:
    state = State()
    state.event_streams = 0
    ended = asyncio.Event()

    async def events() -> AsyncIterator[ServerSentEvent]:
        yield ServerSentEvent("{}", event="progress")
        await ended.wait()

    async def receive() -> dict[str, Any]:
        await ended.wait()
        return {"type": "http.disconnect"}

    async def open_all() -> list[list[dict[str, Any]]]:
        streams = [_Stream(events(), state=state, most=2) for _ in range(5)]  # all were looked up before one begins
        sent: list[list[dict[str, Any]]] = [[] for _ in streams]

        def sender(number: int) -> Any:
            async def send(message: dict[str, Any]) -> None:
                sent[number].append(message)

            return send

        scope = {"type": "http", "method": "GET", "path": "/api/v1/jobs/x/events", "headers": []}
        tasks = [asyncio.create_task(stream(scope, receive, sender(i))) for i, stream in enumerate(streams)]
        await asyncio.sleep(0.2)
        assert state.event_streams == 2
        ended.set()
        await asyncio.gather(*tasks)
        return sent

    sent = asyncio.run(open_all())
    assert [messages[0]["status"] for messages in sent] == [200, 200, 429, 429, 429]
    refusal = json.loads(sent[2][1]["body"])
    assert refusal["detail"] == ("2 event streams are open, no more are allowed; close one, or ask /api/v1/jobs/x")
    assert state.event_streams == 0
