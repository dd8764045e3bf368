"""/pruning-runs: a network in, a smaller one out."""

from __future__ import annotations

from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Query, Request, Response

from latency_tables import Budget
from service import pruning_runs
from service.answers import Answer
from service.api.answered import answered
from service.api.dependencies import JSON_BODY, CallerDep, ContextDep, DigestPath
from service.api.idempotency import IdempotentRoute
from service.api.openapi import IDEMPOTENCY_KEY, PREFER, problems
from service.api.pruning_schemas import (
    ArchitectureIn,
    PruningRunBriefOut,
    PruningRunIn,
    PruningRunOut,
    PruningRunQuery,
    SourceIn,
    StoredSubnetIn,
)
from service.api.schemas import PageOut
from service.api.subnet_requests import Threads
from service.errors import Fault, FaultsError
from service.pruning_runs import Wish
from service.pruning_spec import Architecture, PruningRun, Source, StoredSubnet, SupernetConfig
from service.storage import jobs
from service.storage import pruning_runs as rows
from supernet.errors import ConfigError

router = APIRouter(prefix="/pruning-runs", tags=["pruning runs"], route_class=IdempotentRoute)


@router.post(
    "",
    response_model=PruningRunOut,
    dependencies=[JSON_BODY],
    responses={
        200: {"description": "the pruned network is there, in all formats that were asked for"},
        202: {"description": "a job makes it; Location names the job", "model": PruningRunOut},
        **problems(400, 409, 413, 415, 422, 429),
    },
    openapi_extra={"parameters": [IDEMPOTENCY_KEY, PREFER]},
)
async def ask(request: Request, context: ContextDep, caller: CallerDep, body: PruningRunIn) -> Response:
    """Prune a network by Only Train Once or AutoCompress. Equal runs are one run, one job and one network.

    The network is opened and the target held against what can go of it before the run is taken, which takes some
    seconds; a target out of reach is 409. The pruned network is listed among the subnets.
    """
    wish = _wish(body)
    threads: Threads = request.app.state.threads
    answer = await to_thread.run_sync(pruning_runs.known, context, wish, limiter=threads.known)
    if answer is None:
        answer = await to_thread.run_sync(pruning_runs.ask, context, caller, wish, limiter=threads.opening)
    return await answered(request, context, answer, pruning_runs.RUNS, wish.formats, _render)


@router.get("", responses=problems(422))
def browse(context: ContextDep, query: Annotated[PruningRunQuery, Query()]) -> PageOut[PruningRunBriefOut]:
    """Runs, newest first."""
    with context.database.session() as session:
        page = rows.page(session, query.limit, query.cursor, method=query.method, source=query.source)
        items = [PruningRunBriefOut.of(run, jobs.get(session, run.id)) for run in page.items]
    return PageOut(items=items, next_cursor=page.next_cursor)


@router.get("/{run}", responses=problems(404, 422))
def show(context: ContextDep, run: DigestPath) -> PruningRunOut:
    """The exact spec with every name resolved, the job, and the pruned network once it is there."""
    answer = pruning_runs.RUNS.show(context, run)
    return PruningRunOut.of_answer(answer.request, answer.job, answer.subnet)


def _wish(body: PruningRunIn) -> Wish:
    try:
        budget = Budget.from_dict([limit.model_dump() for limit in body.constraints]) if body.constraints else None
    except ConfigError as error:
        raise FaultsError([Fault("body.constraints", str(error))]) from None
    return Wish(
        method=body.method,
        source=_source(body.source),
        data=body.data,
        sparsity=body.sparsity,
        budget=budget,
        latencies=None if body.latencies is None else body.latencies.model_dump(),
        epochs=body.epochs,
        batch_size=body.batch_size,
        learning_rate=body.learning_rate,
        seed=body.seed,
        options={} if body.auto_compress is None else body.auto_compress.model_dump(exclude_none=True),
        formats=tuple(body.formats),
    )


def _source(body: SourceIn) -> Source:
    if isinstance(body, StoredSubnetIn):
        return StoredSubnet(**body.model_dump())
    if isinstance(body, ArchitectureIn):
        return Architecture(**body.model_dump())
    return SupernetConfig(**body.model_dump())


def _render(answer: Answer[PruningRun]) -> bytes:
    return PruningRunOut.of_answer(answer.request, answer.job, answer.subnet).model_dump_json().encode()
