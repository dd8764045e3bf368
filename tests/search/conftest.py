"""A space small enough to enumerate."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from supernet import registry
from supernet.spaces import SearchSpace
from supernet.spaces.inverted_residual import Stage, inverted_residual_space
from supernet.spaces.mobilenet_v3 import mobilenet_v3_plan


@pytest.fixture(scope="session")
def toy() -> Iterator[SearchSpace]:
    """3,528 subnets: 2 resolutions x two stages of 1 or 2 blocks with 3 kernels and 2 expand ratios."""
    stages = (
        Stage(16, 2, "relu", squeeze_excite=False, max_depth=2),
        Stage(24, 2, "relu", squeeze_excite=True, max_depth=2),
    )
    plan = mobilenet_v3_plan(
        stem_width=8, stem_stride=1, first_width=8, first_stride=2, stages=stages, final_width=32, feature_width=48
    )
    space = inverted_residual_space(
        "toy_for_search", plan, resolutions=(16, 24), num_classes=4, expands=(3, 6), min_depth=1
    )
    registry.register(space)
    yield space
    del registry._spaces[space.name]
