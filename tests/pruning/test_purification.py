from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pruning.purification import emptied, lossless, near_zero, purified, scales, thresholds_of, worth
from pruning.weights import Kept
from tests.pruning.test_rates import MATRICES, matrices

LAYERS = [layer.name for layer in MATRICES.layers]


def weights() -> dict[str, Tensor]:
    return {n: m.detach() for n, m in MATRICES.matrices(dict(MATRICES.groups.model.named_parameters())).items()}


def random_kept(seed: int, share: float) -> Kept:
    """Any units, and of them any columns."""
    generator = torch.Generator().manual_seed(seed)
    units = []
    for group in MATRICES.groups.sets:
        mask = torch.rand(group.units, generator=generator) < share
        mask[0] = True
        units.append(mask)
    masks = {}
    for layer in MATRICES.layers:
        columns = torch.rand(len(layer.columns), generator=generator) < share
        columns[:9] = True
        masks[layer.name] = columns.expand(len(layer.rows), -1) if layer.splits else torch.ones(1, dtype=torch.bool)
    return MATRICES.restricted(units, masks)


def at_most(one: Kept, two: Kept) -> bool:
    return all(bool((a <= b).all()) for a, b in zip(one.units, two.units, strict=True)) and all(
        bool((one.weights[n] <= two.weights[n]).all()) for n in one.weights
    )


@given(seed=st.integers(0, 1000), share=st.floats(0.1, 0.9))
@settings(deadline=None, max_examples=20)
def test_the_lossless_step_ends_in_a_fixed_point_and_changes_no_output(seed: int, share: float) -> None:
    kept = random_kept(seed, share)
    found = lossless(MATRICES, kept)
    again = lossless(MATRICES, found)
    assert all(map(torch.equal, found.units, again.units))
    assert at_most(found, kept)
    assert all(bool(mask.any()) for mask in found.units)
    images = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    before, after = (copy.deepcopy(MATRICES.groups.model).eval() for _ in range(2))
    MATRICES.apply(before, kept)
    MATRICES.apply(after, found)
    with torch.no_grad():
        torch.testing.assert_close(after(images), before(images), atol=1e-6, rtol=1e-5)


def test_a_unit_that_nothing_reads_goes_and_takes_its_producers_columns_along() -> None:
    """The depthwise filters that `two` no longer reads, their channels of `one`, but none that is still read."""
    kept = MATRICES.whole()
    kept.weights["two.0.weight"][:, 5:] = False
    found = lossless(MATRICES, kept)
    middle = next(i for i, group in enumerate(MATRICES.groups.sets) if group.units == 24)
    assert found.units[middle].tolist() == [True] * 5 + [False] * 19
    assert int(found.weights["one.0.weight"].any(1).sum()) == 5
    assert all(bool(mask.all()) for i, mask in enumerate(found.units) if i != middle)


def test_columns_and_units_below_the_threshold_go_and_the_others_stay() -> None:
    net = matrices()
    own = dict(net.groups.model.named_parameters())
    with torch.no_grad():
        own["one.0.weight"][3] *= 1e-4  # a row of one producer; its depthwise row is large
        own["one.0.weight"][7] *= 1e-4
        own["deep.0.weight"][7] *= 1e-4  # both producers of unit 7
        own["one.0.weight"][:, 2, 1, 1] *= 1e-4
    found_weights = {n: m.detach() for n, m in net.matrices(own).items()}
    near = {n: 0.05 * scale for n, scale in scales(net, found_weights, net.whole()).items()}
    found = near_zero(net, found_weights, net.whole(), near)
    middle = next(i for i, group in enumerate(net.groups.sets) if group.units == 24)
    assert (~found.units[middle]).nonzero()[:, 0].tolist() == [7]
    assert (~found.weights["one.0.weight"].any(0)).nonzero()[:, 0].tolist() == [2 * 9 + 4]


def test_something_of_every_layer_stays_under_the_harshest_thresholds() -> None:
    own = weights()
    kept = near_zero(MATRICES, own, MATRICES.whole(), dict.fromkeys(LAYERS, 1e9))
    assert all(int(mask.sum()) == 1 for mask in kept.units)
    assert all(bool(mask.any()) for mask in kept.weights.values())
    empty = emptied(MATRICES, random_kept(1, 0.5), dict.fromkeys(LAYERS, 0.01))
    assert all(bool(mask.any()) for mask in empty.weights.values())


def test_a_channel_goes_from_a_layer_once_its_share_has_gone() -> None:
    kept = MATRICES.whole()
    kept.weights["one.0.weight"][:, 9:16] = False  # 7 of the 9 places of channel 1
    kept.weights["one.0.weight"][:, 18:20] = False  # 2 of channel 2
    found = emptied(MATRICES, kept, {"one.0.weight": 0.75})
    assert not found.weights["one.0.weight"][:, 9:18].any()
    assert found.weights["one.0.weight"][:, 20:27].all()
    assert torch.equal(emptied(MATRICES, kept, {"one.0.weight": 0.8}).weights["one.0.weight"],
                       kept.weights["one.0.weight"])  # fmt: skip


def test_the_images_channels_are_protected_from_emptiness() -> None:
    kept = MATRICES.whole()
    kept.weights["stem.0.weight"][:, :8] = False
    found = emptied(MATRICES, kept, dict.fromkeys(LAYERS, 0.1))
    assert found.weights["stem.0.weight"][:, 8].all()


@given(seed=st.integers(0, 500), low=st.floats(0, 1), high=st.floats(0, 1))
@settings(deadline=None, max_examples=15)
def test_higher_thresholds_never_keep_more_units(seed: int, low: float, high: float) -> None:
    """Columns may: their mean is over the rows that stay, which more of the weak ones have left."""
    low, high = sorted((low, high))
    own, kept = weights(), random_kept(seed, 0.8)
    scale = scales(MATRICES, own, kept)
    near = [{n: share * s for n, s in scale.items()} for share in (low, high)]
    fewer, more = (near_zero(MATRICES, own, kept, thresholds) for thresholds in reversed(near))
    assert all(bool((a <= b).all()) for a, b in zip(fewer.units, more.units, strict=True))


def test_zero_thresholds_remove_only_what_is_lossless_and_filters_lose_no_columns() -> None:
    own, kept = weights(), random_kept(3, 0.7)
    zero = thresholds_of(torch.zeros(2 * len(LAYERS)).double().numpy(), LAYERS, scales(MATRICES, own, kept))
    found, expected = purified(MATRICES, own, kept, zero), lossless(MATRICES, kept)
    assert all(map(torch.equal, found.units, expected.units))
    assert all(torch.equal(found.weights[n], expected.weights[n]) for n in LAYERS)
    whole = MATRICES.whole()
    harsh = thresholds_of(torch.ones(2 * len(LAYERS)).double().numpy(), LAYERS, scales(MATRICES, own, whole))
    filters = purified(MATRICES, own, whole, harsh, "channels")
    assert all(torch.equal(filters.weights[n], MATRICES.whole(filters.units).weights[n]) for n in LAYERS)


def test_worth_is_what_goes_while_the_drop_is_allowed() -> None:
    assert worth(30.0, 0.4, 0.5) == 30.0
    assert worth(60.0, 0.9, 0.5) == pytest.approx(-0.4)
    assert worth(90.0, 5.0, 0.5) < worth(10.0, 1.0, 0.5) < worth(0.0, 0.0, 0.5)
