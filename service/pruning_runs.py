"""Pruning runs that somebody asks for: every name resolved, refused at once when impossible, otherwise one job each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy.orm import Session

from latency_tables import Budget
from service import pruning_data, weights
from service.answers import Answer, Kind
from service.callers import Caller
from service.context import Context
from service.domain import SupernetRecord, utc_now
from service.errors import Fault, FaultsError
from service.folder import temporary_folder
from service.pruning_inputs import fetch
from service.pruning_spec import (
    AUTO_COMPRESS,
    PRUNE_NETWORK,
    Architecture,
    PruningRun,
    PruningSpec,
    Source,
    StoredSubnet,
    SupernetConfig,
)
from service.storage import pruning_runs, subnets, supernets
from service.verify import verify_pruning
from supernet.arch import SubnetConfig
from supernet.errors import ConfigError

RUNS = Kind("pruning run", "/api/v1/pruning-runs", PRUNE_NETWORK, pruning_runs.get, pruning_runs.add)
METRICS = ("macs", "params", "latency_ms")
DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "oto": {"epochs": 20, "learning_rate": 0.05},
    "auto-compress": {"epochs": 10, "learning_rate": 0.02},
}
"""Method -> what it takes where nothing is said."""
OPTIONS: Mapping[str, Any] = {"dimensions": "channels", "proposals": 200, "blocks": 14, "purify_proposals": 60}
"""What AutoCompress alone knows, and its defaults."""


@dataclass(frozen=True)
class Wish:
    """What somebody asks for, in names. None: what is usual.

    Attributes:
        method: one of `METHODS`.
        source: what is to be pruned; a supernet by its name or id.
        data: name of the data set; None: the source's own, as far as it is known.
        sparsity: least share of units that go; for OTO alone.
        budget: upper limits.
        latencies: table of the latencies of the network's units, as `UnitLatencies.to_dict()`.
        epochs, batch_size, learning_rate, seed: see `PruningSpec`.
        options: of AutoCompress: any of `OPTIONS`.
        formats: of `exports.FORMATS`; they do not decide which network it is.
    """

    method: str
    source: Source
    data: str | None = None
    sparsity: float | None = None
    budget: Budget | None = None
    latencies: Mapping[str, Any] | None = None
    epochs: int | None = None
    batch_size: int = 64
    learning_rate: float | None = None
    seed: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)
    formats: tuple[str, ...] = ()


def ask(context: Context, caller: Caller, wish: Wish) -> Answer[PruningRun]:
    """The pruned network, or the job that makes it; see `service.answers`.

    Args:
        context: of the service.
        caller: who asks.
        wish: for what.

    Raises:
        FaultsError: a name is unknown or a value is not allowed.
        ConfigError, CheckpointError, TableError: the network cannot be opened, is too large, meets the target already,
            or a table is of another one.
        InfeasibleBudgetError: the target is out of reach.
        BusyError: too many jobs wait or run already.
    """
    spec = resolve(context, wish)
    uploaded = spec.source.weights if isinstance(spec.source, Architecture) else None
    file = None if uploaded is None else weights.find(context, uploaded)
    run = PruningRun(spec.digest, spec, None, file, utc_now())

    def check() -> None:
        if uploaded is not None and file is None:
            raise FaultsError([weights.gone(uploaded)])
        settings = context.settings
        with temporary_folder(settings.cache_dir, "upload") as folder:
            inputs = fetch(run, folder, context.database, context.artifacts, context.searches)
            verify_pruning(spec, inputs, folder, settings)

    def before_adding(session: Session) -> None:
        if uploaded is not None:
            weights.require(context, session, uploaded)

    return RUNS.ask(context, caller, run, wish.formats, check, before_adding)


def known(context: Context, wish: Wish) -> Answer[PruningRun] | None:
    """The answer to a run that was asked for before and is there, or under way; quick. None for any other.

    Raises:
        FaultsError: as `ask`.
    """
    answer = RUNS.find(context, resolve(context, wish).digest, wish.formats)
    if answer is None or answer.complete:
        return answer
    under_way = answer.subnet is None and answer.job is not None and not answer.job.state.is_final
    return answer if under_way else None


def resolve(context: Context, wish: Wish) -> PruningSpec:
    """The spec with ids for names and everything that was left open filled in.

    Raises:
        FaultsError: all names that are unknown and values that are not allowed.
    """
    faults: list[Fault] = []
    source, supernet, outputs = _source(context, wish, faults)
    data = _data(context, wish, supernet, outputs, faults)
    faults += _target_faults(wish)
    defaults = DEFAULTS[wish.method]
    epochs = defaults["epochs"] if wish.epochs is None else wish.epochs
    if epochs > context.settings.prune_max_epochs:
        faults.append(_fault("epochs", f"{epochs}; allowed here: 1 to {context.settings.prune_max_epochs}"))
    if wish.options and wish.method != AUTO_COMPRESS:
        names = ", ".join(sorted(wish.options))
        message = f"{names} would change nothing with {wish.method}; leave auto_compress out"
        faults.append(_fault("auto_compress", message))
    if faults:
        raise FaultsError(faults)
    return PruningSpec(
        method=wish.method,
        source=source,
        data=data,
        sparsity=wish.sparsity,
        budget=() if wish.budget is None else tuple(wish.budget.to_dict()),
        latencies=wish.latencies,
        epochs=epochs,
        batch_size=wish.batch_size,
        learning_rate=defaults["learning_rate"] if wish.learning_rate is None else wish.learning_rate,
        seed=wish.seed,
        options={**OPTIONS, **wish.options} if wish.method == AUTO_COMPRESS else {},
    )


def _source(context: Context, wish: Wish, faults: list[Fault]) -> tuple[Source, SupernetRecord | None, int | None]:
    """The source with ids for names, the supernet that it is of, and how many outputs it has, as far as it is known."""
    source = wish.source
    if isinstance(source, Architecture):
        most = context.settings.prune_max_resolution
        if source.resolution > most:
            faults.append(_fault("source.resolution", f"{source.resolution} pixels; allowed here: 8 to {most}"))
        if source.weights is None and wish.method == AUTO_COMPRESS:
            faults.append(
                _fault(
                    "source.weights",
                    f"{source.architecture!r} would be untrained, and AutoCompress prunes trained networks; POST"
                    " weights to /api/v1/weights and name them, or choose the method oto, which trains",
                )
            )
        return source, None, source.num_classes
    with context.database.session() as session:
        if isinstance(source, StoredSubnet):
            subnet = subnets.get_subnet(session, source.subnet)
            if subnet is None:
                known = "see /api/v1/subnets for those that exist"
                faults.append(_fault("source.subnet", f"no subnet {source.subnet!r}; {known}"))
                return source, None, None
            if subnet.pruned:
                hint = "prune what it was pruned from, to a lower target"
                faults.append(_fault("source.subnet", f"{source.subnet[:12]} is a pruned network; {hint}"))
            return source, supernets.get(session, subnet.supernet_id), subnet.card.get("num_classes")
        record = supernets.get(session, source.supernet)
    if record is None:
        known = "see /api/v1/supernets for those that exist"
        faults.append(_fault("source.supernet", f"no supernet {source.supernet!r}; {known}"))
        return source, None, None
    try:
        config = SubnetConfig.from_dict(source.config)
        if config.space != record.space:
            raise ConfigError(f"a subnet of {config.space!r}; supernet {record.name!r} is of {record.space!r}")
    except (ConfigError, TypeError) as error:
        faults.append(_fault("source.config", str(error)))
        return source, record, record.num_classes
    return SupernetConfig(record.id, config.to_dict()), record, record.num_classes


def _data(
    context: Context, wish: Wish, supernet: SupernetRecord | None, outputs: int | None, faults: list[Fault]
) -> str:
    """The data set's name; of the source's own where none is named."""
    there = pruning_data.available(context.settings.data_sets)
    own = isinstance(wish.source, StoredSubnet | SupernetConfig)
    allowed = [*there, pruning_data.RUN_IMAGES] if own else list(there)
    name = wish.data or ""
    if not name and own:
        name = pruning_data.of_supernet({} if supernet is None else supernet.manifest, context.settings.data_sets)
    if not name:
        faults.append(_fault("data", f"an architecture has no data of its own; allowed: {', '.join(allowed)}"))
    elif name == pruning_data.RUN_IMAGES and own and supernet is None:
        message = f"the supernet of this subnet was deleted, and its images with it; allowed: {', '.join(there)}"
        faults.append(_fault("data", message))
    elif name not in allowed:
        message = f"no data set {name!r} is readable here; allowed: {', '.join(allowed)}"
        faults.append(_fault("data", f"{message}; the operator adds others by ONCEFORALL_DATA_SETS"))
    elif outputs is not None:
        classes = pruning_data.class_count(name, context.settings.data_sets)
        if classes not in (None, outputs):
            message = f"{name!r} has {classes} classes, the network {outputs} outputs; choose the data of its training"
            faults.append(_fault("data", message))
    return name


def _target_faults(wish: Wish) -> list[Fault]:
    faults = []
    limits = () if wish.budget is None else wish.budget.limits
    if wish.sparsity is None and not limits:
        message = "there is no target; give a limit on macs, params or latency_ms, or with oto a sparsity"
        faults.append(_fault("constraints", message))
    if wish.sparsity is not None and wish.method == AUTO_COMPRESS:
        faults.append(_fault("sparsity", "for the method oto alone; limit params or macs instead"))
    measured = set() if wish.latencies is None else {wish.latencies["device"]}
    for limit in limits:
        where = f"constraints.{limit.name}"
        if limit.metric not in METRICS:
            faults.append(_fault(where, f"pruning counts {', '.join(METRICS)}; limit one of these instead"))
        elif limit.quantile is not None:
            faults.append(_fault(where, "the latency of a typical run alone can be met; leave quantile out"))
        elif limit.relative and limit.max > 1:
            faults.append(_fault(where, f"a share of {limit.max:g} of the network; allowed: above 0, at most 1"))
        elif limit.device is not None and limit.device not in measured:
            message = f"latencies holds no table of this network's units on {limit.device!r}; measure one with:"
            faults.append(_fault(where, f"{message} onceforall prune latencies --device {limit.device}"))
    return faults


def _fault(where: str, message: str) -> Fault:
    return Fault(f"body.{where}", message)
