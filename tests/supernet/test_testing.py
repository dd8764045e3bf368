"""The contract itself: a fault in a space or in a layer is caught by the law that it breaks, and by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import latency_tables.costs
from latency_tables.testing import CostedSpaceContract
from supernet import LayerSpec, registry
from supernet.layers import elastic
from supernet.spaces import LayerSite, SearchSpace
from supernet.spaces.inverted_residual import Stage, inverted_residual_space
from supernet.spaces.mobilenet_v3 import mobilenet_v3_plan
from supernet.spaces.resnet50 import Plan, resnet_space
from supernet.spaces.resnet50 import Stage as ResNetStage

NAME = "space_under_test"
STAGES = (Stage(16, 2, "relu", squeeze_excite=False, max_depth=2), Stage(24, 1, "h_swish", squeeze_excite=True))


def _mobile(**settings: Any) -> SearchSpace:
    plan = mobilenet_v3_plan(
        stem_width=8, stem_stride=1, first_width=8, first_stride=2, stages=STAGES, final_width=32, feature_width=48
    )
    return inverted_residual_space(NAME, plan, resolutions=(16, 20), num_classes=5, **settings)


def _residual() -> SearchSpace:
    plan = Plan(stem_width=32, stages=(ResNetStage(256, 1, 1), ResNetStage(512, 2, 1)))
    return resnet_space(NAME, plan, resolutions=(24, 32), num_classes=4)


def _with_site(space: SearchSpace, name: str, change: Callable[[LayerSite], LayerSite]) -> SearchSpace:
    def build(classes: int) -> tuple[LayerSite, ...]:
        return tuple(change(site) if site.name == name else site for site in space.build_sites(classes))

    return replace(space, build_sites=build)


def _relowered(name: str, **changes: Any) -> SearchSpace:
    """The mobile space, one site of which says something else."""

    def change(site: LayerSite) -> LayerSite:
        def lower(*values: Any) -> LayerSpec | None:
            spec = site.lower(*values)
            return None if spec is None else replace(spec, **changes)

        return replace(site, lower=lower)

    return _with_site(_mobile(), name, change)


@pytest.fixture
def contract() -> Iterator[Callable[[SearchSpace], CostedSpaceContract]]:
    def build(space: SearchSpace) -> CostedSpaceContract:
        registry.register(space)
        result = CostedSpaceContract()
        result.space = space  # type: ignore[misc]
        return result

    yield build
    registry._spaces.pop(NAME, None)


LAWS = [name for name in dir(CostedSpaceContract) if name.startswith("test_")]


@pytest.mark.parametrize("build", [_mobile, _residual])
def test_a_sound_space_keeps_every_law(
    build: Callable[[], SearchSpace], contract: Callable[[SearchSpace], CostedSpaceContract]
) -> None:
    checked = contract(build())
    for law in LAWS:
        getattr(checked, law)()


@pytest.mark.parametrize(
    ("space", "law", "text"),
    [
        (
            _mobile(expands=(3, 3.01, 6)),
            "test_every_gene_takes_effect_or_is_inactive",
            r"expands\[0\]: 2 networks of 3",
        ),
        (_mobile(kernels=(5, 3)), "test_genes_are_well_formed", r"kernels\[0\]: choices are \(5, 3\)"),
        (_relowered("stem", out_channels=16), "test_layers_chain_from_the_image_to_the_logits", "is followed by"),
        (_relowered("first_block", out_size=9), "test_layers_have_the_shapes_that_they_say", "mbconv .*x8->9x9x8"),
        (_relowered("first_block", stride=3), "test_costs_are_those_of_the_real_networks", None),
        (
            _with_site(_mobile(), "final_expand", lambda site: replace(site, name="stem")),
            "test_layer_sites_and_keys_are_unique",
            None,
        ),
        (
            _with_site(_mobile(), "pool", lambda site: replace(site, name="the-pool")),
            "test_layer_sites_and_keys_are_unique",
            None,
        ),
    ],
)
def test_a_fault_in_a_space_is_caught(
    space: SearchSpace, law: str, text: str | None, contract: Callable[[SearchSpace], CostedSpaceContract]
) -> None:
    with pytest.raises(AssertionError, match=text):
        getattr(contract(space), law)()


conv_forward = elastic.ElasticConv.forward
bottleneck_forward = elastic.ElasticBottleneck.forward
bottleneck_sort = elastic.ElasticBottleneck.sort_channels
convolutions = latency_tables.costs.convolutions


@pytest.mark.parametrize(
    ("target", "name", "broken", "law"),
    [
        (
            elastic.ElasticConv,
            "forward",
            lambda self, x, spec: conv_forward(self, x, replace(spec, shortcut=False)),
            "test_an_extracted_subnet_computes_what_the_active_supernet_does",
        ),
        (
            elastic.ElasticBatchNorm,
            "permute",
            lambda self, order: None,
            "test_sorting_channels_keeps_what_the_largest_network_computes",
        ),
        (
            elastic.ElasticBottleneck,
            "sort_channels",
            lambda self, trained: bottleneck_sort(self, ()),
            "test_sorting_channels_keeps_every_subnet_of_trained_expand_ratios",
        ),
        (
            elastic.ElasticBottleneck,
            "sort_channels",
            lambda self, trained: None,
            "test_sorting_channels_keeps_what_the_largest_network_computes",
        ),
        (
            elastic.ElasticBottleneck,
            "forward",
            lambda self, x, spec: bottleneck_forward(self, x.detach(), spec),
            "test_gradients_reach_every_parameter",
        ),
        (
            latency_tables.costs,
            "convolutions",
            lambda spec: list(convolutions(spec))[:3],
            "test_costs_are_those_of_the_real_networks",
        ),
        (
            SearchSpace,
            "canonical_genotypes",
            lambda self, genotypes: np.where(genotypes == 1, 0, genotypes),
            "test_configs_survive_dictionaries_and_genotypes",
        ),
    ],
)
def test_a_fault_in_the_machinery_is_caught(
    target: Any,
    name: str,
    broken: Any,
    law: str,
    contract: Callable[[SearchSpace], CostedSpaceContract],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    checked = contract(_residual())
    getattr(checked, law)()
    monkeypatch.setattr(target, name, broken)
    with pytest.raises(AssertionError):
        getattr(checked, law)()
