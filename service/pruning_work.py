"""How a pruning run's job prunes the network: in a folder that keeps its state, so that a killed one goes on."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch

from latency_tables import Budget, measure_module_ms
from pruning import CompressionSettings, Plan, UnitLatencies, ZeroInvariantGroups, autocompress, load_compact, training
from pruning.admm import AdmmSettings
from pruning.artefact import PLAN, PROGRAMS, WEIGHTS
from pruning.autocompress import PHASES
from pruning.autocompress import Progress as Compressing
from pruning.targets import Target
from pruning.training import PruningSettings
from service.bench import Bench, Progress, measured_here, now_and_then
from service.cards import count_params
from service.domain import Latency, StoredFile, SubnetRecord, digest_of, utc_now
from service.folder import pruning_folder, temporary_folder
from service.networks import published_params
from service.prune_recipes import CARD, MASKS, Pruned, Workpiece, compress, judged, parts, save, train_and_cut
from service.pruning_inputs import fetch
from service.pruning_source import open_network, open_piece
from service.pruning_spec import OTO, Architecture, Inputs, PruningRun, PruningSpec, SupernetConfig
from service.storage import devices, subnets
from service.storage.artifacts import stored_file
from supernet.errors import CheckpointError, ConfigError
from supernet.evaluation import confidence_interval

_FILES = {"safetensors": WEIGHTS, "plan": PLAN, "masks": MASKS, "pt2": PROGRAMS["torch-export"], "card": CARD}
_STATE = "training.pt"
_DECAY = {"oto": 5e-4, "auto-compress": 1e-4}
_PHASES = {
    "search": "searching rates",
    "admm": "training towards the structure",
    "purify": "purifying",
    "retrain": "retraining",
}
_CLASSIFIER = 5_000_000
"""As many parameters may be in a published network's classifier of 1000 classes."""
_NAMED = 200
"""Devices that are looked through for those that are this host."""


def prune(bench: Bench, run: PruningRun, progress: Progress, executor: str) -> str:
    """Prune a network, measure it beside the dense one, and store it.

    Args:
        bench: to work with.
        run: what to do.
        progress: told of stages and of how far they are.
        executor: id of the job host.

    Returns:
        The pruned network's id among the stored ones.

    Raises:
        OnceForAllError: it cannot be done.
    """
    spec, progress = run.spec, now_and_then(progress)
    progress("opening the network", 0.01)
    folder = pruning_folder(bench.settings.cache_dir, run.id)
    inputs = fetch(run, folder, bench.database, bench.artifacts, bench.searches)
    piece, source = open_piece(spec, inputs, bench.settings.data_sets)
    progress("measuring the dense network", 0.03)
    dense = _dense(piece, trained=not (isinstance(spec.source, Architecture) and spec.source.weights is None))
    pruned = _pruned(piece, spec, folder, progress)
    if pruned.plan is None:
        raise ConfigError(f"the network meets the target already; ask for less than {dense['params']} parameters")
    progress("measuring the pruned network", 0.92)
    card = _card(bench, run, piece, source, dense, pruned, pruned.plan)
    with temporary_folder(bench.settings.cache_dir, "subnet") as out:
        progress("writing its files", 0.95)
        save(out, pruned, piece.example, ["torch-export"], card)
        _verify(out, pruned, piece)
        files = {format: stored_file(out / name, name=name) for format, name in _FILES.items() if (out / name).exists()}
        record = _record(run, bench, card, pruned.plan, files)
        progress("storing", 0.98)
        bench.store(out, files, executor, lambda session: subnets.add_subnet(session, record))
    shutil.rmtree(folder, ignore_errors=True)
    return record.id


def require_reachable(spec: PruningSpec, inputs: Inputs, *, most_params: int) -> None:
    """Open the network, and see whether a run can do what is asked, without images.

    Args:
        spec: of the run.
        inputs: what it starts from.
        most_params: parameters that the network may have.

    Raises:
        ConfigError, CheckpointError, TableError: the network cannot be opened, is too large, meets the target already,
            or a table is of another one.
        InfeasibleBudgetError: the target is out of reach.
    """
    if isinstance(spec.source, Architecture):  # before it takes memory; its own classifier may be smaller
        _require_size(published_params(spec.source.architecture) - _CLASSIFIER, most_params)
    net, side, _, _ = open_network(spec, inputs)
    _require_size(count_params(net), most_params)
    example = torch.zeros(2, 3, side, side)
    groups, table, target = ZeroInvariantGroups(net, example), _table(spec), target_of(spec)
    whole = groups.count()
    costs: dict[str, float] = {"params": whole.params, "macs": whole.macs}
    if table is not None:
        costs[f"latency_ms@{table.device}"] = table.of(groups.sets)(
            [torch.ones(unit_set.units, dtype=torch.bool) for unit_set in groups.sets]
        )
    limits = {limit.name: limit.max * (costs[limit.name] if limit.relative else 1) for limit in target.limits}
    if not target.sparsity and all(costs[name] <= limit for name, limit in limits.items()):
        has = ", ".join(f"{name} {costs[name]:.6g}" for name in limits)
        raise ConfigError(f"target {target}: the network meets it already, with {has}; ask for less")
    if spec.method == OTO:
        latencies = None if table is None else {table.device: table.of(groups.sets)}
        training.require_reachable(groups, oto_settings(spec), latencies=latencies)
    else:
        autocompress.require_reachable(
            net,
            target,
            example_inputs=example,
            settings=compression_settings(spec),
            latencies=None if table is None else {table.device: table},
        )


def _require_size(found: int, most: int) -> None:
    if found > most:
        raise ConfigError(
            f"the network has {found} parameters; allowed here: {most}; choose a smaller one, or ask the operator to"
            " raise ONCEFORALL_PRUNE_MAX_PARAMS"
        )


def target_of(spec: PruningSpec) -> Target:
    """What is to be met."""
    return Target(spec.sparsity, Budget.from_dict([dict(limit) for limit in spec.budget]) if spec.budget else None)


def oto_settings(spec: PruningSpec) -> PruningSettings:
    """How Only Train Once trains."""
    return PruningSettings(
        target=str(target_of(spec)),
        epochs=spec.epochs,
        learning_rate=spec.learning_rate,
        weight_decay=_DECAY[spec.method],
        batch_size=spec.batch_size,
        seed=spec.seed,
    )


def compression_settings(spec: PruningSpec) -> CompressionSettings:
    """How AutoCompress works."""
    chosen = spec.options
    return CompressionSettings(
        dimensions=chosen["dimensions"],
        admm=AdmmSettings(blocks=chosen["blocks"]),
        admm_epochs=1,
        retrain_epochs=spec.epochs,
        seed=spec.seed,
    ).with_proposals(chosen["proposals"], chosen["purify_proposals"])


def _pruned(piece: Workpiece, spec: PruningSpec, folder: Path, progress: Progress) -> Pruned:
    def trained(done: int, total: int, _loss: float) -> None:
        epoch = -(-done * spec.epochs // total)
        progress(f"training and pruning: epoch {epoch} of {spec.epochs}", 0.05 + 0.85 * done / total)

    def compressed(now: Compressing) -> None:
        step = (PHASES.index(now.phase) + now.done / max(now.total, 1)) / len(PHASES)
        stage = f"round {now.round} of {now.rounds}: {_PHASES[now.phase]}"
        progress(stage, 0.05 + 0.85 * (now.round - 1 + step) / now.rounds)

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if spec.method == OTO:
        return train_and_cut(
            piece, oto_settings(spec), state=folder / _STATE, device=device, table=_table(spec), progress=trained
        )
    return compress(
        piece,
        compression_settings(spec),
        target_of(spec),
        folder=folder,
        device=device,
        batch_size=spec.batch_size,
        learning_rate=spec.learning_rate,
        weight_decay=_DECAY[spec.method],
        table=_table(spec),
        progress=compressed,
    )


def _table(spec: PruningSpec) -> UnitLatencies | None:
    return None if spec.latencies is None else UnitLatencies.from_dict(spec.latencies, "latencies")


def _dense(piece: Workpiece, *, trained: bool) -> dict[str, Any]:
    """The network before it is pruned; of an untrained one no accuracy is worth knowing."""
    found = _sizes(piece)
    return found | (_judged(piece, piece.net) if trained else {"accuracy": None})


def _sizes(piece: Workpiece, net: torch.nn.Module | None = None) -> dict[str, Any]:
    net = piece.net if net is None else net
    threads, side = torch.get_num_threads(), piece.resolution
    return {
        "params": count_params(net),
        "size_bytes": sum(tensor.nbytes for tensor in net.state_dict().values()),
        "latency_here_ms": measure_module_ms(net, (1, 3, side, side), threads=threads).median_ms,
    }


def _judged(piece: Workpiece, net: torch.nn.Module) -> dict[str, Any]:
    """On the held-out images, and beside them on those of the test part, which decide nothing."""
    found: dict[str, Any] = {}
    for part in parts(piece):
        own = judged(*piece.answers(net, part))
        own["accuracy_interval"] = list(confidence_interval(own["correct"], own["total"]))
        found |= own | {"images": part} if part == "holdout" else {"test": own}
    return found


def _card(
    bench: Bench,
    run: PruningRun,
    piece: Workpiece,
    source: dict[str, Any],
    dense: dict[str, Any],
    pruned: Pruned,
    plan: Plan,
) -> dict[str, Any]:
    spec, own = run.spec, pruned.card
    reached = own["costs"] if spec.method == OTO else _reached(own)
    predicted = {name.partition("@")[2]: ms for name, ms in reached.items() if name.startswith("latency_ms@")}
    return {
        "format": 1,
        "pruning_run": run.id,
        **{name: value for name, value in piece.describe().items() if name != "model"},  # `source` says it better
        "method": spec.method,
        "source": source,
        "budget": [dict(limit) for limit in spec.budget],
        "sparsity": spec.sparsity,
        "target": own["target"],
        "reached": reached,
        "seed": spec.seed,
        "settings": {name: getattr(spec, name) for name in ("epochs", "batch_size", "learning_rate")}
        | dict(spec.options),
        "labels": "the dense network's own answers" if piece.images.name == "run-images" else "of the data set",
        "digests": {"data": piece.images.digest, "weights": None if run.weights is None else run.weights.sha256},
        "dense": dense | {"macs": plan.full_macs, "params": plan.full_params},
        "predicted": {"accuracy": None, "latency_ms": predicted, "costs": reached},
        "measured": {
            **_judged(piece, pruned.model),
            **_sizes(piece, pruned.model),
            "macs": plan.macs,
            "params": plan.params,
            "latency_ms": _latencies(bench, pruned.model, piece.resolution),
        },
        "equality": {"largest_error": plan.error, "signal": plan.signal, "form": plan.form},
        **({"rounds": own["rounds"]} if "rounds" in own else {}),
    }


def _reached(card: dict[str, Any]) -> dict[str, float]:
    """Costs as AutoCompress counts them: single columns and weights that have gone do not count."""
    last: dict[str, dict[str, float]] = card["rounds"][-1]
    return last["met"] | {name: last["model"][name] for name in ("params", "macs")}


def _latencies(bench: Bench, net: torch.nn.Module, side: int) -> dict[str, float]:
    """Device -> measured ms, for the devices that are this host: it has measured their newest table."""
    found = {}
    with bench.database.session() as session:
        names = [device.name for device in devices.device_page(session, _NAMED, None).items]
        newest = [table for name in names for table in devices.table_page(session, name, 1, None).items]
    for record in newest:
        if measured_here(record.provenance):
            shape, threads = (record.provenance["batch"], 3, side, side), record.provenance["threads"]
            found[record.device] = measure_module_ms(net, shape, threads=threads).median_ms
    return found


def _verify(folder: Path, pruned: Pruned, piece: Workpiece) -> None:
    """The program on disk, loaded without any code of the network, computes what the measured network does."""
    with torch.inference_mode():
        expected, found = pruned.model(piece.example), load_compact(folder)(piece.example)
    scale = float(expected.abs().max())
    if not float((found - expected).abs().max()) <= 1e-4 * max(scale, 1e-30):
        raise CheckpointError("the stored network computes something else than the one that was measured; try again")


def _record(
    run: PruningRun, bench: Bench, card: dict[str, Any], plan: Plan, files: dict[str, StoredFile]
) -> SubnetRecord:
    supernet_id, space = _supernet_of(bench, run)
    measured, predicted = card["measured"], card["predicted"]["latency_ms"]
    return SubnetRecord(
        id=digest_of({"pruned": run.id}),
        request_id=run.id,
        supernet_id=supernet_id,
        space=space,
        config={"resolution": card["resolution"]},
        config_digest=digest_of(plan.to_dict()["tensors"]),
        predicted_accuracy=None,
        accuracy=measured["accuracy"],
        macs=measured["macs"],
        params=measured["params"],
        latencies={device: Latency(ms, measured["latency_ms"].get(device)) for device, ms in predicted.items()},
        card=card,
        files=files,
        created_at=utc_now(),
    )


def _supernet_of(bench: Bench, run: PruningRun) -> tuple[str, str]:
    """Id and space of the supernet that what was pruned had been cut from; empty where there is none."""
    source = run.spec.source
    if isinstance(source, SupernetConfig):
        return source.supernet, str(source.config["space"])
    if isinstance(source, Architecture):
        return "", ""
    with bench.database.session() as session:
        record = subnets.get_subnet(session, source.subnet)
    return ("", "") if record is None else (record.supernet_id, record.space)
