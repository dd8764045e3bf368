"""Budgets that somebody asks for: every name resolved, refused at once when impossible, otherwise one job each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from latency_tables import Budget
from search import NoSubnetError
from service import offers
from service.answers import Answer, Kind
from service.callers import Caller
from service.context import Context
from service.domain import SubnetRequest, SubnetSpec, SupernetRecord, utc_now
from service.errors import Fault, FaultsError, InfeasibleError
from service.storage import devices, subnets, supernets
from service.storage.subnets import Known

MAKE_SUBNET = "make_subnet"
SUBNETS = Kind("subnet request", "/api/v1/subnet-requests", MAKE_SUBNET, subnets.get_request, subnets.add_request)


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


def ask(context: Context, caller: Caller, wish: Wish) -> Answer[SubnetRequest]:
    """The subnet for a budget, or the job that makes it; see `service.answers`.

    Equal requests are those of the same supernet, budget, versions of the tables and seed.

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

    def check() -> None:
        search = context.searches.open(spec)
        try:
            search.check(wish.budget)
        except NoSubnetError as error:
            offer = offers.below(context, spec.supernet, search.absolute(wish.budget), wish.seed, error)
            raise infeasible(error, offer) from error

    return SUBNETS.ask(context, caller, SubnetRequest(spec.digest, spec, None, utc_now()), wish.formats, check)


def identify(context: Context, wish: Wish) -> tuple[str, Known] | None:
    """Id and state of a request that was made before; None where it is new, or a name is unknown.

    Two statements: most requests ask for what is there.
    """
    names = list(dict.fromkeys(limit.device for limit in wish.budget.limits if limit.device is not None))
    with context.database.reading() as connection:
        found = supernets.identify_with_tables(connection, wish.supernet, names)
        if found is None:
            return None
        supernet_id, tables = found
        chosen = {name: table for name, table in zip(names, tables, strict=True) if table is not None}
        if len(chosen) < len(names):
            return None
        request_id = _spec(context, supernet_id, chosen, wish).digest
        known = subnets.known(connection, request_id)
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


def infeasible(error: NoSubnetError, offer: Mapping[str, Any] | None) -> InfeasibleError:
    """The search's refusal with its figures, and the pruning run that may do it nevertheless, as plain JSON types."""
    if offer is None:
        return InfeasibleError(str(error), error.to_dict())
    step = f"; or prune the nearest one further: POST the offer's body to {offer['url']}"
    return InfeasibleError(f"{error}{step}", error.to_dict() | {"offer": dict(offer)})


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


def _no_table(record: SupernetRecord, device: str, missing: str) -> str:
    return (
        f"no complete latency table of {device!r} for space {record.space!r} with {record.num_classes} classes:"
        f" {missing}; measure one with: onceforall profile RUN_FOLDER --device {device} --out FILE, and POST it to"
        f" /api/v1/devices/{device}/latency-tables"
    )
