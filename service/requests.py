"""Budgets that somebody asks for: every name resolved, refused at once when impossible, otherwise one job each."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from latency_tables import Budget
from search import NoSubnetError
from service import exports
from service.callers import Caller, submit
from service.context import Context
from service.domain import Job, JobState, SubnetRecord, SubnetRequest, SubnetSpec, SupernetRecord, utc_now
from service.errors import Fault, FaultsError, InfeasibleError, NotFoundError
from service.storage import devices, jobs, subnets, supernets
from service.storage.subnets import Known

MAKE_SUBNET = "make_subnet"


@dataclass(frozen=True)
class Answer:
    """What is known about a request.

    Attributes:
        request: the request.
        job: what is under way for it, or what made the subnet.
        subnet: the subnet, once it is there.
        lacking: formats that were asked for and are not there yet.
    """

    request: SubnetRequest
    job: Job | None
    subnet: SubnetRecord | None
    lacking: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether everything that was asked for is there."""
        return self.subnet is not None and not self.lacking


@dataclass(frozen=True)
class Wish:
    """What somebody asks for, in names.

    Attributes:
        supernet: its name or id.
        budget: limits that must all hold.
        seed: of the search.
        formats: of `exports.FORMATS`; they do not decide which subnet it is.
    """

    supernet: str
    budget: Budget
    seed: int = 0
    formats: tuple[str, ...] = ()


def ask(context: Context, caller: Caller, wish: Wish) -> Answer:
    """The subnet for a budget, or the job that makes it.

    Equal requests (the same supernet, budget, versions of the tables and seed) are one request and one job. A job that
    failed or was cancelled is started anew. Formats that the subnet lacks are made by its job if that is submitted now,
    otherwise by one of their own.

    Args:
        context: of the service.
        caller: who asks.
        wish: for what.

    Raises:
        FaultsError: the supernet or a device is unknown, a device has no complete table for the supernet's space, or a
            format cannot be made here.
        InfeasibleError: no subnet meets the budget.
        BusyError: too many jobs wait or run already.
    """
    spec = resolve(context, wish)
    exports.require(wish.formats, "body.formats")
    known = find(context, spec.digest)
    if known is not None and known.subnet is not None:
        return _with_formats(context, caller, known, wish.formats)
    if known is not None and known.job is not None and not known.job.state.is_final:
        _want(context, known.request.id, wish.formats)  # the job makes those that are wanted when it comes to them
        return known
    try:
        context.searches.open(spec).check(wish.budget)
    except NoSubnetError as error:
        raise infeasible(error) from error
    request = SubnetRequest(spec.digest, spec, None, utc_now())
    with context.database.session(exclusive=True) as session:
        if subnets.get_request(session, request.id) is None:
            subnets.add_request(session, request)
            session.flush()
        subnets.want_formats(session, request.id, exports.MADE_ON_DEMAND.keys() & set(wish.formats))
        submit(context, session, caller, MAKE_SUBNET, request.id, {"request": request.id})
    answer = find(context, request.id)
    assert answer is not None
    return answer


def find(context: Context, request_id: str, formats: Collection[str] = ()) -> Answer | None:
    """What is known about a request; None when nobody asked for it.

    Args:
        context: of the service.
        request_id: the request.
        formats: those that are wanted.
    """
    with context.database.session() as session:
        request = subnets.get_request(session, request_id)
        if request is None:
            return None
        subnet = None if request.subnet_id is None else subnets.get_subnet(session, request.subnet_id)
        lacking = () if subnet is None else exports.lacking(subnet, formats)
        return Answer(request, jobs.get(session, request_id), subnet, lacking)


def state_of(context: Context, job_id: str) -> JobState | None:
    """Where a job stands; None when there is none."""
    with context.database.session() as session:
        job = jobs.get(session, job_id)
    return None if job is None else job.state


def with_job(context: Context, answer: Answer, job_id: str) -> Answer:
    """An answer that tells of another job: the one that makes its formats."""
    with context.database.session() as session:
        return replace(answer, job=jobs.get(session, job_id))


def identify(context: Context, wish: Wish) -> tuple[str, Known] | None:
    """Id and state of a request that was made before; None where it is new, or a name is unknown.

    Reads two short rows and one more a device: most requests ask for what is there.
    """
    chosen: dict[str, str] = {}
    with context.database.session() as session:
        found = supernets.identify(session, wish.supernet)
        if found is None:
            return None
        for limit in wish.budget.limits:
            if limit.device is not None and limit.device not in chosen:
                table = devices.newest_complete(session, limit.device, *found[1:])
                if table is None:
                    return None
                chosen[limit.device] = table
        request_id = _spec(context, found[0], chosen, wish).digest
        known = subnets.known(session, request_id)
    return None if known is None else (request_id, known)


def resolve(context: Context, wish: Wish) -> SubnetSpec:
    """The spec with ids and digests for names; each device's newest complete table is taken.

    Raises:
        FaultsError: a name is unknown, or a device has no complete table for the supernet's space.
    """
    faults: list[Fault] = []
    chosen: dict[str, str] = {}
    with context.database.session() as session:
        record = supernets.get(session, wish.supernet)
        if record is None:
            raise FaultsError(
                [Fault("body.supernet", f"no supernet {wish.supernet!r}; see /api/v1/supernets for those that exist")]
            )
        for limit in wish.budget.limits:
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
    return _spec(context, record.id, chosen, wish)


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


def _spec(context: Context, supernet_id: str, chosen: Mapping[str, str], wish: Wish) -> SubnetSpec:
    settings = context.settings
    return SubnetSpec(
        supernet=supernet_id,
        budget=tuple(wish.budget.to_dict()),
        tables=chosen,
        seed=wish.seed,
        population=settings.search_population,
        generations=settings.search_generations,
    )


def _with_formats(context: Context, caller: Caller, known: Answer, formats: Collection[str]) -> Answer:
    assert known.subnet is not None
    lacking = exports.lacking(known.subnet, formats)
    if not lacking:
        return known
    job_id = exports.start(context, caller, known.subnet, lacking)
    return with_job(context, replace(known, lacking=lacking), job_id)


def _want(context: Context, request_id: str, formats: Collection[str]) -> None:
    wanted = exports.MADE_ON_DEMAND.keys() & set(formats)
    if wanted:
        with context.database.session(exclusive=True) as session:
            subnets.want_formats(session, request_id, wanted)


def _no_table(record: SupernetRecord, device: str, missing: str) -> str:
    return (
        f"no complete latency table of {device!r} for space {record.space!r} with {record.num_classes} classes:"
        f" {missing}; measure one with: onceforall profile RUN_FOLDER --device {device} --out FILE, and POST it to"
        f" /api/v1/devices/{device}/latency-tables"
    )
