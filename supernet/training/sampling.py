"""Which subnets a step trains: a function of the seed and the step, so the same in every process and after a resume."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from supernet.arch import SubnetConfig, Value
from supernet.spaces import Genotypes, Kind, SearchSpace
from supernet.training.schedule import Stage
from supernet.training.seeds import numpy_generator

Choices = Mapping[Kind, Sequence[Value]]


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
            numpy_generator(seed, "subnets", stage_number, step, index), 1, within=dict(stage.choices)
        )
        for index in range(stage.subnets_per_step - (2 if stage.sampling == "sandwich" else 0))
    ]
    if stage.sampling == "sandwich":
        return space.decode(
            np.concatenate([_extreme(space, stage.choices, max), *drawn, _extreme(space, stage.choices, min)])
        )
    genotypes = np.concatenate(drawn)
    for gene, dim in enumerate(space.dimensions):
        if dim.kind == "resolution":
            genotypes[:, gene] = genotypes[0, gene]
    return space.decode(genotypes)


def largest_within(space: SearchSpace, choices: Choices) -> SubnetConfig:
    """The subnet with the greatest allowed value of every gene."""
    return space.decode(_extreme(space, choices, max))[0]


def smallest_within(space: SearchSpace, choices: Choices) -> SubnetConfig:
    """The subnet with the least allowed value of every gene."""
    return space.decode(_extreme(space, choices, min))[0]


def _extreme(space: SearchSpace, choices: Choices, pick: Callable[[Iterable[Value]], Value]) -> Genotypes:
    row = np.zeros((1, len(space.dimensions)), dtype=np.int8)
    for gene, dim in enumerate(space.dimensions):
        allowed = choices.get(dim.kind, dim.choices)
        row[0, gene] = dim.choices.index(pick(v for v in dim.choices if v in allowed))
    return space.canonical_genotypes(row)
