"""Which subnets a step trains: a function of the seed and the step, so the same in every process and after a resume."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from supernet.arch import SubnetConfig
from supernet.spaces import SearchSpace
from supernet.training.schedule import Stage
from supernet.training.seeds import numpy_generator


def draw_subnets(space: SearchSpace, stage: Stage, seed: int, stage_number: int, step: int) -> list[SubnetConfig]:
    """The subnets of one step, in the order in which they train.

    Args:
        space: the search space.
        stage: how many, from what, by which rule.
        seed: of the run.
        stage_number: position in the training: the stage.
        step: and the step within it.

    Returns:
        `stage.subnets_per_step` subnets: a sandwich starts with the largest and ends with the smallest.
    """
    drawn = [
        space.sample_genotypes(
            numpy_generator(seed, "subnets", stage_number, step, index),
            1,
            within=stage.choices,
            greatest=stage.greatest,
        )
        for index in range(stage.subnets_per_step - (2 if stage.sampling == "sandwich" else 0))
    ]
    if stage.sampling == "sandwich":
        between = [config for genotypes in drawn for config in space.decode(genotypes)]
        return [largest_of(space, stage), *between, smallest_of(space, stage)]
    genotypes = np.concatenate(drawn)
    for gene, dim in enumerate(space.dimensions):
        if dim.kind == "resolution":
            genotypes[:, gene] = genotypes[0, gene]
    return space.decode(genotypes)


def largest_of(space: SearchSpace, stage: Stage) -> SubnetConfig:
    """The subnet with the greatest value of every gene that a stage draws from."""
    return _extreme(space, stage, max)


def smallest_of(space: SearchSpace, stage: Stage) -> SubnetConfig:
    """The subnet with the least value of every gene that a stage draws from."""
    return _extreme(space, stage, min)


def _extreme(space: SearchSpace, stage: Stage, pick: Callable[[Iterable[int]], int]) -> SubnetConfig:
    row = [pick(space.indices_within(gene, stage.choices, stage.greatest)) for gene in range(len(space.dimensions))]
    return space.decode(np.array([row], dtype=np.int8))[0]
