from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supernet import SubnetConfig, get_space
from supernet.errors import ConfigError
from supernet.spaces import SearchSpace

SPACE = get_space("mobilenet_v3_tiny")


def test_inactive_genes_do_not_change_the_digest(tiny: SearchSpace) -> None:
    kernels, expands = [5, 5, 3, 7] * 3, [3, 4, 6, 6] * 3
    one = tiny.config(resolution=24, depths=(2, 3, 4), kernels=kernels, expands=expands)
    kernels[2], kernels[3], kernels[7] = 7, 3, 3
    expands[2], expands[3], expands[7] = 3, 3, 3
    other = tiny.config(resolution=24, depths=(2, 3, 4), kernels=kernels, expands=expands)
    assert one == other
    assert one.digest == other.digest
    assert one.kernels[2:4] == (0, 0)


def test_every_active_gene_changes_the_digest(tiny: SearchSpace) -> None:
    config = tiny.config(resolution=24, depths=(2, 3, 4), kernels=[5] * 12, expands=[4] * 12)
    digests = {config.digest}
    genotype = tiny.encode([config])
    active = np.flatnonzero(tiny.active_genes(genotype)[0])
    for gene in active:
        changed = genotype.copy()
        changed[0, gene] = (changed[0, gene] + 1) % len(tiny.dimensions[gene].choices)
        digests.add(tiny.decode(changed)[0].digest)
    assert len(digests) == 1 + len(active)


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=50, deadline=None)
def test_a_config_survives_its_dictionary_json_and_genotype(seed: int) -> None:
    config = SPACE.sample(np.random.default_rng(seed))
    assert SubnetConfig.from_dict(config.to_dict()) == config
    assert SubnetConfig.from_dict(json.loads(config.to_json())) == config
    assert SPACE.decode(SPACE.encode([config])) == [config]


def test_the_digest_is_pinned_so_that_stored_names_stay_valid(tiny: SearchSpace) -> None:
    assert tiny.smallest().to_json() == (
        '{"depths":[2,2,2],"expands":[3,3,0,0,3,3,0,0,3,3,0,0],"kernels":[3,3,0,0,3,3,0,0,3,3,0,0],'
        '"resolution":16,"space":"mobilenet_v3_tiny","widths":[]}'
    )
    assert tiny.smallest().digest == "9240d0ae654773b49d41b34b5395c5bc21b639e1315b773369d0b46dacd56843"


def test_every_fault_of_a_config_is_named_at_once(tiny: SearchSpace) -> None:
    with pytest.raises(ConfigError) as caught:
        tiny.config(resolution=17, depths=(9, 2, 2), kernels=[4] + [3] * 11, expands=[3] * 12)
    assert str(caught.value) == (
        "not a subnet of mobilenet_v3_tiny: resolution is 17; allowed: 16, 20, 24, 28, 32; "
        "depths[0] is 9; allowed: 2, 3, 4; kernels[0] is 4; allowed: 3, 5, 7"
    )


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"kernels": [3, 3]}, "kernels has 2 entries; expected 12"),
        ({"kernels": "3333"}, "kernels is '3333'; expected a list of 12 numbers"),
        ({"depths": [2, 2, True]}, "depths[2] is True"),
        ({"resolution": "24"}, "resolution is '24'"),
        ({"expands": [None] * 12}, "expands[0] is None"),
        ({"widths": [1]}, "widths has 1 entries; expected 0"),
        ({"space": "resnet9000"}, "unknown search space 'resnet9000'; allowed: mobilenet_v3_tiny"),
        ({"space": ["x"]}, "unknown search space ['x']"),
        ({"colour": 1}, "unknown field 'colour'"),
    ],
)
def test_a_config_from_outside_is_refused_by_name(tiny: SearchSpace, change: dict[str, object], text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        SubnetConfig.from_dict(tiny.largest().to_dict() | change)
    assert text in str(caught.value)


def test_a_missing_field_is_named(tiny: SearchSpace) -> None:
    data = tiny.largest().to_dict()
    del data["depths"]
    with pytest.raises(ConfigError, match="field 'depths' is missing"):
        SubnetConfig.from_dict(data)
