from __future__ import annotations

import numpy as np
import pytest

from latency_tables.covering import covering_genotypes, layers_within, resolutions_of
from supernet import get_space
from supernet.errors import ConfigError


def test_a_covering_set_has_every_layer_and_is_small() -> None:
    space = get_space("mobilenet_v3_tiny")
    genotypes = covering_genotypes(space, np.random.default_rng(0))
    covered = {spec for config in space.decode(genotypes) for spec in space.layers(config)}
    assert covered == set(space.all_layers())
    assert len(genotypes) == 5 * 3 * 3  # resolutions x kernels x expand ratios: no fewer can do
    np.testing.assert_array_equal(genotypes, space.canonical_genotypes(genotypes))


@pytest.mark.parametrize("name", ["mobilenet_v3_tiny", "mobilenet_v3_w1.2"])
def test_some_resolutions_need_their_own_layers_only(name: str) -> None:
    space = get_space(name)
    wanted = resolutions_of(space)[1:3]
    layers = layers_within(space, wanted)
    configs = space.decode(covering_genotypes(space, np.random.default_rng(0), wanted))
    assert {spec for config in configs for spec in space.layers(config)} == set(layers)
    assert {config.resolution for config in configs} == set(wanted)
    assert {spec.in_size for spec in layers if spec.in_channels == 3} == set(wanted)
    assert set(layers) < set(space.all_layers())


def test_no_resolutions_mean_all_of_them() -> None:
    space = get_space("mobilenet_v3_tiny")
    assert layers_within(space) == space.all_layers()
    assert layers_within(space, resolutions_of(space)) == space.all_layers()


def test_unknown_resolutions_are_refused_with_the_known_ones() -> None:
    space = get_space("mobilenet_v3_tiny")
    allowed = ", ".join(map(str, resolutions_of(space)))
    with pytest.raises(ConfigError, match=f"mobilenet_v3_tiny has no resolution 17, 99; allowed: {allowed}"):
        layers_within(space, (99, 17))
