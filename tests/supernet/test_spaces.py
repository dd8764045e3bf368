from __future__ import annotations

import itertools
import pickle

import numpy as np
import pytest

from supernet.errors import ConfigError
from supernet.spaces import SearchSpace, make_divisible, register_space


@pytest.mark.parametrize(("value", "expected"), [(3, 8), (11, 16), (12, 16), (19.9, 24), (36, 40), (60, 64), (64, 64)])
def test_channels_are_rounded_as_in_mobilenet_v2(value: float, expected: int) -> None:
    """11: nearest is 8, but that is below 0.9 of it, so 16; 19.9: nearest is 16, likewise 24. By hand."""
    assert make_divisible(value) == expected


def test_cardinality_counts_each_network_once(tiny: SearchSpace) -> None:
    """By hand: 5 resolutions, and a stage of depth d has 9**d choices of kernels and expands."""
    assert tiny.cardinality == 5 * (9**2 + 9**3 + 9**4) ** 3


def test_genotypes_are_canonical_and_within_range(tiny: SearchSpace, rng: np.random.Generator) -> None:
    genotypes = tiny.sample_genotypes(rng, 500)
    assert genotypes.dtype == np.int8
    assert (tiny.canonical_genotypes(genotypes) == genotypes).all()
    assert (genotypes[~tiny.active_genes(genotypes)] == 0).all()
    for gene, dim in enumerate(tiny.dimensions):
        assert set(genotypes[:, gene]) == set(range(len(dim.choices)))


def test_sampling_within_keeps_to_the_given_values(tiny: SearchSpace, rng: np.random.Generator) -> None:
    configs = tiny.decode(tiny.sample_genotypes(rng, 50, within={"kernel": (5, 7), "depth": (4,), "resolution": (20,)}))
    assert {config.resolution for config in configs} == {20}
    assert {config.depths for config in configs} == {(4, 4, 4)}
    assert set(itertools.chain(*(config.kernels for config in configs))) == {5, 7}
    assert set(itertools.chain(*(config.expands for config in configs))) == {3, 4, 6}


def test_sampling_within_nothing_allowed_is_refused(tiny: SearchSpace, rng: np.random.Generator) -> None:
    with pytest.raises(ConfigError, match=r"kernels\[0\]: none of \(4,\) is allowed; allowed: 3, 5, 7"):
        tiny.sample_genotypes(rng, 1, within={"kernel": (4,)})


def test_all_layers_are_exactly_those_of_some_subnet(tiny: SearchSpace, rng: np.random.Generator) -> None:
    known = set(tiny.all_layers())
    met = {spec for config in tiny.decode(tiny.sample_genotypes(rng, 2000)) for spec in tiny.layers(config)}
    assert met == known


def test_a_classifier_of_one_class_is_refused(tiny: SearchSpace) -> None:
    with pytest.raises(ConfigError, match="num_classes is 1"):
        tiny.with_num_classes(1)


def test_a_space_travels_between_processes_by_name(tiny: SearchSpace) -> None:
    assert pickle.loads(pickle.dumps(tiny.with_num_classes(7))) == tiny.with_num_classes(7)


def test_a_second_space_of_the_same_name_is_refused(tiny: SearchSpace) -> None:
    with pytest.raises(ConfigError, match="'mobilenet_v3_tiny' exists already"):
        register_space(tiny)
