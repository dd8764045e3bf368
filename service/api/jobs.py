"""/jobs: what is being done, how far it is, how it ended."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any

import anyio
from fastapi import APIRouter, Query, Request
from fastapi.concurrency import run_in_threadpool
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.datastructures import State
from starlette.types import Receive, Scope, Send

from service import callers
from service.api import API
from service.api.dependencies import CallerDep, ContextDep, DigestPath
from service.api.openapi import problems
from service.api.problems import from_error
from service.api.schemas import JobOut, PageOut, PageQuery
from service.context import Context
from service.domain import Job, JobState
from service.errors import BusyError, NotFoundError
from service.storage import jobs

router = APIRouter(prefix="/jobs", tags=["jobs"])

_POLL_S = 0.1
_RETRY_MS = 2000
"""What a stream tells its reader to wait before he asks again, when the service stops."""
_FAREWELL_S = 1.0
_EVENTS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "events `progress` and `end`, each with a job as its data",
        "content": {
            "text/event-stream": {
                "schema": {  # of one event: OpenAPI 3.1 has no word for a stream of them
                    "type": "object",
                    "required": ["event", "data"],
                    "properties": {
                        "event": {"enum": ["progress", "end"]},
                        "data": {"type": "string", "description": "a job as JSON, see JobOut"},
                    },
                },
                "example": {"event": "progress", "data": '{"state": "running", "stage": "searching"}'},
            }
        },
    },
    **problems(404, 422),
}


class JobQuery(PageQuery):
    """Which jobs."""

    state: JobState | None = None


@router.get("", responses=problems(422))
def browse(context: ContextDep, query: Annotated[JobQuery, Query()]) -> PageOut[JobOut]:
    """Jobs, newest first."""
    with context.database.session() as session:
        page = jobs.page(session, query.limit, query.cursor, state=query.state)
    return PageOut(items=[JobOut.of(job) for job in page.items], next_cursor=page.next_cursor)


@router.get("/{job}", responses=problems(404, 422))
def show(context: ContextDep, job: DigestPath) -> JobOut:
    """One job."""
    return JobOut.of(_find(context, job))


@router.post("/{job}/cancel", responses=problems(404, 422))
def cancel(context: ContextDep, caller: CallerDep, job: DigestPath) -> JobOut:
    """End a job; one that has ended stays as it is. A key ends the jobs that it started, one with `admin` all."""
    _find(context, job)
    callers.cancel(context, caller, job)
    return JobOut.of(_find(context, job))


@router.get("/{job}/events", response_class=EventSourceResponse, responses=_EVENTS)
async def events(request: Request, context: ContextDep, job: DigestPath) -> EventSourceResponse:
    """The job as server-sent events: `progress` at every change, `end` with the last one."""
    await run_in_threadpool(_find, context, job)
    state = request.app.state

    async def stream() -> AsyncIterator[ServerSentEvent]:
        last = None
        while True:
            now = await run_in_threadpool(_find, context, job)
            if now != last:
                last = now
                name = "end" if now.state.is_final else "progress"
                yield ServerSentEvent(JobOut.of(now).model_dump_json(), event=name)
            if now.state.is_final:
                return
            if state.stopping():
                yield ServerSentEvent(comment="the service stops; ask again", retry=_RETRY_MS)
                return
            await asyncio.sleep(_POLL_S)

    # The library would cut the stream as soon as the service is told to stop; this leaves time for the last event.
    return _Stream(
        stream(),
        state=state,
        most=context.settings.max_event_streams,
        ping=15,
        shutdown_event=anyio.Event(),
        shutdown_grace_period=_FAREWELL_S,
    )


class _Stream(EventSourceResponse):
    """A stream that takes its place among the open ones when it begins, so that as many as may are open at a time."""

    def __init__(self, events: AsyncIterator[ServerSentEvent], *, state: State, most: int, **options: Any) -> None:
        super().__init__(events, **options)
        self._state = state
        self._most = most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events, or the refusal."""
        state = self._state
        if state.event_streams >= self._most:
            path = scope["path"].removesuffix("/events")
            busy = f"{state.event_streams} event streams are open, no more are allowed; close one, or ask {path}"
            await from_error(BusyError(busy))(scope, receive, send)
            return
        state.event_streams += 1
        try:
            await super().__call__(scope, receive, send)
        finally:
            state.event_streams -= 1


def _find(context: Context, job_id: str) -> Job:
    with context.database.session() as session:
        job = jobs.get(session, job_id)
    if job is None:
        raise NotFoundError(f"no job {job_id!r}; see {API}/jobs for those that exist")
    return job
