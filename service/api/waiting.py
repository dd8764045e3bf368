"""`Prefer: wait=10` (RFC 7240): an answer that waits for a job, as long as the client likes and the service lets it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable

from fastapi import Request
from fastapi.concurrency import run_in_threadpool

from service.answers import state_of
from service.context import Context

_FIRST_S, _LAST_S, _GROWTH = 0.02, 0.25, 1.3
HEADER = "Prefer"


def wished(request: Request, context: Context) -> float | None:
    """Seconds that a client would wait, at most as many as the service lets it; None where it does not say."""
    for header in request.headers.getlist(HEADER):
        for preference in header.split(","):
            match = re.fullmatch(r"\s*wait\s*=\s*\"?(\d{1,9})\"?\s*(;.*)?", preference, re.IGNORECASE)
            if match is not None:
                return min(float(match[1]), context.settings.max_wait_s)
    return None


async def wait_for(request: Request, context: Context, ended: Callable[[], bool], seconds: float) -> bool:
    """Ask `ended` in a thread, again and again, until it is true or the time is up.

    Returns:
        Whether this was done; False where as many requests wait already as may. They share their number with the event
        streams, which hold a connection as long.
    """
    state = request.app.state
    if state.event_streams >= context.settings.max_event_streams:
        return False
    clock = asyncio.get_running_loop().time
    deadline, pause = clock() + seconds, _FIRST_S
    state.event_streams += 1
    try:
        while not await run_in_threadpool(ended):
            left = deadline - clock()
            if left <= 0 or await request.is_disconnected():
                break
            await asyncio.sleep(min(pause, left))
            pause = min(pause * _GROWTH, _LAST_S)
    finally:
        state.event_streams -= 1
    return True


def until_ended(context: Context, job_id: str) -> Callable[[], bool]:
    """For `wait_for`: whether a job has ended, or is none."""

    def ended() -> bool:
        state = state_of(context, job_id)
        return state is None or state.is_final

    return ended


def applied(seconds: float) -> dict[str, str]:
    """The header that says so."""
    return {"Preference-Applied": f"wait={seconds:g}"}
