"""/subnet-requests: a budget in, a subnet out."""

from __future__ import annotations

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Request, Response

from latency_tables import Budget
from service import exports, requests
from service.answers import Answer
from service.api.answered import answered, job_address
from service.api.dependencies import JSON_BODY, CallerDep, ContextDep, DigestPath
from service.api.idempotency import IdempotentRoute
from service.api.openapi import IDEMPOTENCY_KEY, PREFER, problems
from service.api.rendered import Rendered
from service.api.schemas import SubnetRequestIn, SubnetRequestOut
from service.api.waiting import wished
from service.context import Context
from service.domain import JobState, SubnetRequest
from service.errors import Fault, FaultsError
from service.requests import Wish
from supernet.errors import ConfigError

router = APIRouter(prefix="/subnet-requests", tags=["subnet requests"], route_class=IdempotentRoute)


@router.post(
    "",
    response_model=SubnetRequestOut,
    dependencies=[JSON_BODY],
    responses={
        200: {"description": "everything that was asked for is there"},
        202: {"description": "a job makes it; Location names the job", "model": SubnetRequestOut},
        **problems(400, 409, 413, 415, 422, 429),
    },
    openapi_extra={"parameters": [IDEMPOTENCY_KEY, PREFER]},
)
async def ask(request: Request, context: ContextDep, caller: CallerDep, body: SubnetRequestIn) -> Response:
    """Ask for the best subnet within a budget. Equal requests are one request, one job and one subnet.

    Formats besides safetensors are made by the job too, or by one of their own where the subnet is known. With
    `Prefer: wait=10` the answer waits for the job, up to so many seconds.
    """
    wish = _wish(body)
    threads: Threads = request.app.state.threads
    rendered, waits = request.app.state.rendered, wished(request, context) is not None
    known = await to_thread.run_sync(_known, context, rendered, wish, waits, limiter=threads.known)
    if known is not None:
        return known
    answer = await to_thread.run_sync(requests.ask, context, caller, wish, limiter=threads.new)
    return await answered(request, context, answer, requests.SUBNETS, wish.formats, _render)


@router.get("/{request}", responses=problems(404, 422))
def show(context: ContextDep, request: DigestPath) -> SubnetRequestOut:
    """The exact spec with every name resolved, the job, and the subnet once it is there."""
    answer = requests.SUBNETS.show(context, request)
    return SubnetRequestOut.of(answer.request, answer.job, answer.subnet)


class Threads:
    """How many threads of one application look up known requests, and do what new ones need.

    Of 40 at once most would wait for each other, and for the few connections to the database, until their time is up.

    Attributes:
        known: a look-up takes a millisecond.
        new: a check of the budget takes some 30.
        opening: a network to prune is opened in a process of its own, which takes seconds and 500 MB.
    """

    def __init__(self, known: int = 4, new: int = 4, opening: int = 1) -> None:
        self.known = CapacityLimiter(known)
        self.new = CapacityLimiter(new)
        self.opening = CapacityLimiter(opening)


def _wish(body: SubnetRequestIn) -> Wish:
    try:
        budget = Budget.from_dict([constraint.model_dump() for constraint in body.constraints])
    except ConfigError as error:
        raise FaultsError([Fault("body.constraints", str(error))]) from None
    return Wish(body.supernet, budget, body.seed, tuple(body.formats))


def _known(context: Context, rendered: Rendered, wish: Wish, waits: bool) -> Response | None:
    """The answer to a request whose subnet is there or under way; None where more is to be done than to tell it.

    Args:
        context: of the service.
        rendered: the answers that were given last.
        wish: what is asked for.
        waits: whether the client would wait for a job.
    """
    found = requests.identify(context, wish)
    if found is None:
        return None
    request_id, state = found
    if state.files is not None:
        status, headers = 200, None
        if any(f'"{format}":' not in state.files for format in wish.formats):
            return None
    else:
        status, headers = 202, {"Location": job_address(request_id)}
        ended = state.job is None or JobState(state.job[0]).is_final  # to be started anew
        if ended or waits or exports.MADE_ON_DEMAND.keys() & set(wish.formats):
            return None
    key = "request", request_id
    content = rendered.get(key, state)
    if content is None:
        answer = requests.SUBNETS.show(context, request_id)
        if answer.complete != (status == 200) or (status == 202 and answer.ended):
            return None  # it ended in between
        content = _render(answer)
        rendered.put(key, state, content)
    return Response(content, status, headers, media_type="application/json")


def _render(answer: Answer[SubnetRequest]) -> bytes:
    return SubnetRequestOut.of(answer.request, answer.job, answer.subnet).model_dump_json().encode()
