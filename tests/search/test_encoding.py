from __future__ import annotations

import numpy as np
import pytest
from search_truth import all_genotypes

from search import GenotypeEncoder
from supernet.spaces import ElasticDimension, SearchSpace


def random_rows(space: SearchSpace, count: int = 300) -> np.ndarray:
    rng = np.random.default_rng(3)
    return np.stack([rng.integers(len(dim.choices), size=count) for dim in space.dimensions], axis=1).astype(np.int8)


def test_active_and_canonical_equal_the_space_s_own(tiny: SearchSpace) -> None:
    rows, encoder = random_rows(tiny), GenotypeEncoder(tiny)
    np.testing.assert_array_equal(encoder.active(rows), tiny.active_genes(rows))
    canonical = encoder.canonical(rows)
    np.testing.assert_array_equal(canonical, tiny.canonical_genotypes(rows))
    assert canonical.dtype == np.int8


def test_features_are_kernels_then_expand_ratios_then_resolution(tiny: SearchSpace) -> None:
    names = GenotypeEncoder(tiny).names
    assert names[:4] == ("kernels[0]=3", "kernels[0]=5", "kernels[0]=7", "kernels[1]=3")
    assert names[36:39] == ("expands[0]=3", "expands[0]=4", "expands[0]=6")
    assert names[72:] == ("resolution=16", "resolution=20", "resolution=24", "resolution=28", "resolution=32")


def test_features_of_the_smallest_and_largest_subnet_are_as_counted_by_hand(tiny: SearchSpace) -> None:
    encoder = GenotypeEncoder(tiny)
    small, large = encoder.features(tiny.encode([tiny.smallest(), tiny.largest()]))
    on = {name for name, value in zip(encoder.names, small, strict=True) if value}
    active = [0, 1, 4, 5, 8, 9]  # depth 2 of up to 4 blocks, three stages
    assert on == {f"kernels[{i}]=3" for i in active} | {f"expands[{i}]=3" for i in active} | {"resolution=16"}
    assert large.sum() == 12 + 12 + 1
    assert set(np.unique(large)) == {0.0, 1.0}


def test_an_inactive_gene_has_no_features_whatever_its_index(tiny: SearchSpace) -> None:
    rows, encoder = random_rows(tiny), GenotypeEncoder(tiny)
    np.testing.assert_array_equal(encoder.features(rows), encoder.features(tiny.canonical_genotypes(rows)))


def test_different_subnets_have_different_features(toy: SearchSpace) -> None:
    rows = all_genotypes(toy)
    assert len(rows) == toy.cardinality == 3528
    assert len(np.unique(GenotypeEncoder(toy).features(rows), axis=0)) == len(rows)


@pytest.mark.parametrize(("depths", "shown"), [((1, 2, 3), True), ((2, 3), False)])
def test_a_depth_has_features_only_where_the_blocks_do_not_tell_it(depths: tuple[int, ...], shown: bool) -> None:
    dimensions = (
        ElasticDimension("resolution", 0, (16, 32)),
        ElasticDimension("depth", 0, depths),
        ElasticDimension("kernel", 0, (3, 5), needs_depth=(1, 3)),  # depths 1 and 2 look the same
    )
    names = GenotypeEncoder(SearchSpace("unregistered", 10, dimensions, lambda classes: ())).names
    assert any(name.startswith("depths") for name in names) is shown


def test_encoders_of_different_spaces_have_different_digests(tiny: SearchSpace, toy: SearchSpace) -> None:
    assert GenotypeEncoder(tiny).digest == GenotypeEncoder(tiny.with_num_classes(7)).digest
    assert GenotypeEncoder(tiny).digest != GenotypeEncoder(toy).digest
