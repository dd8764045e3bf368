"""Genotypes -> what a predictor reads: one input a choice of a gene, all zero for a gene that does not matter.

Order of the features: kernels, expand ratios, widths, depths, resolution; within a kind as in the genotype; within a
gene its choices, ascending. A depth gene has no features where the genes that it switches on tell its value (they are
all zero below it), that is, where each of its choices switches on at least one gene more than the choice before.
The published predictor of MobileNetV3 orders kernels, expand ratios and resolution the same way.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from supernet.spaces import Genotypes, Kind, SearchSpace

Features = npt.NDArray[np.float32]
_ORDER: tuple[Kind, ...] = ("kernel", "expand", "width", "depth", "resolution")


@dataclass(frozen=True)
class GenotypeEncoder:
    """The features of one space. Whole matrices at once; no loop over genes or rows."""

    space: SearchSpace

    @cached_property
    def names(self) -> tuple[str, ...]:
        """One name a feature: ``kernels[3]=5``."""
        dims = self.space.dimensions
        return tuple(
            f"{dims[gene].name}={dims[gene].choices[index]}"
            for gene, index in zip(self.gene_of_feature, self.index_of_feature, strict=True)
        )

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the names; two encoders with equal digests read genotypes the same way."""
        return hashlib.sha256("\n".join(self.names).encode()).hexdigest()

    @cached_property
    def choices(self) -> Features:
        """Number of choices of each gene, float32 (genes,)."""
        return np.array([len(dim.choices) for dim in self.space.dimensions], dtype=np.float32)

    def active(self, genotypes: Genotypes) -> npt.NDArray[np.bool_]:
        """Which genes matter, (n, genes) bool; equal to `SearchSpace.active_genes`, without its loop over genes."""
        result: npt.NDArray[np.bool_] = genotypes[:, self._depth_gene] >= self._least_index
        return result

    def canonical(self, genotypes: Genotypes) -> Genotypes:
        """Inactive genes set to 0, (n, genes) int8; equal to `SearchSpace.canonical_genotypes`."""
        return genotypes * self.active(genotypes)

    def features(self, genotypes: Genotypes) -> Features:
        """One-hot features.

        Args:
            genotypes: int8 (n, genes), canonical or not.

        Returns:
            float32 (n, features), each 0 or 1; the rows are columns in memory, which is how they are made fastest, and
            as good for a matrix product.
        """
        columns = np.ascontiguousarray(genotypes.T)
        marked = np.where(columns.take(self._depth_gene, axis=0) >= self._least_index[:, None], columns, np.int8(-1))
        spread = marked.take(self.gene_of_feature, axis=0)
        one_hot = np.empty(spread.shape, dtype=np.float32)
        np.equal(spread, self.index_of_feature[:, None], out=one_hot)
        return one_hot.T

    @cached_property
    def gene_of_feature(self) -> npt.NDArray[np.intp]:
        """Number of the gene that each feature belongs to, (features,)."""
        return np.array([gene for gene, _ in self._layout], dtype=np.intp)

    @cached_property
    def index_of_feature(self) -> Genotypes:
        """Index of the choice that each feature stands for, among its gene's, int8 (features,)."""
        return np.array([index for _, index in self._layout], dtype=np.int8)

    @cached_property
    def _layout(self) -> list[tuple[int, int]]:
        dims = self.space.dimensions
        return [
            (gene, index)
            for kind in _ORDER
            for gene, dim in enumerate(dims)
            if dim.kind == kind and not (kind == "depth" and _is_implied(self.space, gene))
            for index in range(len(dim.choices))
        ]

    @cached_property
    def _depth_gene(self) -> npt.NDArray[np.intp]:
        genes = [0 if dim.needs_depth is None else dim.needs_depth[0] for dim in self.space.dimensions]
        return np.array(genes, dtype=np.intp)

    @cached_property
    def _least_index(self) -> Genotypes:
        """Per gene, the least index of its depth gene at which it matters (choices ascend); 0: always."""
        result = []
        for dim in self.space.dimensions:
            if dim.needs_depth is None:
                result.append(0)
            else:
                gene, least = dim.needs_depth
                result.append(sum(choice < least for choice in self.space.dimensions[gene].choices))
        return np.array(result, dtype=np.int8)


def _is_implied(space: SearchSpace, depth_gene: int) -> bool:
    thresholds = {
        dim.needs_depth[1] for dim in space.dimensions if dim.needs_depth and dim.needs_depth[0] == depth_gene
    }
    choices = space.dimensions[depth_gene].choices
    return all(any(low < t <= high for t in thresholds) for low, high in pairwise(choices))
