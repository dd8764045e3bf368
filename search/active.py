"""Where to measure next: subnets near the predicted front of accuracy and MACs.

A predictor that learns from random subnets alone has seen few of the kind that a search returns, and promises too much
for them: 1.0 points with 100 evaluations, 0.5 with 200 and 400, against 0.1 where half are measured near the front.
What a search then finds is better by 0.1, -0.1 and 0.2 points, less than the range over seeds
(benchmarks/active_sampling.py); so this is for those who want to believe the predictions, not the default.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from latency_tables import MACS, SpaceCosts
from search.predictors.fitting import fit_predictor
from supernet.arch import SubnetConfig, Value
from supernet.spaces import Genotypes, Kind, SearchSpace

_BANDS = 12  # of MACs, each as likely as the others for a random subnet
_POPULATION = 2048
_GENERATIONS = 10
_PARENTS = 10  # of each band
_MUTATED = 0.05  # share of genes


def propose_near_front(
    space: SearchSpace,
    configs: Sequence[SubnetConfig],
    accuracies: Sequence[float],
    *,
    count: int,
    seed: int,
    within: Mapping[Kind, Sequence[Value]] | None = None,
) -> list[SubnetConfig]:
    """Fit a predictor, and evolve the best subnets of every band of MACs by it.

    Args:
        space: the search space.
        configs: measured subnets, n; none of them is proposed.
        accuracies: theirs, (n,) in [0, 1].
        count: how many to propose; the space must have as many more.
        seed: of the evolution; equal arguments give equal proposals.
        within: for some kinds, the values that a subnet may have; None: all of the space.

    Returns:
        Different subnets, `count` of them, about as many of each band.

    Raises:
        ConfigError: as `fit_predictor`.
    """
    predictor = fit_predictor(space, configs, accuracies, kind="pooled", seed=seed)
    costs, rng = SpaceCosts(space, {"macs": MACS}), np.random.default_rng(seed)
    rows = space.sample_genotypes(rng, _POPULATION, within=within)
    borders = np.quantile(costs.of(rows)[:, 0], np.linspace(0, 1, _BANDS + 1)[1:-1])

    def best(rows: Genotypes) -> list[Genotypes]:
        """The rows of each band, best first."""
        bands = np.searchsorted(borders, costs.of(rows)[:, 0])
        order = np.argsort(-predictor.rank_genotypes(rows), kind="stable")
        return [rows[order[bands[order] == band]] for band in range(_BANDS)]

    for _ in range(_GENERATIONS):
        parents = np.concatenate([band[:_PARENTS] for band in best(rows)])
        mothers, mates = (parents[rng.integers(len(parents), size=_POPULATION)] for _ in range(2))
        children = np.where(rng.random(mothers.shape) < 0.5, mothers, mates)
        changed = space.sample_genotypes(rng, _POPULATION, within=within)
        children = space.canonical_genotypes(np.where(rng.random(mothers.shape) < _MUTATED, changed, children))
        rows = np.unique(np.concatenate([parents, children]), axis=0)
    known = {row.tobytes() for row in space.encode(configs)}
    chosen: dict[bytes, Genotypes] = {}
    bands = [iter(band) for band in best(rows)]
    while bands and len(chosen) < count:
        for band in bands[:]:
            row = next((row for row in band if row.tobytes() not in known), None)
            if row is None:
                bands.remove(band)
            elif len(chosen) < count:
                chosen[row.tobytes()] = row
    while len(chosen) < count:  # a space that is nearly all measured
        row = space.sample_genotypes(rng, 1, within=within)[0]
        if row.tobytes() not in known:
            chosen[row.tobytes()] = row
    return space.decode(np.stack(list(chosen.values())))
