from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from supernet.spaces import get_space, list_spaces
from supernet.spaces.recognise import recognise


@pytest.mark.parametrize("name", list_spaces())
def test_a_subnet_is_recognised_by_its_layers_alone(name: str, rng: np.random.Generator) -> None:
    space = get_space(name)
    for config in (space.smallest(), space.largest(), *(space.sample(rng) for _ in range(5))):
        assert recognise(space, space.layers(config)) == config
        assert recognise(space, space.with_num_classes(3).layers(config)) == config


@pytest.mark.parametrize("name", list_spaces())
def test_layers_that_are_no_subnet_are_not_recognised(name: str) -> None:
    """The smallest subnet leaves out the most blocks, whose genes must not be tried in all combinations."""
    space = get_space(name)
    layers = space.layers(space.smallest())
    wider = replace(layers[-1], in_channels=layers[-1].in_channels + 8)
    for others in ([], layers[:-1], [*layers[:-1], wider], [*layers, layers[-1]], layers[1:]):
        assert recognise(space, others) is None
    assert [other for other in list_spaces() if recognise(get_space(other), layers) is not None] == [name]
