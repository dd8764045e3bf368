from __future__ import annotations

from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pruning.projections import columns, combined, filters, largest, top
from supernet.errors import ConfigError


def energies(seed: int, *shapes: tuple[int, int]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).square() for shape in shapes]


def kept_energy(parts: list[Tensor], rows: Tensor, taken: tuple[Tensor, ...]) -> float:
    return sum(float(energy[rows][:, own].sum()) for energy, own in zip(parts, taken, strict=True))


def optimum(parts: list[Tensor], rows: int, counts: list[int]) -> float:
    """Every choice of rows; given them, the best columns are those of the highest energy."""
    best = 0.0
    for chosen in combinations(range(len(parts[0])), rows):
        best = max(
            best,
            sum(
                float(energy[list(chosen)].sum(0).topk(count).values.sum())
                for energy, count in zip(parts, counts, strict=True)
            ),
        )
    return best


def test_alternating_keeps_99_percent_of_the_optimum_and_beats_the_simpler_ways() -> None:
    shares: dict[str, list[float]] = {"combined": [], "rows then columns": [], "independent": []}
    for seed in range(200):
        parts = energies(seed, (10, 12))
        best = optimum(parts, 5, [6])
        shares["combined"].append(kept_energy(parts, *combined(parts, 5, [6])) / best)
        rows = filters(parts, 5)
        shares["rows then columns"].append(kept_energy(parts, rows, (columns(parts[0][rows], 6),)) / best)
        shares["independent"].append(kept_energy(parts, rows, (columns(parts[0], 6),)) / best)
    mean = {name: sum(values) / len(values) for name, values in shares.items()}
    assert max(shares["combined"]) <= 1 + 1e-12
    assert mean["combined"] >= 0.99
    assert mean["independent"] < mean["rows then columns"] < mean["combined"]


def test_tied_matrices_share_their_rows_near_the_optimum() -> None:
    shares = []
    for seed in range(40):
        parts = energies(seed, (8, 9), (8, 6))
        rows, taken = combined(parts, 4, [4, 3])
        assert int(rows.sum()) == 4
        assert [int(own.sum()) for own in taken] == [4, 3]
        shares.append(kept_energy(parts, rows, taken) / optimum(parts, 4, [4, 3]))
    assert sum(shares) / len(shares) >= 0.98


@given(
    scores=st.lists(st.integers(0, 3), min_size=1, max_size=30),
    share=st.floats(0, 1),
)
@settings(deadline=None)
def test_counts_are_exact_whatever_ties_there_are_and_the_first_of_equal_ones_stay(
    scores: list[int], share: float
) -> None:
    count = round(share * len(scores))
    mask = top(torch.tensor(scores, dtype=torch.float32), count)
    assert int(mask.sum()) == count
    kept = [score for score, stays in zip(scores, mask.tolist(), strict=True) if stays]
    assert sorted(kept, reverse=True) == sorted(scores, reverse=True)[:count]
    for place in range(len(scores)):
        for later in range(place + 1, len(scores)):
            assert not (scores[place] == scores[later] and mask[later] and not mask[place])


@given(seed=st.integers(0, 10_000), rows=st.integers(1, 7), count=st.integers(1, 9))
@settings(deadline=None, max_examples=50)
def test_what_is_projected_already_stays(seed: int, rows: int, count: int) -> None:
    parts = energies(seed, (7, 9))
    chosen, (own,) = combined(parts, rows, [count])
    projected = [parts[0] * chosen[:, None] * own]
    again, (own_again,) = combined(projected, rows, [count])
    assert torch.equal(again, chosen)
    assert torch.equal(own_again, own)


@given(seed=st.integers(0, 10_000), rows=st.integers(1, 7), count=st.integers(1, 9))
@settings(deadline=None, max_examples=50)
def test_the_end_is_no_better_by_other_rows_or_by_other_columns_alone(seed: int, rows: int, count: int) -> None:
    parts = energies(seed, (7, 9))
    chosen, (own,) = combined(parts, rows, [count])
    kept = kept_energy(parts, chosen, (own,))
    assert kept >= kept_energy(parts, filters([parts[0][:, own]], rows), (own,)) - 1e-9
    assert kept >= kept_energy(parts, chosen, (columns(parts[0][chosen], count),)) - 1e-9


def test_all_rows_or_all_columns_leave_the_closed_form_of_the_other() -> None:
    parts = energies(3, (6, 8))
    assert torch.equal(combined(parts, 6, [3])[1][0], columns(parts[0], 3))
    assert torch.equal(combined(parts, 2, [8])[0], filters(parts, 2))


def test_single_entries_are_counted_exactly() -> None:
    energy = energies(1, (4, 5))[0]
    mask = largest(energy, 7)
    assert int(mask.sum()) == 7
    assert float(energy[mask].min()) >= float(energy[~mask].max())


def test_impossible_counts_and_unlike_ties_are_refused() -> None:
    with pytest.raises(ConfigError, match="13 of 12 rows or columns; allowed: 0 to 12"):
        top(torch.zeros(12), 13)
    with pytest.raises(ConfigError, match="matrices of 4, 5 rows are tied"):
        filters(energies(0, (4, 2), (5, 2)), 2)
    with pytest.raises(ConfigError, match="no matrix"):
        filters([], 0)
