"""The search of the authors' tutorial, fed with local files, so that it never downloads, asks a person or hangs.

Its finder, its accuracy predictor, its latency table and its table of FLOPs run as they are. Only what surrounds them
is replaced: downloads by local files, `yaml.load` by one with a loader, progress bars and prints by nothing, `input()`
by an error, and endless sampling by an error after many rejections in a row. The finder of `ofa.nas` cannot be used:
its predictor class has no bias in its last layer, and the published weights have one.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager, redirect_stdout
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import yaml

from supernet.arch import SubnetConfig
from supernet.spaces import SearchSpace
from tests.reference import config_of, reference

REJECTIONS = 100_000
"""Samples over the budget in a row after which the search counts as endless: where one subnet in 600 meets the budget,
as at 15 ms on note10, chance does that once in 10^72 times."""
Sample = dict[str, Any]
"""As the reference has it: lists `ks`, `e`, `d`, and `r` with one resolution."""


class RefusedError(Exception):
    """The reference would wait for a person, or sample without end."""


@dataclass(frozen=True)
class ReferenceResult:
    """What a search of the reference found.

    Attributes:
        sample: the best architecture.
        accuracy: as its predictor said, in [0, 1].
        cost: as its table said, ms or millions of FLOPs.
        scored: number of times that it asked its predictor.
        populations: all that it asked about.
    """

    sample: Sample
    accuracy: float
    cost: float
    scored: int
    populations: list[list[Sample]] = field(repr=False)

    def config(self, space: SearchSpace) -> SubnetConfig:
        """The best architecture as a config of ours."""
        return config_of(space, self.sample, self.sample["r"][0])

    def unique(self) -> int:
        """Number of different subnets among those scored; genes of absent blocks do not tell two apart."""
        return len({_canonical(sample) for population in self.populations for sample in population})


def sample_of(config: SubnetConfig) -> Sample:
    """A config of ours as the reference has it."""
    return {
        "wid": None,
        "ks": list(config.kernels),
        "e": list(config.expands),
        "d": list(config.depths),
        "r": [config.resolution],
    }


def accuracy_predictor(path: Path) -> Any:
    """The reference's predictor with the published weights."""
    predictor = reference("tutorial.accuracy_predictor").AccuracyPredictor(pretrained=False, device="cpu")
    predictor.model.load_state_dict(torch.load(path, weights_only=True, map_location="cpu"))
    return predictor


def latency_table(folder: Path) -> Any:
    """The reference's latency table of a folder of `RESOLUTION_lookup_table.yaml`."""
    module = reference("tutorial.latency_table")

    def local(url: str, *_: Any, **__: Any) -> str:
        return str(folder / url.rpartition("/")[2])

    loader = SimpleNamespace(load=yaml.safe_load)
    with patch.object(module, "download_url", local), patch.object(module, "yaml", loader), redirect_stdout(StringIO()):
        return module.LatencyTable()


def flops_table() -> Any:
    """The reference's table of millions of FLOPs, which it builds with `thop`: a forward pass of every block."""
    with tempfile.TemporaryDirectory() as folder, chdir(folder), redirect_stdout(StringIO()):  # it saves a file
        return reference("tutorial.flops_table").FLOPsTable(device="cpu", batch_size=1)


def finder(constraint: str, limit: float, table: Any, predictor: Any, *, checked: bool = True) -> SearchOfReference:
    """The reference's evolution finder with its published settings, ready to search.

    Args:
        constraint: ``note10`` or ``flops``.
        limit: ms or millions of FLOPs.
        table: the reference's table of that constraint.
        predictor: the reference's.
        checked: whether it checks that the limit is in the range that it was made for.

    Raises:
        RefusedError: the limit is not in that range; the reference would ask for another on the terminal.
    """
    module = reference("tutorial.evolution_finder")
    guard, recorder = _Guard(table.predict_efficiency, limit), _Recorder(predictor.predict_accuracy)
    allowed = module.EvolutionFinder.valid_constraint_range[constraint]
    with _no_terminal():
        made = module.EvolutionFinder(
            constraint,
            limit if checked else allowed[1],
            guard,
            recorder,
            population_size=100,
            max_time_budget=500,
            parent_ratio=0.25,
            mutation_ratio=0.5,
            mutate_prob=0.1,
        )
    made.set_efficiency_constraint(limit)
    return SearchOfReference(made, recorder)


class SearchOfReference:
    """A finder of the reference, made by `finder`; to run once."""

    def __init__(self, made: Any, recorder: _Recorder) -> None:
        self._finder = made
        self._recorder = recorder

    def run(self, seed: int) -> ReferenceResult:
        """Search.

        Args:
            seed: of the global generators, which it draws from; they are put back afterwards.

        Raises:
            RefusedError: no sample met the budget for `REJECTIONS` in a row.
        """
        with _seeded(seed), _no_terminal():
            _, (accuracy, sample, cost) = self._finder.run_evolution_search()
        populations = self._recorder.populations
        return ReferenceResult(sample, accuracy, cost, sum(map(len, populations)), populations)


class _Guard:
    """An efficiency predictor that counts how many answers in a row were over the limit."""

    def __init__(self, predict: Callable[[Sample], float], limit: float) -> None:
        self._predict = predict
        self._limit = limit
        self._rejected = 0

    def predict_efficiency(self, sample: Sample) -> float:
        value = self._predict(sample)
        self._rejected = self._rejected + 1 if value > self._limit else 0
        if self._rejected == REJECTIONS:
            raise RefusedError(f"samples without end: {REJECTIONS:,} in a row were over {self._limit:g}")
        return value


class _Recorder:
    """An accuracy predictor that keeps what it was asked about; the finder changes none of it afterwards."""

    def __init__(self, predict: Callable[[list[Sample]], torch.Tensor]) -> None:
        self._predict = predict
        self.populations: list[list[Sample]] = []

    def predict_accuracy(self, population: list[Sample]) -> torch.Tensor:
        self.populations.append(population)
        return self._predict(population)


@contextmanager
def _no_terminal() -> Iterator[None]:
    """Nothing is printed, and a question is an error."""

    def no_answer(*_: Any) -> str:
        raise RefusedError("asks for another limit on the terminal")

    module = reference("tutorial.evolution_finder")
    with (
        patch("builtins.input", no_answer),
        patch.object(module, "tqdm", lambda rows, **_: rows),
        redirect_stdout(StringIO()),
    ):
        yield


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002 (the reference draws from it)
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(state)
        np.random.set_state(numpy_state)  # noqa: NPY002


def _canonical(sample: Sample) -> tuple[Any, ...]:
    kept = [4 * stage + block for stage, depth in enumerate(sample["d"]) for block in range(depth)]
    kernels, expands = sample["ks"], sample["e"]
    return (*sample["r"], *sample["d"], *[kernels[i] for i in kept], *[expands[i] for i in kept])
