"""The answer to a request that becomes one stored network: 200 with it, or 202 with the job that makes it."""

from __future__ import annotations

from collections.abc import Callable, Collection

from fastapi import Request as HttpRequest
from fastapi import Response
from fastapi.concurrency import run_in_threadpool

from service.answers import Answer, Kind, Request
from service.api import API
from service.api.waiting import applied, until_ended, wait_for, wished
from service.context import Context


async def answered(
    request: HttpRequest,
    context: Context,
    answer: Answer[Request],
    kind: Kind[Request],
    formats: Collection[str],
    render: Callable[[Answer[Request]], bytes],
) -> Response:
    """Wait as long as the client likes, then say what is known.

    Args:
        request: of the client.
        context: of the service.
        answer: what is known now.
        kind: of what was asked for.
        formats: that are wanted.
        render: writes an answer as JSON.
    """
    headers = {}
    seconds = wished(request, context)
    if (
        not answer.complete
        and seconds is not None
        and await wait_for(request, context, until_ended(context, answer.job_id), seconds)
    ):
        headers = applied(seconds)
        answer = await run_in_threadpool(kind.again, context, answer, formats)
    if answer.complete:
        return Response(render(answer), 200, headers, media_type="application/json")
    headers["Location"] = job_address(answer.job_id)
    return Response(render(answer), 202, headers, media_type="application/json")


def job_address(job_id: str) -> str:
    """Where a job is seen."""
    return f"{API}/jobs/{job_id}"
