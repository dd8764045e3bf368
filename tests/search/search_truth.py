"""A made-up truth for searches and predictors: smooth, with diminishing returns and interactions, cheap to compute."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt

from latency_tables import LatencyTable, Provenance, Row, macs, params
from supernet.spaces import Genotypes, SearchSpace


def true_accuracy(space: SearchSpace, genotypes: Genotypes) -> npt.NDArray[np.float64]:
    """Accuracy in about [0.5, 0.85]: every active gene adds its weight, more pixels make large kernels worth more."""
    rng = np.random.default_rng(20)
    active = space.active_genes(genotypes)
    counts = np.array([len(dim.choices) for dim in space.dimensions])
    level = (genotypes + 1) / counts * active
    weight = rng.uniform(0.2, 1.0, size=len(counts))
    capacity = level**0.7 @ weight / weight.sum()
    kernels = np.array([dim.kind == "kernel" for dim in space.dimensions])
    resolution = np.array([dim.kind == "resolution" for dim in space.dimensions])
    reach = level[:, kernels] @ rng.uniform(0, 1, size=kernels.sum()) / max(kernels.sum(), 1)
    pixels = level[:, resolution].mean(axis=1)
    accuracy: npt.NDArray[np.float64] = (
        0.3 + 0.55 * (1 - np.exp(-2.5 * capacity)) + 0.12 * reach * pixels + 0.05 * pixels
    )
    return accuracy


def measured_accuracy(rng: np.random.Generator, truth: npt.NDArray[np.float64], images: int) -> npt.NDArray[np.float64]:
    """What an evaluation on `images` images would report."""
    return rng.binomial(images, truth) / images


class Oracle:
    """A predictor that knows the truth; it also records every row that it is asked about."""

    def __init__(self, space: SearchSpace) -> None:
        self.space = space
        self.asked: list[bytes] = []

    def rank_genotypes(self, genotypes: Genotypes) -> npt.NDArray[np.floating[Any]]:
        self.asked += [row.tobytes() for row in genotypes]
        return true_accuracy(self.space, genotypes)

    def predict_genotypes(self, genotypes: Genotypes) -> npt.NDArray[np.floating[Any]]:
        return true_accuracy(self.space, genotypes)


def all_genotypes(space: SearchSpace) -> Genotypes:
    rows = list(itertools.product(*(range(len(dim.choices)) for dim in space.dimensions)))
    return np.unique(space.canonical_genotypes(np.array(rows, dtype=np.int8)), axis=0)


def formula_table(space: SearchSpace, device: str = "phone") -> LatencyTable:
    """Latency that weighs parameters more than MACs do, so that the two limits are not one."""
    rows = {
        spec.key: Row(0.001 + macs([spec]) * 1e-7 + params([spec]) * 3e-6, 0.0001, 9) for spec in space.all_layers()
    }
    provenance = Provenance(
        {"cpu": "none"}, "formula", {"formula": "1"}, "fp32", "channels_last", 1, 1, "2025-01-01", 9, 1
    )
    return LatencyTable(device, space.name, space.num_classes, rows, provenance)
