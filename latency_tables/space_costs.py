"""The costs of whole populations: every layer site's cost, tabulated over the few genes that shape it.

A layer depends on its site's genes only, so a subnet's cost is a sum (or, of peak memory, the greatest) of one entry a
tensor: a product, a gather and a sum price a population at once, and the cheapest subnet of all is found without a
search (`SpaceCosts.minimum`).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from copy import copy

import numpy as np
import numpy.typing as npt

from latency_tables.costs import CostModel
from latency_tables.elimination import Factor, minimise
from supernet.arch import LayerSpec, SubnetConfig
from supernet.errors import ConfigError, TableError, one_of
from supernet.spaces import Genotypes, Kind, LayerSite, SearchSpace, Value

Floats = npt.NDArray[np.float64]


class SpaceCosts:
    """Vectorised costs of one space's subnets. Immutable; safe to share between threads.

    Args:
        space: whose subnets are priced.
        models: metric name -> cost model; their order is the order of the columns.
        within: for some kinds of dimensions, the only values that are priced; every metric of a subnet with another
            value is infinite. So a latency table that covers some resolutions is enough.

    Raises:
        ConfigError: no models, or `within` leaves a dimension without values.
        TableError: a model was made for another space, or lacks some of the layers.
    """

    def __init__(
        self,
        space: SearchSpace,
        models: Mapping[str, CostModel],
        *,
        within: Mapping[Kind, Sequence[Value]] | None = None,
    ) -> None:
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
        self.allowed = [space.indices_within(gene, within) for gene in range(len(space.dimensions))]
        layers = sorted({spec for site in space.sites for spec in _lowered(space, site, self.allowed) if spec})
        costs = np.array([model.of_each(layers) for model in models.values()], dtype=np.float64)
        column = {spec: number for number, spec in enumerate(layers)}
        self._is_peak = np.array([model.is_peak for model in models.values()])
        factors = [_tabulate(space, site, costs, column, self.allowed) for site in space.sites]
        factors += _forbidden(space, self.allowed, len(models))
        self._factors = _merge(factors, self._is_peak)
        self._choices = np.array([len(dim.choices) for dim in space.dimensions], dtype=np.uint8)

        # One flat table for all factors: entry = row offset + genotype . strides, found with one matrix product.
        # The product is of floats because BLAS has no integers; they stay far below 2**24, so they are exact.
        strides = np.zeros((len(space.dimensions), len(self._factors)), dtype=np.float32)
        offsets = []
        cells = 0
        for number, (genes, tensor) in enumerate(self._factors):
            offsets.append(cells)
            size = tensor[0].size
            cells += size
            for gene, length in zip(genes, tensor.shape[1:], strict=True):
                size //= length
                strides[gene, number] = size
        assert cells < 2**24, f"{cells} cells"
        self._strides = strides
        self._offsets = np.array(offsets, dtype=np.float32)
        self._table = np.concatenate([tensor.reshape(len(models), -1) for _, tensor in self._factors], axis=1)

    def of(self, genotypes: Genotypes, metrics: Sequence[str] | None = None) -> Floats:
        """Costs of a population.

        Args:
            genotypes: int8 matrix (n, genes); rows need not be canonical.
            metrics: which columns to compute; None: all.

        Returns:
            float64 matrix (n, metrics) in the units of the metrics' names; counts are exact; infinite for a subnet
            that is not `within`.

        Raises:
            ConfigError: the shape, the type, or an index is outside of the space; an unknown metric.
        """
        self._check(genotypes)
        index = (genotypes.astype(np.float32) @ self._strides + self._offsets).astype(np.intp)
        result = np.empty((len(genotypes), len(self.metrics) if metrics is None else len(metrics)))
        for number, metric in enumerate(self.metrics if metrics is None else metrics):
            column = self._column(metric)
            cells = self._table[column].take(index)
            if self._is_peak[column]:
                cells.max(axis=1, out=result[:, number])
            else:
                cells.sum(axis=1, out=result[:, number])
        return result

    def with_metrics(self, other: SpaceCosts) -> SpaceCosts:
        """These costs and those of `other`, which is about the same subnets.

        Raises:
            ConfigError: it is about another space, or other values `within`.
        """
        if self.space != other.space or self.allowed != other.allowed:
            raise ConfigError(f"costs of {other.space.name!r} cannot be joined with those of {self.space.name!r}")
        joined = copy(self)
        joined.metrics = self.metrics + other.metrics
        joined._is_peak = np.concatenate([self._is_peak, other._is_peak])
        joined._table = np.concatenate([self._table, other._table])
        joined._factors = [
            (genes, np.concatenate([one, two]))
            for (genes, one), (_, two) in zip(self._factors, other._factors, strict=True)
        ]
        return joined

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
        column = self._column(metric)
        factors: list[Factor] = [(genes, tensor[column]) for genes, tensor in self._factors]
        combine = np.maximum if self._is_peak[column] else np.add
        best = minimise(factors, [len(dim.choices) for dim in self.space.dimensions], combine)
        genotype = self.space.canonical_genotypes(np.array([best], dtype=np.int8))
        return float(self.of(genotype, [metric])[0, 0]), genotype[0]

    def of_largest(self, metric: str) -> float:
        """The metric of the largest subnet `within`: what a relative limit is a share of."""
        largest = np.array([[allowed[-1] for allowed in self.allowed]], dtype=np.int8)
        return float(self.of(largest, [metric])[0, 0])

    def _column(self, metric: str) -> int:
        if metric not in self.metrics:
            raise ConfigError(one_of("metric", metric, self.metrics))
        return self.metrics.index(metric)

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


def _lowered(space: SearchSpace, site: LayerSite, indices: Sequence[Sequence[int]]) -> list[LayerSpec | None]:
    """The site's layer for every combination of these choices; None where the depth leaves it out."""
    axes = [[space.dimensions[gene].choices[index] for index in indices[gene]] for gene in site.genes]
    return [site.lower(*values) for values in itertools.product(*axes)]


def _tabulate(
    space: SearchSpace,
    site: LayerSite,
    costs: Floats,
    column: Mapping[LayerSpec, int],
    allowed: Sequence[Sequence[int]],
) -> Factor:
    """The site's cost, (metrics, choices of its genes in ascending order of gene).

    0 where the site has no layer, infinite where it has one that is not allowed.
    """
    specs = _lowered(space, site, allowed)
    cells = np.zeros((len(costs), len(specs)))
    for number, spec in enumerate(specs):
        if spec is not None:
            cells[:, number] = costs[:, column[spec]]
    every = [range(len(dim.choices)) for dim in space.dimensions]
    outside = [0.0 if spec is None else np.inf for spec in _lowered(space, site, every)]
    shape = [len(every[gene]) for gene in site.genes]
    tensor = np.tile(np.reshape(outside, shape), (len(costs), *([1] * len(shape))))
    inside = np.ix_(range(len(costs)), *(allowed[gene] for gene in site.genes))
    tensor[inside] = cells.reshape(tensor[inside].shape)
    order = np.argsort(site.genes, kind="stable")
    genes = tuple(site.genes[i] for i in order)
    return genes, tensor.transpose(0, *(1 + order))


def _forbidden(space: SearchSpace, allowed: Sequence[Sequence[int]], metrics: int) -> list[Factor]:
    """Infinite costs of the values that genes which always matter may not have."""
    found: list[Factor] = []
    for gene, dim in enumerate(space.dimensions):
        if dim.needs_depth is None and len(allowed[gene]) < len(dim.choices):
            tensor = np.full((metrics, len(dim.choices)), np.inf)
            tensor[:, allowed[gene]] = 0
            found.append(((gene,), tensor))
    return found


def _merge(factors: list[Factor], is_peak: npt.NDArray[np.bool_]) -> list[Factor]:
    """Fewer factors of the same value: one whose genes are all among another's is combined with that one."""
    merged: list[Factor] = []
    for genes, tensor in sorted(factors, key=lambda factor: -len(factor[0])):
        for number, (wider, into) in enumerate(merged):
            if set(genes) <= set(wider):
                shape = [len(tensor)] + [n if g in genes else 1 for g, n in zip(wider, into.shape[1:], strict=True)]
                part = tensor.reshape(shape)
                peak = is_peak.reshape(-1, *([1] * len(wider)))
                merged[number] = (wider, np.where(peak, np.maximum(into, part), into + part))
                break
        else:
            merged.append((genes, tensor))
    return merged
