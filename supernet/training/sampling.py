"""Which subnets a step trains: a function of the seed and the step, so the same in every process and after a resume."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np
import numpy.typing as npt

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
    between = stage.subnets_per_step - (2 if stage.sampling == "sandwich" else 0)
    drawn = [
        space.sample_genotypes(
            numpy_generator(seed, "subnets", stage_number, step, index),
            1,
            within=stage.choices,
            greatest=stage.greatest,
        )
        for index in range(between)
    ]
    if stage.sampling == "sandwich":
        configs = [config for genotypes in drawn for config in space.decode(genotypes)]
        largest, smallest = largest_of(space, stage), smallest_of(space, stage)
        if stage.balanced_resolutions and configs:
            among, shares = _balancing(space, stage, largest.resolution, smallest.resolution)
            rng = numpy_generator(seed, "resolutions", stage_number, step)
            chosen = rng.choice(among, size=between, p=shares).tolist()
            configs = [replace(c, resolution=resolution) for c, resolution in zip(configs, chosen, strict=True)]
        return [largest, *configs, smallest]
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


def _balancing(
    space: SearchSpace, stage: Stage, largest: int, smallest: int
) -> tuple[list[int], npt.NDArray[np.float64]]:
    """Resolutions, and the share of drawn subnets at each.

    With them every resolution has an equal part in a step, to which the largest and the smallest subnet, always at
    their own, belong. But these two are no substitute for others at their resolution: of the drawn ones it has at
    least half of an equal part.
    """
    gene = next(number for number, dim in enumerate(space.dimensions) if dim.kind == "resolution")
    choices = space.dimensions[gene].choices
    among = [int(choices[i]) for i in space.indices_within(gene, stage.choices, stage.greatest)]
    missing = np.full(len(among), stage.subnets_per_step / len(among))
    for fixed in (largest, smallest):
        missing[among.index(fixed)] -= 1
    missing = missing.clip(min=0.5 * (stage.subnets_per_step - 2) / len(among))
    return among, missing / missing.sum()


def _extreme(space: SearchSpace, stage: Stage, pick: Callable[[Iterable[int]], int]) -> SubnetConfig:
    row = [pick(space.indices_within(gene, stage.choices, stage.greatest)) for gene in range(len(space.dimensions))]
    return space.decode(np.array([row], dtype=np.int8))[0]
