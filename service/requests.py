"""Budgets that somebody asks for: every name resolved, refused at once when impossible, otherwise one job each."""

from __future__ import annotations

from dataclasses import dataclass

from latency_tables import Budget
from search import NoSubnetError
from service import logs
from service.context import Context
from service.domain import Job, SubnetRecord, SubnetRequest, SubnetSpec, SupernetRecord, utc_now
from service.errors import BusyError, Fault, FaultsError, InfeasibleError, NotFoundError
from service.storage import devices, jobs, subnets, supernets

MAKE_SUBNET = "make_subnet"


@dataclass(frozen=True)
class Answer:
    """What is known about a request.

    Attributes:
        request: the request.
        job: its job.
        subnet: the subnet, once it is there.
    """

    request: SubnetRequest
    job: Job | None
    subnet: SubnetRecord | None


def ask(context: Context, supernet: str, budget: Budget, *, seed: int) -> Answer:
    """The subnet for a budget, or the job that makes it.

    Equal requests (the same supernet, budget, versions of the tables and seed) are one request and one job. A job that
    failed or was cancelled is started anew.

    Args:
        context: of the service.
        supernet: its name or id.
        budget: limits that must all hold.
        seed: of the search.

    Raises:
        FaultsError: the supernet or a device is unknown, or a device has no complete table for the supernet's space.
        InfeasibleError: no subnet meets the budget.
        BusyError: too many jobs wait already.
    """
    spec = resolve(context, supernet, budget, seed=seed)
    known = find(context, spec.digest)
    if known is not None and (known.subnet is not None or (known.job is not None and not known.job.state.is_final)):
        return known
    try:
        context.searches.open(spec).check(budget)
    except NoSubnetError as error:
        raise infeasible(error) from error
    with context.database.session() as session:
        active = jobs.count_active(session)
        if active >= context.settings.max_active_jobs:
            raise BusyError(f"{active} jobs wait or run, no more are allowed; send the request again later")
    request = SubnetRequest(spec.digest, spec, None, utc_now())
    with context.database.session(exclusive=True) as session:
        if subnets.get_request(session, request.id) is None:
            subnets.add_request(session, request)
        payload = {"request": request.id, "request_id": logs.request_id()}
        context.engine.submit(session, MAKE_SUBNET, request.id, payload)
    answer = find(context, request.id)
    assert answer is not None
    return answer


def find(context: Context, request_id: str) -> Answer | None:
    """What is known about a request; None when nobody asked for it."""
    with context.database.session() as session:
        request = subnets.get_request(session, request_id)
        if request is None:
            return None
        subnet = None if request.subnet_id is None else subnets.get_subnet(session, request.subnet_id)
        return Answer(request, jobs.get(session, request_id), subnet)


def resolve(context: Context, supernet: str, budget: Budget, *, seed: int) -> SubnetSpec:
    """The spec with ids and digests for names; each device's newest complete table is taken.

    Raises:
        FaultsError: a name is unknown, or a device has no complete table for the supernet's space.
    """
    faults: list[Fault] = []
    chosen: dict[str, str] = {}
    with context.database.session() as session:
        record = supernets.get(session, supernet)
        if record is None:
            raise FaultsError(
                [Fault("body.supernet", f"no supernet {supernet!r}; see /api/v1/supernets for those that exist")]
            )
        for limit in budget.limits:
            if limit.device is None:
                continue
            where = f"body.constraints.{limit.name}"
            if devices.get_device(session, limit.device) is None:
                faults.append(Fault(where, f"no device {limit.device!r}; see /api/v1/devices for those that exist"))
                continue
            found = devices.tables_for(session, limit.device, record.space, record.num_classes)
            complete = [table for table in found if not table.missing]
            if complete:
                chosen[limit.device] = complete[0].id
            else:
                missing = f"its newest one lacks {len(found[0].missing)} rows" if found else "it has none"
                faults.append(Fault(where, _no_table(record, limit.device, missing)))
    if faults:
        raise FaultsError(faults)
    settings = context.settings
    return SubnetSpec(
        supernet=record.id,
        budget=tuple(budget.to_dict()),
        tables=chosen,
        seed=seed,
        population=settings.search_population,
        generations=settings.search_generations,
    )


def get(context: Context, request_id: str) -> Answer:
    """What is known about a request.

    Raises:
        NotFoundError: nobody asked for it.
    """
    answer = find(context, request_id)
    if answer is None:
        raise NotFoundError(f"no subnet request {request_id!r}; POST it to /api/v1/subnet-requests")
    return answer


def infeasible(error: NoSubnetError) -> InfeasibleError:
    """The search's refusal with its figures as plain JSON types."""
    return InfeasibleError(str(error), error.to_dict())


def _no_table(record: SupernetRecord, device: str, missing: str) -> str:
    return (
        f"no complete latency table of {device!r} for space {record.space!r} with {record.num_classes} classes:"
        f" {missing}; measure one with: onceforall profile RUN_FOLDER --device {device} --out FILE, and POST it to"
        f" /api/v1/devices/{device}/latency-tables"
    )
