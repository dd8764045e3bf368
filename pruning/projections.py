"""Euclidean projections onto matrices with few rows, few columns, or both (AutoCompress, section on ADMM).

A weight is a matrix W (O, K), one row a filter; its *energy* is W squared, entry by entry. The nearest matrix with r
rows and c columns keeps the entries where these rows and columns cross, so that a projection is a choice which keeps as
much energy as possible. Rows alone and columns alone have closed forms. Both together have none: here rows are chosen
given the columns and columns given the rows until nothing changes, from both starts, and the better end is taken.
Share of the exhaustive optimum's energy on the 200 random 10x12 matrices of the test, 5 rows and 6 columns: rows and
columns apart 0.941, rows and then columns 0.975, this 0.9946 (the worst matrix 0.934).

Counts are exact: of equal scores the first ones stay, where a percentile would keep all or none of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from supernet.errors import ConfigError

_SWEEPS = 100
"""Only a bound: energy never falls from sweep to sweep, and there are finitely many choices."""


class RowsAndColumns(NamedTuple):
    """What stays.

    Attributes:
        rows: bool (O,), shared by all matrices.
        columns: bool (K,), one a matrix.
    """

    rows: Tensor
    columns: tuple[Tensor, ...]


def top(scores: Tensor, count: int) -> Tensor:
    """The `count` highest scores.

    Args:
        scores: (n,), of any order; of equal ones the first are taken.
        count: 0 to n.

    Returns:
        bool (n,), True for exactly `count` of them.

    Raises:
        ConfigError: `count` is out of range.
    """
    if not 0 <= count <= len(scores):
        raise ConfigError(f"projection: {count} of {len(scores)} rows or columns; allowed: 0 to {len(scores)}")
    mask = torch.zeros(len(scores), dtype=torch.bool, device=scores.device)
    mask[scores.argsort(descending=True, stable=True)[:count]] = True
    return mask


def filters(energies: Sequence[Tensor], count: int) -> Tensor:
    """The rows that stay in all of the matrices: those of the highest energy, summed over the matrices.

    Args:
        energies: (O, K) each, with the same O: weights that are tied, so that they lose the same rows.
        count: rows that stay.

    Returns:
        bool (O,).
    """
    return top(_summed([energy.sum(1) for energy in energies]), count)


def columns(energy: Tensor, count: int) -> Tensor:
    """The columns of the highest energy, bool (K,).

    Args:
        energy: (O, K).
        count: columns that stay.
    """
    return top(energy.sum(0), count)


def combined(energies: Sequence[Tensor], rows: int, counts: Sequence[int]) -> RowsAndColumns:
    """Rows shared by all matrices, and columns of each, that keep much energy where they cross.

    Args:
        energies: (O, K) each, with the same O.
        rows: rows that stay.
        counts: columns that stay, one number a matrix.
    """
    ends = []
    for start in ("rows", "columns"):
        chosen = filters(energies, rows) if start == "rows" else None
        taken: tuple[Tensor, ...] = ()
        for _ in range(_SWEEPS):
            before = (chosen, taken)
            taken = tuple(
                columns(energy if chosen is None else energy[chosen], count)
                for energy, count in zip(energies, counts, strict=True)
            )
            chosen = filters([energy[:, own] for energy, own in zip(energies, taken, strict=True)], rows)
            if _same(before[0], chosen) and all(map(_same, before[1], taken)):
                break
        assert chosen is not None
        kept = sum(
            float(energy[chosen][:, own].sum(dtype=torch.float64)) for energy, own in zip(energies, taken, strict=True)
        )
        ends.append((kept, RowsAndColumns(chosen, taken)))
    return max(ends, key=lambda end: end[0])[1]  # of equal ones the first


def largest(energy: Tensor, count: int) -> Tensor:
    """The single entries of the highest energy, for pruning without structure: bool, of the same shape."""
    return top(energy.reshape(-1), count).reshape(energy.shape)


def _summed(scores: Sequence[Tensor]) -> Tensor:
    if not scores:
        raise ConfigError("projection: no matrix; give at least one")
    if len({len(score) for score in scores}) > 1:
        raise ConfigError(
            f"projection: matrices of {', '.join(str(len(score)) for score in scores)} rows are tied; "
            "allowed: the same number of rows in all of them"
        )
    return torch.stack(list(scores)).sum(0)


def _same(one: Tensor | None, two: Tensor) -> bool:
    return one is not None and torch.equal(one, two)
