"""/subnet-requests: a budget in, a subnet out."""

from __future__ import annotations

from fastapi import APIRouter, Response

from latency_tables import Budget
from service import requests
from service.api import API
from service.api.dependencies import JSON_BODY, ContextDep, DigestPath
from service.api.schemas import SubnetRequestIn, SubnetRequestOut
from service.errors import Fault, FaultsError
from supernet.errors import ConfigError

router = APIRouter(prefix="/subnet-requests", tags=["subnet requests"])


@router.post(
    "",
    dependencies=[JSON_BODY],
    responses={
        200: {"description": "the subnet is there already"},
        202: {"description": "a job makes it; Location names the job", "model": SubnetRequestOut},
        409: {"description": "no subnet meets the budget; names the tightest limit and the nearest subnet"},
        429: {"description": "too many jobs wait already"},
    },
)
def ask(context: ContextDep, body: SubnetRequestIn, response: Response) -> SubnetRequestOut:
    """Ask for the best subnet within a budget. Equal requests are one request, one job and one subnet."""
    try:
        budget = Budget.from_dict([constraint.model_dump() for constraint in body.constraints])
    except ConfigError as error:
        raise FaultsError([Fault("body.constraints", str(error))]) from None
    answer = requests.ask(context, body.supernet, budget, seed=body.seed)
    if answer.subnet is None:
        response.status_code = 202
        response.headers["Location"] = f"{API}/jobs/{answer.request.id}"
    return SubnetRequestOut.of(answer.request, answer.job, answer.subnet)


@router.get("/{request}")
def show(context: ContextDep, request: DigestPath) -> SubnetRequestOut:
    """The exact spec with every name resolved, the job, and the subnet once it is there."""
    answer = requests.get(context, request)
    return SubnetRequestOut.of(answer.request, answer.job, answer.subnet)
