"""The part of a space that a search may use, and random moves inside of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from latency_tables import LatencyTable
from search.encoding import GenotypeEncoder
from supernet.errors import TableError
from supernet.spaces import Genotypes, Kind, SearchSpace, Value


class Domain:
    """A space, or some values of its dimensions. Immutable; whole matrices at once.

    Args:
        space: the space.
        within: for some kinds of dimensions, the only values to use; None: all.

    Attributes:
        encoder: of the space.
        counts: number of allowed choices of each gene, intp (genes,).

    Raises:
        ConfigError: `within` leaves a dimension without values.
    """

    def __init__(self, space: SearchSpace, within: Mapping[Kind, Sequence[Value]] | None = None) -> None:
        self.space = space
        self.encoder = GenotypeEncoder(space)
        allowed = [space.indices_within(gene, within) for gene in range(len(space.dimensions))]
        self.counts = np.array([len(indices) for indices in allowed], dtype=np.intp)
        self._is_whole = all(len(a) == len(dim.choices) for a, dim in zip(allowed, space.dimensions, strict=True))
        self._factors = self.counts.astype(np.float32)
        starts = np.concatenate([[0], np.cumsum(self.counts)[:-1]])
        self._starts = starts.astype(np.intp)
        self._indices = np.concatenate(allowed).astype(np.int8)
        self._gene_of = np.repeat(np.arange(len(allowed)), self.counts)

    def random(self, rng: np.random.Generator, count: int) -> Genotypes:
        """Uniform rows gene by gene, int8 (count, genes), not canonical."""
        drawn = rng.random((count, len(self.counts)), dtype=np.float32) * self._factors
        if self._is_whole:
            return drawn.astype(np.int8)
        rows: Genotypes = self._indices[drawn.astype(np.intp) + self._starts]
        return rows

    def largest(self) -> Genotypes:
        """Every gene at its greatest allowed choice, int8 (genes,)."""
        genotype: Genotypes = self._indices[self._starts + self.counts - 1]
        return genotype

    def one_gene_changes(self, genotype: Genotypes) -> Genotypes:
        """The genotype with one gene set to one of its choices, int8 (all choices of all genes, genes).

        Not canonical; the genotype itself is among the rows, once a gene.
        """
        rows = np.tile(genotype, (len(self._gene_of), 1))
        rows[np.arange(len(rows)), self._gene_of] = self._indices
        return rows

    def children(
        self,
        mothers: Genotypes,
        mates: Genotypes,
        mutants: npt.NDArray[np.intp],
        rates: tuple[float, float],
        rng: np.random.Generator,
    ) -> Genotypes:
        """One child a row, canonical: half of its genes are the mother's, half the mate's.

        Args:
            mothers: int8 (n, genes).
            mates: int8 (n, genes).
            mutants: rows with a random subnet for a mate, of which few genes are taken.
            rates: each mutant takes a share of its own, between these.
            rng: source of the choices.
        """
        mates = mates.copy()
        mates[mutants] = self.random(rng, len(mutants))
        share = np.full((len(mothers), 1), 0.5, dtype=np.float32)
        share[mutants, 0] = rng.uniform(*rates, size=len(mutants))
        taken = rng.random(mothers.shape, dtype=np.float32) < share
        return self.canonical(np.where(taken, mates, mothers))

    def canonical(self, genotypes: Genotypes) -> Genotypes:
        """Inactive genes set to 0."""
        return self.encoder.canonical(genotypes)


def known_resolutions(
    space: SearchSpace, predictor: object, tables: Mapping[str, LatencyTable]
) -> tuple[tuple[int, ...], dict[int, str]]:
    """The space's resolutions that the predictor and every table know, and why the others are left out.

    Args:
        space: the space.
        predictor: its attribute `resolutions` names those that it knows; absent or None: all.
        tables: device -> latency table.

    Returns:
        Resolutions, ascending; and resolution -> what is unknown of it, for each of the others.

    Raises:
        TableError: none is left, or a table is for another space or number of classes.
    """
    (every,) = (tuple(map(int, dim.choices)) for dim in space.dimensions if dim.kind == "resolution")
    known = getattr(predictor, "resolutions", None) or every
    lacking = {side: [] if side in known else ["the predictor does not know it"] for side in every}
    faults = []
    for device, table in tables.items():
        coverage = table.coverage(space)
        for side, part in coverage.resolutions.items():
            if part.missing and side in known:  # else the rows would not help
                rows = "1 row" if len(part.missing) == 1 else f"{len(part.missing)} rows"
                lacking[side].append(f"{rows} missing on {device!r}: {part.missing[0]}")
        if not coverage.covered:
            faults.append(
                f"the table of {device!r} covers none: {len(coverage.missing)} of "
                f"{coverage.present + len(coverage.missing)} rows missing, such as {coverage.missing[0]}"
            )
    left_out = {side: "; ".join(reasons) for side, reasons in lacking.items() if reasons}
    found = tuple(side for side in every if side not in left_out)
    if not found:
        raise TableError(
            f"no resolution of {space.name!r} is known by all: {'; '.join(faults) or in_words(left_out)}; complete the "
            "tables with: onceforall profile RUN_FOLDER --device NAME"
        )
    return found, left_out


def in_words(left_out: Mapping[int, str] | Mapping[str, str]) -> str:
    """Resolutions that are not searched, those of the same reason together: ``128, 132 (…), 224 (…)``."""
    sides: dict[str, list[str]] = {}
    for side, reason in left_out.items():
        sides.setdefault(reason, []).append(str(side))
    return ", ".join(f"{', '.join(same)} ({reason})" for reason, same in sides.items())
