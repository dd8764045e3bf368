"""What jobs do: which work belongs to which kind of job. Runs in the child process."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from sqlalchemy.orm import Session

from pruning import program_as_onnx
from service import exports, fronts, pruning_work, subnet_work
from service.answers import Asked, Kind
from service.bench import Bench, Progress
from service.domain import FrontRecord, FrontSpec, SubnetRecord, utc_now
from service.errors import NotFoundError
from service.folder import temporary_folder
from service.pruning_inputs import SUBNET_FILES
from service.pruning_runs import RUNS
from service.requests import SUBNETS
from service.settings import Settings
from service.storage import fronts as front_rows
from service.storage import subnets, supernets
from service.storage.artifacts import stored_file
from supernet.errors import ConfigError, ExportError, one_of
from supernet.export import SUFFIXES, export_network, subnet_metadata
from supernet.subnet_file import load_centre_share, load_class_names, load_normalisation, load_subnet

_KINDS = (SUBNETS.job, RUNS.job, exports.EXPORT_SUBNET, fronts.FIND_FRONT)
Request = TypeVar("Request", bound=Asked)


class Workshop:
    """Does jobs, one after another.

    Args:
        settings: of the service.
    """

    def __init__(self, settings: Settings) -> None:
        self._bench = Bench(settings)

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
            case SUBNETS.job:
                return self._answer(SUBNETS, payload["request"], subnet_work.make, progress, executor)
            case RUNS.job:
                return self._answer(RUNS, payload["request"], pruning_work.prune, progress, executor)
            case exports.EXPORT_SUBNET:
                return self._export(payload["subnet"], payload["formats"], progress, executor)
            case fronts.FIND_FRONT:
                return self._find_front(FrontSpec.from_dict(payload["spec"]), progress, executor)
        raise ConfigError(one_of("kind of job", kind, list(_KINDS)))

    def _answer(
        self,
        kind: Kind[Request],
        request_id: str,
        make: Callable[[Bench, Request, Progress, str], str],
        progress: Progress,
        executor: str,
    ) -> dict[str, Any]:
        """Make the network of a request, where it is not there, and the formats that it is wanted in."""
        with self._bench.database.session() as session:
            request = kind.get(session, request_id)
        if request is None:
            raise NotFoundError(f"the {kind.name} {request_id[:12]} is gone; send it again")
        subnet_id = request.subnet_id  # there already where a host died before it could say so
        if subnet_id is None:
            subnet_id = make(self._bench, request, progress, executor)
        with self._bench.database.session() as session:  # now, since formats may have been asked for meanwhile
            formats = subnets.formats_wanted(session, request_id)
        if formats:
            self._export(subnet_id, formats, lambda stage, done: progress(stage, 0.95 + 0.05 * done), executor)
        return {"subnet": subnet_id}

    def _export(self, subnet_id: str, formats: Sequence[str], progress: Progress, executor: str) -> dict[str, Any]:
        """Make the formats that a subnet lacks, from its stored files; each has a file once, and for good."""
        with self._bench.database.session() as session:
            record = subnets.get_subnet(session, subnet_id)
        if record is None:
            raise NotFoundError(f"subnet {subnet_id[:12]} was deleted; ask for it again")
        if record.pruned:
            return self._export_pruned(record, formats, progress, executor)
        made = {}
        with temporary_folder(self._bench.settings.cache_dir, "subnet") as folder:
            for format, name in SUBNET_FILES.items():
                self._bench.artifacts.copy_to(record.files[format].sha256, folder / name)
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
                made[format] = self._add_file(subnet_id, format, path, executor)
        return {"subnet": subnet_id, "files": made}

    def _export_pruned(
        self, record: SubnetRecord, formats: Sequence[str], progress: Progress, executor: str
    ) -> dict[str, Any]:
        """A pruned network has its program already; ONNX is all that it may lack."""
        made = {}
        with temporary_folder(self._bench.settings.cache_dir, "subnet") as folder:
            for format in exports.lacking(record, formats):
                progress(f"making {format}", 0.0)
                self._bench.artifacts.copy_to(record.files["pt2"].sha256, folder / "model.pt2")
                side, path = record.card["resolution"], folder / "model.onnx"
                try:
                    program_as_onnx(folder / "model.pt2", path, torch.zeros(2, 3, side, side))
                except ExportError as error:  # without this host's folder
                    raise ExportError(str(error).replace(f"{folder}/", "")) from error
                made[format] = self._add_file(record.id, format, path, executor)
        return {"subnet": record.id, "files": made}

    def _add_file(self, subnet_id: str, format: str, path: Path, executor: str) -> str:
        """Store a network's file in one more format; returns its digest."""
        file = stored_file(path, name=path.name)
        insert = partial(subnets.add_file, subnet_id=subnet_id, format=format, file=file)
        self._bench.store(path.parent, {format: file}, executor, insert)
        return file.sha256

    def _find_front(self, spec: FrontSpec, progress: Progress, executor: str) -> dict[str, Any]:
        progress("opening the predictor", 0.02)
        search = self._bench.searches.front(spec)

        def searching(done: int, total: int) -> None:
            if done % 10 == 0:
                progress("searching", 0.05 + 0.9 * done / total)

        found = search.run(searching)
        with temporary_folder(self._bench.settings.cache_dir, "subnet") as folder:
            found.save(folder / "front.json")
            content = stored_file(folder / "front.json", name="front.json")
            record = FrontRecord(spec.digest, spec, content, utc_now())

            def insert(session: Session) -> bool:
                if supernets.identify(session, spec.supernet) is None:
                    raise NotFoundError(f"supernet {spec.supernet[:12]} was deleted; register its run again")
                return front_rows.add(session, record)

            self._bench.store(folder, {"front": content}, executor, insert)
        return {"front": spec.digest, "subnets": len(found)}
