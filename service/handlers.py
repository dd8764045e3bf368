"""What jobs do. Runs in the child process; the only module of the service that needs torch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from sqlalchemy.orm import Session

from latency_tables import Budget, Provenance, macs, measure_module_ms, params, this_machine
from latency_tables.counter import counted_macs
from search import Candidate
from service import exports, fronts, requests
from service.cards import count_params, describe, measured_part
from service.domain import (
    FrontRecord,
    FrontSpec,
    Latency,
    StoredFile,
    SubnetRecord,
    SubnetRequest,
    SupernetRecord,
    digest_of,
    utc_now,
)
from service.errors import NotFoundError
from service.folder import temporary_folder
from service.searches import Searches
from service.settings import Settings
from service.storage import devices, staging, subnets
from service.storage import fronts as front_rows
from service.storage.artifacts import open_artifacts, stored_file
from service.storage.database import Database
from supernet.errors import CheckpointError, ConfigError, ExportError, one_of
from supernet.evaluation import MeasuredSubnet, measure_subnet
from supernet.export import SUFFIXES, export_network, subnet_metadata
from supernet.images import ImagePack
from supernet.network import Subnet, Supernet
from supernet.runs import RunFolder
from supernet.subnet_file import (
    CARD,
    CONFIG,
    WEIGHTS,
    load_centre_share,
    load_class_names,
    load_normalisation,
    load_subnet,
    save_subnet,
)

_TRIES, _PAUSE_S, _NEAR = 6, 0.25, 1.1
Progress = Callable[[str, float], None]
_FILES = {"safetensors": WEIGHTS, "config": CONFIG, "card": CARD}


class Workshop:
    """Does jobs, one after another, and keeps the last supernet open.

    Args:
        settings: of the service.
    """

    def __init__(self, settings: Settings) -> None:
        torch.set_num_threads(settings.job_threads)
        self._settings = settings
        self._database = Database(settings.resolved_database_url)
        self._artifacts = open_artifacts(settings.resolved_artifact_url)
        self._searches = Searches(self._database, self._artifacts, settings.cache_dir)
        self._open: tuple[str, RunFolder, Supernet, ImagePack] | None = None

    def do(self, kind: str, payload: Mapping[str, Any], progress: Progress, *, executor: str) -> dict[str, Any]:
        """Do one job; doing it twice gives the same rows and files.

        Args:
            kind: of job.
            payload: its input.
            progress: called as (stage, fraction in [0, 1]).
            executor: id of the job host that this process belongs to.

        Raises:
            OnceForAllError: it cannot be done.
        """
        match kind:
            case requests.MAKE_SUBNET:
                return self._make_subnet(payload["request"], progress, executor)
            case exports.EXPORT_SUBNET:
                return self._export(payload["subnet"], payload["formats"], progress, executor)
            case fronts.FIND_FRONT:
                return self._find_front(FrontSpec.from_dict(payload["spec"]), progress, executor)
        raise ConfigError(one_of("kind of job", kind, [requests.MAKE_SUBNET, exports.EXPORT_SUBNET, fronts.FIND_FRONT]))

    def _make_subnet(self, request_id: str, progress: Progress, executor: str) -> dict[str, Any]:
        with self._database.session() as session:
            request = subnets.get_request(session, request_id)
        if request is None:
            raise NotFoundError(f"subnet request {request_id[:12]} is gone; send it again")
        subnet_id = request.subnet_id  # there already where a host died before it could say so
        if subnet_id is None:
            subnet_id = self._make(request, progress, executor)
        with self._database.session() as session:  # now, since formats may have been asked for meanwhile
            formats = subnets.formats_wanted(session, request_id)
        if formats:
            self._export(subnet_id, formats, lambda stage, done: progress(stage, 0.95 + 0.05 * done), executor)
        return {"subnet": subnet_id}

    def _make(self, request: SubnetRequest, progress: Progress, executor: str) -> str:
        progress("opening the supernet", 0.02)
        record, run, supernet, pack = self._supernet(request.spec.supernet)
        search = self._searches.open(request.spec)

        def searching(done: int, total: int) -> None:
            if done % 50 == 0:
                progress("searching", 0.1 + 0.4 * done / total)

        progress("searching", 0.1)
        candidate = search.run(Budget.from_dict(request.spec.budget), progress=searching)
        progress("calibrating and measuring accuracy", 0.5)
        measured = measure_subnet(supernet, candidate.config, pack)
        progress("verifying", 0.8)
        latencies = self._latencies(request, candidate, measured.subnet)
        card = _card(record, request, candidate, measured, latencies)
        with temporary_folder(self._settings.cache_dir, "subnet") as folder:
            save_subnet(
                folder,
                measured.subnet,
                card,
                normalisation=run.normalisation,
                class_names=run.class_names,
                centre_share=run.centre_share,
            )
            _verify(folder, measured.subnet, candidate)
            progress("storing", 0.95)
            files = {format: stored_file(folder / name, name=name) for format, name in _FILES.items()}
            finished = SubnetRecord(
                id=digest_of({"request": request.id, "config": candidate.config.digest}),
                request_id=request.id,
                supernet_id=record.id,
                space=record.space,
                config=candidate.config.to_dict(),
                config_digest=candidate.config.digest,
                predicted_accuracy=candidate.predicted_accuracy,
                accuracy=measured.accuracy,
                macs=card["measured"]["macs"],
                params=card["measured"]["params"],
                latencies=latencies,
                card=card,
                files=files,
                created_at=utc_now(),
            )
            self._store(folder, files, executor, lambda session: subnets.add_subnet(session, finished))
        return finished.id

    def _store(
        self, folder: Path, files: Mapping[str, StoredFile], executor: str, insert: Callable[[Session], bool]
    ) -> None:
        """Store files and, in one transaction, the row that names them.

        Args:
            folder: where they are, under their names.
            files: to store.
            executor: id of the job host.
            insert: inserts the row; False where another host was quicker, whose files are then kept, not these.
        """
        ticket = staging.note(self._database, [file.sha256 for file in files.values()], process=executor)
        for file in files.values():
            self._artifacts.put_file(folder / file.name, name=file.name)
        with self._database.session(exclusive=True) as session:
            new = insert(session)
            if new:
                staging.settle(session, ticket)
        if not new:
            staging.sweep(self._database, self._artifacts, tickets=[ticket])

    def _export(self, subnet_id: str, formats: Sequence[str], progress: Progress, executor: str) -> dict[str, Any]:
        """Make the formats that a subnet lacks, from its stored files; each has a file once, and for good."""
        with self._database.session() as session:
            record = subnets.get_subnet(session, subnet_id)
        if record is None:
            raise NotFoundError(f"subnet {subnet_id[:12]} was deleted; ask for it again")
        made = {}
        with temporary_folder(self._settings.cache_dir, "subnet") as folder:
            for format, name in _FILES.items():
                self._artifacts.copy_to(record.files[format].sha256, folder / name)
            network = load_subnet(folder)
            metadata = subnet_metadata(
                network,
                normalisation=load_normalisation(folder),
                class_names=load_class_names(folder),
                centre_share=load_centre_share(folder),
            )
            lacking = exports.lacking(record, formats)
            for number, format in enumerate(lacking):
                progress(f"making {format}", number / len(lacking))
                kind = exports.MADE_ON_DEMAND[format]
                path = folder / f"subnet{SUFFIXES[kind]}"
                try:
                    export_network(network, path, format=kind, dynamic_batch=True, metadata=metadata)
                except ExportError as error:  # without this host's folder
                    raise ExportError(str(error).replace(f"{folder}/", "")) from error
                file = stored_file(path, name=path.name)
                insert = partial(subnets.add_file, subnet_id=subnet_id, format=format, file=file)
                self._store(folder, {format: file}, executor, insert)
                made[format] = file.sha256
        return {"subnet": subnet_id, "files": made}

    def _find_front(self, spec: FrontSpec, progress: Progress, executor: str) -> dict[str, Any]:
        progress("opening the predictor", 0.02)
        search = self._searches.front(spec)

        def searching(done: int, total: int) -> None:
            if done % 10 == 0:
                progress("searching", 0.05 + 0.9 * done / total)

        found = search.run(searching)
        with temporary_folder(self._settings.cache_dir, "subnet") as folder:
            found.save(folder / "front.json")
            content = stored_file(folder / "front.json", name="front.json")
            record = FrontRecord(spec.digest, spec, content, utc_now())
            self._store(folder, {"front": content}, executor, lambda session: front_rows.add(session, record))
        return {"front": spec.digest, "subnets": len(found)}

    def _supernet(self, supernet_id: str) -> tuple[SupernetRecord, RunFolder, Supernet, ImagePack]:
        record, folder = self._searches.supernet(supernet_id)
        if self._open is None or self._open[0] != supernet_id:
            run = RunFolder(folder)
            self._open = (supernet_id, run, run.load_supernet(), run.images())
        return record, *self._open[1:]

    def _latencies(self, request: SubnetRequest, candidate: Candidate, subnet: Subnet) -> dict[str, Latency]:
        found = {}
        for device, table_id in request.spec.tables.items():
            with self._database.session() as session:
                record = devices.get_table(session, table_id)
            assert record is not None
            provenance = self._searches.table(record).provenance
            measured_ms = None
            batch, threads = provenance.batch, provenance.threads
            if batch is not None and threads is not None and _measured_here(provenance):
                side = candidate.config.resolution
                shape = (batch, 3, side, side)
                measured_ms = _least_latency_ms(subnet, shape, threads, candidate.costs[f"latency_ms@{device}"])
            found[device] = Latency(candidate.costs[f"latency_ms@{device}"], measured_ms)
        return found


def _least_latency_ms(subnet: Subnet, shape: tuple[int, ...], threads: int, predicted_ms: float) -> float:
    """The least of up to `_TRIES` measurements over about two seconds; one that is near the prediction ends them.

    What else runs on the host can only add, and did so for most of a second after a service had started (1.9 times).
    """
    least = math.inf
    for attempt in range(_TRIES):
        if attempt:
            time.sleep(_PAUSE_S)
        least = min(least, measure_module_ms(subnet, shape, threads=threads).median_ms)
        if least <= _NEAR * predicted_ms:
            break
    return least


def _measured_here(provenance: Provenance) -> bool:
    """Whether a table was measured on this host, in the way that this process can measure a subnet."""
    here = this_machine()
    version = here.pop("torch")
    return (
        dict(provenance.hardware) == here
        and provenance.runtime == "torch-eager"
        and provenance.runtime_versions.get("torch") == version
    )


def _card(
    record: SupernetRecord,
    request: SubnetRequest,
    candidate: Candidate,
    measured: MeasuredSubnet,
    latencies: Mapping[str, Latency],
) -> dict[str, Any]:
    spec = request.spec
    common = describe(candidate.config, record.manifest)
    counts = {name: value for name, value in candidate.costs.items() if "@" not in name}
    return {
        **common,
        "request": request.id,
        "budget": [dict(limit) for limit in spec.budget],
        "seed": spec.seed,
        "search": {"population": spec.population, "generations": spec.generations, "scored": candidate.scored},
        "digests": {
            **common["digests"],
            "supernet": record.id,
            "predictor": record.predictor_digest,
            "tables": dict(spec.tables),
        },
        "predicted": {
            "accuracy": candidate.predicted_accuracy,
            **counts,
            "latency_ms": {device: latency.predicted_ms for device, latency in latencies.items()},
            "costs": dict(candidate.costs),  # all that limits can be on, as budgets name them
        },
        "measured": {
            **measured_part(measured),
            "latency_ms": {
                device: latency.measured_ms for device, latency in latencies.items() if latency.measured_ms is not None
            },
        },
    }


def _verify(folder: Path, subnet: Subnet, candidate: Candidate) -> None:
    """The files on disk are the subnet that was measured, and its costs are those that the budget was held against."""
    loaded = load_subnet(folder)
    side = candidate.config.resolution
    images = torch.linspace(-2, 2, 2 * 3 * side * side).reshape(2, 3, side, side)
    with torch.inference_mode():
        same = torch.equal(loaded(images), subnet(images))
    if not same:
        raise CheckpointError("the stored subnet computes something else than the one that was measured; try again")
    found = (counted_macs(loaded, side), count_params(loaded))
    expected = (macs(subnet.specs), params(subnet.specs))
    if not found == expected == (candidate.costs["macs"], candidate.costs["params"]):
        raise CheckpointError(
            f"the subnet has (MACs, parameters) {found}, its layers say {expected}; report this fault"
        )
