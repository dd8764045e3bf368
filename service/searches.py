"""Searches ready to run: the supernet's predictor and the devices' latency tables, opened once."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

from latency_tables import LatencyTable
from search import AccuracyPredictor, EvolutionarySearch, FrontSearch
from service import runs, tables
from service.domain import FrontSpec, SubnetSpec, SupernetRecord, TableRecord
from service.errors import NotFoundError
from service.storage import devices, supernets
from service.storage.artifacts import ArtifactStore
from service.storage.database import Database
from supernet.spaces import SearchSpace, get_space

_KEPT = 16


class Searches:
    """Opens searches and keeps the latest few. Safe to share between threads.

    Args:
        database: rows of supernets and tables.
        artifacts: their files.
        cache: folder for materialised runs.
    """

    def __init__(self, database: Database, artifacts: ArtifactStore, cache: Path) -> None:
        self._database = database
        self._artifacts = artifacts
        self._cache = cache
        self._kept: OrderedDict[str, EvolutionarySearch] = OrderedDict()
        self._tables: OrderedDict[str, LatencyTable] = OrderedDict()
        self._lock = threading.Lock()

    def supernet(self, supernet_id: str) -> tuple[SupernetRecord, Path]:
        """A supernet and its run folder.

        Raises:
            NotFoundError: it was deleted.
        """
        with self._database.session() as session:
            record = supernets.get(session, supernet_id)
        if record is None:
            raise NotFoundError(f"supernet {supernet_id[:12]} was deleted; register its run again")
        if not (self._cache / record.id).is_dir():  # now and then, and never while somebody waits for one that is there
            runs.forget_deleted(self._database, self._cache)
        return record, runs.materialise(self._artifacts, record, self._cache)

    def open(self, spec: SubnetSpec) -> EvolutionarySearch:
        """The search for a spec; its budget is not part of it.

        Raises:
            NotFoundError: the supernet was deleted.
            CheckpointError: a stored file was altered.
        """
        key = "/".join(
            [spec.supernet, *sorted(spec.tables.values()), str((spec.seed, spec.population, spec.generations))]
        )
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        search = self._make(spec)
        with self._lock:
            self._kept[key] = search
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return search

    def front(self, spec: FrontSpec) -> FrontSearch:
        """The search for a front; it is run once, so it is not kept.

        Raises:
            NotFoundError, CheckpointError: as `open`.
        """
        return FrontSearch(
            *self._priced(spec.supernet, spec.tables),
            metrics=[spec.cost],
            population=spec.population,
            generations=spec.generations,
            seed=spec.seed,
        )

    def table(self, record: TableRecord) -> LatencyTable:
        """A stored latency table, parsed once: of YAML that takes a second."""
        with self._lock:
            found = self._tables.get(record.id)
        if found is None:
            found = tables.load(self._artifacts, record)
            with self._lock:
                self._tables[record.id] = found
                while len(self._tables) > _KEPT:
                    self._tables.popitem(last=False)
        return found

    def _make(self, spec: SubnetSpec) -> EvolutionarySearch:
        return EvolutionarySearch(
            *self._priced(spec.supernet, spec.tables),
            population=spec.population,
            generations=spec.generations,
            seed=spec.seed,
        )

    def _priced(
        self, supernet_id: str, table_ids: Mapping[str, str]
    ) -> tuple[SearchSpace, AccuracyPredictor, dict[str, LatencyTable]]:
        record, folder = self.supernet(supernet_id)
        space = get_space(record.space).with_num_classes(record.num_classes)
        with self._database.session() as session:
            found = {device: devices.get_table(session, table_id) for device, table_id in table_ids.items()}
        gone = [device for device, table in found.items() if table is None]
        if gone:
            raise NotFoundError(f"the latency table of {', '.join(gone)} was deleted; upload it again")
        return (
            space,
            AccuracyPredictor.load(folder / "predictor", space=space),
            {device: self.table(table) for device, table in found.items() if table is not None},
        )
