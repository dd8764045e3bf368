from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pruning.groups import ZeroInvariantGroups
from pruning.projections import columns, combined, filters
from pruning.weights import Counts, Kept, WeightMatrices, energies_of
from tests.pruning.test_rates import MATRICES

MODEL = MATRICES.groups.model
ENERGIES = energies_of(MATRICES.matrices(dict(MODEL.named_parameters())))
TIED = next(place for place, group in enumerate(MATRICES.groups.sets) if group.units == 16)


def energy_of(kept: Kept, energies: dict[str, Tensor]) -> float:
    return sum(float(energies[name][mask].sum(dtype=torch.float64)) for name, mask in kept.weights.items())


def test_a_chain_of_two_layers_is_projected_as_its_first_matrix_alone() -> None:
    """With all columns of the reader kept, what is chosen is `combined` of the producer."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        net = nn.Sequential(nn.Linear(9, 12), nn.ReLU(), nn.Linear(12, 3)).eval()
    matrices = WeightMatrices(ZeroInvariantGroups(net, torch.randn(2, 9)))
    energies = energies_of(matrices.matrices(dict(net.named_parameters())))
    kept = matrices.project(energies, Counts((5,), {"0.weight": 4}))
    rows, (own,) = combined([energies["0.weight"]], 5, [4])
    chosen = energy_of(kept, {"0.weight": energies["0.weight"], "2.weight": torch.zeros_like(energies["2.weight"])})
    assert chosen >= float(energies["0.weight"][rows][:, own].sum()) * (1 - 1e-6)


@given(units=st.integers(1, 16), other=st.integers(1, 24), inner=st.integers(1, 50))
@settings(deadline=None, max_examples=25)
def test_rows_are_shared_by_all_producers_and_counts_are_exact(units: int, other: int, inner: int) -> None:
    sizes = [0, 0]
    sizes[TIED], sizes[1 - TIED] = units, other
    kept = MATRICES.project(ENERGIES, Counts(tuple(sizes), {"one.0.weight": inner, "stem.0.weight": 20}))
    assert [int(mask.sum()) for mask in kept.units] == sizes
    stem, two = (kept.weights[name].any(1) for name in ("stem.0.weight", "two.0.weight"))
    assert torch.equal(stem, kept.units[TIED])
    assert torch.equal(two, kept.units[TIED])
    read = kept.weights["one.0.weight"].any(0)
    assert int(read.sum()) == min(inner, 9 * units)
    assert not read.view(16, 9)[~kept.units[TIED]].any()
    assert int(kept.weights["stem.0.weight"].any(0).sum()) == 20


def test_both_dimensions_together_keep_more_energy_than_one_after_the_other() -> None:
    ratios = []
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        energies = {name: torch.randn(e.shape, generator=generator).square() for name, e in ENERGIES.items()}
        counts = Counts((8, 12), {"one.0.weight": 36, "stem.0.weight": 14, "two.0.weight": 6, "head.weight": 16})
        together = energy_of(MATRICES.project(energies, counts), energies)
        rows = MATRICES.project(energies, Counts(counts.units, {}))  # filters alone, and then columns given them
        masks = {}
        for name, mask in rows.weights.items():
            own = columns(energies[name] * mask, counts.inner[name]) if name in counts.inner else torch.ones(1) > 0
            masks[name] = mask & own
        ratios.append(together / energy_of(Kept(rows.units, masks), energies))
    assert sum(ratios) / len(ratios) > 1.01
    assert min(ratios) > 0.98


def test_channels_are_chosen_by_what_reads_them_too() -> None:
    energies = {name: energy.clone() for name, energy in ENERGIES.items()}
    middle = 1 - TIED
    energies["two.0.weight"][:, :12] *= 1e6  # what reads the first twelve is large
    sizes = [16, 16]
    sizes[middle] = 12
    by_readers = MATRICES.project(energies, Counts(tuple(sizes), {}), "channels").units[middle]
    assert by_readers.tolist() == [True] * 12 + [False] * 12
    by_filters = MATRICES.project(energies, Counts(tuple(sizes), {}), "filters").units[middle]
    producers = [energies[name] for name in ("one.0.weight", "deep.0.weight")]
    assert torch.equal(by_filters, filters([producers[0].sum(1, keepdim=True) + producers[1].sum(1, keepdim=True)], 12))


def test_masked_models_have_zeros_where_the_masks_say_and_in_the_norms_of_units_that_went() -> None:
    kept = MATRICES.project(ENERGIES, Counts((9, 9), {"one.0.weight": 30}))
    copy = WeightMatrices(MATRICES.groups)
    model = deepcopy(MODEL)
    copy.apply(model, kept)
    for name, mask in kept.weights.items():
        weight = dict(model.named_parameters())[name].flatten(1)
        assert not weight[~mask].any()
        torch.testing.assert_close(weight[mask], dict(MODEL.named_parameters())[name].flatten(1)[mask])
    norm = model.one[1]  # type: ignore[index,union-attr]
    assert not norm.weight[~kept.units[1 - TIED]].any()
    assert norm.weight[kept.units[1 - TIED]].all()


def test_single_weights_need_a_bit_each_and_columns_a_bit_a_column() -> None:
    full = 4 * MATRICES.groups.count().params
    whole = MATRICES.whole()
    assert MATRICES.storage_bytes(whole) == full
    head = whole.weights["head.weight"]
    head[0, 0] = False
    assert MATRICES.storage_bytes(whole) == full - 4 + head.numel() // 8
    head[:, 0] = False
    assert MATRICES.storage_bytes(whole) == full - 4 * 10 + head.shape[1] // 8


def test_other_energies_are_those_of_weights_that_are_no_layers() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix = nn.Parameter(torch.randn(6, 5, generator=torch.Generator().manual_seed(0)))
            self.out = nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(torch.relu(x @ self.mix.T))

    net = Scaled().eval()
    matrices = WeightMatrices(ZeroInvariantGroups(net, torch.randn(3, 5)))
    found = matrices.other_energies(dict(net.named_parameters()))
    torch.testing.assert_close(found[:-1], net.mix.detach().square().sum(1))
    kept = matrices.project(
        energies_of(matrices.matrices(dict(net.named_parameters()))), Counts((2,), {}), "combined", found
    )
    assert kept.units[0].nonzero()[:, 0].tolist() == sorted(found[:-1].topk(2).indices.tolist())
    assert matrices.cost(kept).params == 2 * 5 + 2 * 2 + 2
    with pytest.raises(KeyError):
        matrices.by_name["mix"]
