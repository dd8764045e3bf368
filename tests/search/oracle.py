"""A made-up truth for searches and predictors: smooth, with diminishing returns and interactions, cheap to compute."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

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
    reach = level[:, kernels] @ rng.uniform(0, 1, size=kernels.sum()) / kernels.sum()
    pixels = level[:, resolution].mean(axis=1)
    accuracy: npt.NDArray[np.float64] = (
        0.3 + 0.55 * (1 - np.exp(-2.5 * capacity)) + 0.12 * reach * pixels + 0.05 * pixels
    )
    return accuracy


def measured_accuracy(rng: np.random.Generator, truth: npt.NDArray[np.float64], images: int) -> npt.NDArray[np.float64]:
    """What an evaluation on `images` images would report."""
    return rng.binomial(images, truth) / images
