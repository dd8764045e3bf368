"""The costs of whole populations: every layer site's cost, tabulated over the few genes that shape it.

A layer depends on its site's genes only, so a subnet's cost is a sum of one entry a tensor: a product, a gather and a
sum price a population at once, and the cheapest subnet of all is found without a search (`SpaceCosts.minimum`).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from latency_tables.costs import CostModel
from latency_tables.elimination import Factor, minimise
from supernet.arch import LayerSpec, SubnetConfig
from supernet.errors import ConfigError, TableError, one_of
from supernet.spaces import Genotypes, LayerSite, SearchSpace

Floats = npt.NDArray[np.float64]


class SpaceCosts:
    """Vectorised costs of one space's subnets. Immutable; safe to share between threads.

    Args:
        space: whose subnets are priced.
        models: metric name -> cost model; their order is the order of the columns.

    Raises:
        ConfigError: no models.
        TableError: a model was made for another space, or lacks some of this one's layers.
    """

    def __init__(self, space: SearchSpace, models: Mapping[str, CostModel]) -> None:
        if not models:
            raise ConfigError("no cost model was given; name at least one metric, for example {'macs': MACS}")
        for metric, model in models.items():
            if model.space not in (None, space.name):
                raise TableError(
                    f"the costs {metric!r} were made for space {model.space!r}, not for {space.name!r}; "
                    f"use a latency table of {space.name!r}"
                )
        self.space = space
        self.metrics = tuple(models)
        layers = space.all_layers()
        costs = np.array([model.of_each(layers) for model in models.values()], dtype=np.float64)
        column = {spec: number for number, spec in enumerate(layers)}
        self._factors = _merge([_tabulate(space, site, costs, column) for site in space.sites])
        self._choices = np.array([len(dim.choices) for dim in space.dimensions], dtype=np.uint8)

        # One flat table for all factors: entry = row offset + genotype . strides, found with one matrix product.
        # The product is of floats because BLAS has no integers; they stay far below 2**53, so they are exact.
        strides = np.zeros((len(space.dimensions), len(self._factors)))
        offsets = []
        cells = 0
        for number, (genes, tensor) in enumerate(self._factors):
            offsets.append(cells)
            size = tensor[0].size
            cells += size
            for gene, length in zip(genes, tensor.shape[1:], strict=True):
                size //= length
                strides[gene, number] = size
        self._strides = strides
        self._offsets = np.array(offsets, dtype=np.float64)
        self._table = np.concatenate([tensor.reshape(len(models), -1) for _, tensor in self._factors], axis=1)

    def of(self, genotypes: Genotypes) -> Floats:
        """Costs of a population.

        Args:
            genotypes: int8 matrix (n, genes); rows need not be canonical.

        Returns:
            float64 matrix (n, metrics) in the units of the metrics' names; counts are exact.

        Raises:
            ConfigError: the shape, the type, or an index is outside of the space.
        """
        self._check(genotypes)
        index = (genotypes.astype(np.float64) @ self._strides + self._offsets).astype(np.intp)
        total: Floats = self._table.take(index.T, axis=1).sum(axis=1)
        return total.T

    def of_config(self, config: SubnetConfig) -> dict[str, float]:
        """Costs of one subnet by metric."""
        return dict(zip(self.metrics, self.of(self.space.encode([config]))[0].tolist(), strict=True))

    def minimum(self, metric: str) -> tuple[float, Genotypes]:
        """The exactly cheapest subnet by one metric.

        Returns:
            Its cost, and its canonical genotype, int8 (genes,); among equals the one with lower indices is preferred.

        Raises:
            ConfigError: the metric is not among `metrics`.
        """
        if metric not in self.metrics:
            raise ConfigError(one_of("metric", metric, self.metrics))
        column = self.metrics.index(metric)
        factors: list[Factor] = [(genes, tensor[column]) for genes, tensor in self._factors]
        best = minimise(factors, [len(dim.choices) for dim in self.space.dimensions])
        genotype = self.space.canonical_genotypes(np.array([best], dtype=np.int8))
        return float(self.of(genotype)[0, column]), genotype[0]

    def _check(self, genotypes: Genotypes) -> None:
        genes = len(self._choices)
        if genotypes.dtype != np.int8 or genotypes.ndim != 2 or genotypes.shape[1] != genes:
            raise ConfigError(
                f"genotypes are {genotypes.dtype} {genotypes.shape}; space {self.space.name!r} needs int8 (n, {genes})"
            )
        wrong = genotypes.view(np.uint8) >= self._choices  # seen as uint8, a negative index is too great
        if wrong.any():
            row, gene = (int(place[0]) for place in np.nonzero(wrong))
            raise ConfigError(
                f"genotype {row} has index {genotypes[row, gene]} for {self.space.dimensions[gene].name}; "
                f"allowed: 0 to {self._choices[gene] - 1}"
            )


def _tabulate(space: SearchSpace, site: LayerSite, costs: Floats, column: Mapping[LayerSpec, int]) -> Factor:
    """The site's cost, (metrics, choices of its genes in ascending order of gene); 0 where it has no layer."""
    axes = [space.dimensions[gene].choices for gene in site.genes]
    specs = [site.lower(*values) for values in itertools.product(*axes)]
    cells = np.zeros((len(costs), len(specs)))
    for number, spec in enumerate(specs):
        if spec is not None:
            cells[:, number] = costs[:, column[spec]]
    tensor = cells.reshape(len(costs), *map(len, axes))
    order = np.argsort(site.genes, kind="stable")
    genes = tuple(site.genes[i] for i in order)
    return genes, tensor.transpose(0, *(1 + order))


def _merge(factors: list[Factor]) -> list[Factor]:
    """Fewer factors of the same sum: one whose genes are all among another's is added into that one."""
    merged: list[Factor] = []
    for genes, tensor in sorted(factors, key=lambda factor: -len(factor[0])):
        for number, (wider, into) in enumerate(merged):
            if set(genes) <= set(wider):
                shape = [len(tensor)] + [n if g in genes else 1 for g, n in zip(wider, into.shape[1:], strict=True)]
                merged[number] = (wider, into + tensor.reshape(shape))
                break
        else:
            merged.append((genes, tensor))
    return merged
