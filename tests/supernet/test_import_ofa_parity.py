"""Imported networks compute what the authors' package computes; expected values come from that package itself."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from reference import (
    MISSING,
    SPACES,
    activate_random,
    config_of,
    randomise,
    reference,
    reference_supernet,
    smooth_images,
)
from torch import Tensor

from latency_tables import macs, params
from latency_tables.counter import counted_macs
from supernet.import_ofa import load_ofa_net_config, load_ofa_state_dict, load_ofa_subnet
from supernet.network import Subnet, Supernet

pytest.importorskip("ofa", reason=MISSING)

SUBNETS = 20
RESOLUTIONS = (128, 132, 144)
"""Of 132 pixels the feature maps have odd sides, where paddings and average pools could differ."""
TOLERANCE = 1e-5
"""Largest difference of logits over the largest logit."""
SPECIALISED = Path(__file__).parents[3] / "shared" / "data" / "ofa" / "specialized"
PUBLISHED_MACS = {"flops-389M_top1-79.1_finetune-75": 389, "flops-595M_top1-80.0_finetune-75": 595}


@dataclass
class Pair:
    """The reference's supernet and ours, with the same random weights."""

    theirs: Any
    ours: Supernet


@pytest.fixture(scope="module", params=SPACES)
def pair(request: pytest.FixtureRequest) -> Pair:
    theirs = randomise(reference_supernet(request.param, n_classes=100))
    return Pair(theirs, load_ofa_state_dict(request.param, theirs.state_dict()))


def _error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


def _draw(pair: Pair, rng: np.random.Generator, resolution: int) -> None:
    """Make the same random subnet active in both."""
    pair.ours.activate(config_of(pair.ours.space, activate_random(pair.theirs, rng), resolution))


@torch.no_grad()
def test_every_subnet_computes_what_the_references_does(pair: Pair, rng: np.random.Generator) -> None:
    logits = []
    for number in range(SUBNETS):
        resolution = RESOLUTIONS[number % len(RESOLUTIONS)]
        images = smooth_images(1, resolution, seed=number)
        _draw(pair, rng, resolution)
        expected = pair.theirs(images)
        assert _error(pair.ours(images), expected) < TOLERANCE
        assert _error(pair.ours.extract(pair.ours.active)(images), expected) < TOLERANCE
        logits.append(expected)
    assert torch.cat(logits).std(0).mean() > 0.02 * torch.cat(logits).abs().mean()  # or the test would mean nothing


@torch.no_grad()
def test_in_double_precision_only_rounding_is_left(pair: Pair, rng: np.random.Generator) -> None:
    double = Pair(copy.deepcopy(pair.theirs).double(), copy.deepcopy(pair.ours).double())
    images = smooth_images(1, 132).double()
    _draw(double, rng, 132)
    assert _error(double.ours(images), double.theirs(images)) < 1e-12


@torch.no_grad()
def test_the_references_own_subnet_imports_as_the_subnet_that_we_extract(pair: Pair, rng: np.random.Generator) -> None:
    for resolution in (128, 132):
        _draw(pair, rng, resolution)
        theirs = pair.theirs.get_active_subnet().eval()
        net_config = json.loads(json.dumps(theirs.config))
        imported = load_ofa_subnet(net_config, theirs.state_dict(), resolution=resolution)
        assert isinstance(imported, Subnet)
        assert imported.config == pair.ours.active
        extracted = pair.ours.extract(pair.ours.active).state_dict()
        assert extracted.keys() == imported.state_dict().keys()
        for name, tensor in imported.state_dict().items():
            assert _error(extracted[name], tensor) < 1e-5 if tensor.ndim else True, name
        images = smooth_images(2, resolution)
        assert _error(imported(images), theirs(images)) < TOLERANCE


@torch.no_grad()
def test_batch_norms_in_training_mode_give_the_same_and_learn_the_same_statistics(
    pair: Pair, rng: np.random.Generator
) -> None:
    training = Pair(copy.deepcopy(pair.theirs).train(), copy.deepcopy(pair.ours).train())
    images = smooth_images(4, 128)
    _draw(training, rng, 128)
    assert _error(training.ours(images), training.theirs(images)) < 1e-4  # batch statistics magnify rounding
    learnt = load_ofa_state_dict(pair.ours.space.name, training.theirs.state_dict()).state_dict()
    for name, tensor in training.ours.state_dict().items():
        torch.testing.assert_close(tensor, learnt[name], rtol=1e-3, atol=1e-4, msg=name)


def _sort_both(pair: Pair, *, stage: int, trained: tuple[float, ...]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Sorted weights, ours and the reference's; in double precision, where no two channels are equally important."""
    double = Pair(copy.deepcopy(pair.theirs).double(), copy.deepcopy(pair.ours).double())
    double.theirs.re_organize_middle_weights(expand_ratio_stage=stage)
    double.ours.sort_channels(trained)
    return (
        double.ours.float().state_dict(),
        load_ofa_state_dict(pair.ours.space.name, double.theirs.state_dict()).state_dict(),
    )


@torch.no_grad()
def test_sorting_channels_gives_the_order_that_the_reference_gives(pair: Pair) -> None:
    ours, theirs = _sort_both(pair, stage=0, trained=())
    assert [name for name, tensor in ours.items() if not torch.equal(tensor, theirs[name])] == []


@torch.no_grad()
def test_a_second_sorting_keeps_the_trained_widths_as_the_reference_does(pair: Pair) -> None:
    if pair.ours.space.name == "resnet50":
        pytest.skip("the reference keeps the sets of the full output width only, ours those of every output width")
    ours, theirs = _sort_both(pair, stage=1, trained=(4, 6))
    different = [name for name, tensor in ours.items() if not torch.equal(tensor, theirs[name])]
    assert all("squeeze_excite" in name for name in different)  # the reference mixes what its bottleneck has trained


@torch.no_grad()
def test_a_transposed_kernel_transform_would_be_noticed(pair: Pair) -> None:
    keys = [name for name in pair.theirs.state_dict() if name.endswith("_matrix")]
    if not keys:
        pytest.skip("no elastic kernels")
    space = pair.ours.space
    images = smooth_images(2, 128)
    pair.ours.activate(space.smallest())
    expected = pair.ours(images)
    for key in keys[:2]:
        transposed = pair.theirs.state_dict() | {key: pair.theirs.state_dict()[key].T}
        other = load_ofa_state_dict(space.name, transposed)
        other.activate(space.smallest())
        assert _error(other(images), expected) > 100 * TOLERANCE, key


@pytest.mark.parametrize("space", ["mobilenet_v3_w1.0", "proxyless_w1.3"])
def test_older_keys_wrappers_and_missing_counters_make_no_difference(space: str) -> None:
    state = reference_supernet(space, n_classes=7).state_dict()
    expected = load_ofa_state_dict(space, state).state_dict()
    older = {
        name.replace(".conv.", ".mobile_inverted_conv.", 1) if name.startswith("blocks.") else name: tensor
        for name, tensor in state.items()
    }
    everything = {
        "state_dict": {f"module.{name}": tensor for name, tensor in older.items() if "num_batches" not in name},
        "epoch": 3,
    }
    for form in (older, everything):
        found = load_ofa_state_dict(space, form).state_dict()
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def _published() -> list[Path]:
    return sorted(SPECIALISED.glob("*/")) if SPECIALISED.is_dir() else []


needs_published = pytest.mark.skipif(not _published(), reason=f"the published architectures are absent: {SPECIALISED}")


@needs_published
def test_all_published_architectures_load_with_exact_costs() -> None:
    outside = []
    for folder in _published():
        files = folder / "net.config", folder / "run.config"
        net_config, resolution = json.loads(files[0].read_text()), json.loads(files[1].read_text())["image_size"]
        with torch.device("meta"):
            networks = reference("imagenet_classification.networks")
            theirs = networks.get_net_by_name(net_config["name"]).build_from_config(copy.deepcopy(net_config))
        layers = load_ofa_net_config(*files)
        assert layers[0].in_size == resolution
        assert params(layers) == sum(parameter.numel() for parameter in theirs.parameters())
        zeros = {name: torch.zeros(tensor.shape) for name, tensor in theirs.state_dict().items()}
        ours = load_ofa_subnet(net_config, zeros, resolution=resolution)
        assert counted_macs(ours, resolution) == macs(layers)
        outside += [folder.name] * (not isinstance(ours, Subnet))
        if folder.name in PUBLISHED_MACS:
            assert macs(layers) / 1e6 == pytest.approx(PUBLISHED_MACS[folder.name], abs=0.5)  # as it was rounded
    assert len(_published()) == 25
    assert outside == ["flops-595M_top1-80.0_finetune-75", "pixel1_lat-143ms_top1-80.1_finetune-75"]  # 236, 240 pixels


@needs_published
@torch.no_grad()
@pytest.mark.parametrize("name", ["flops-595M_top1-80.0_finetune-75", "cpu_lat-10ms_top1-71.1_finetune-25"])
def test_a_published_architecture_with_random_weights_computes_what_the_references_does(name: str) -> None:
    net_config = json.loads((SPECIALISED / name / "net.config").read_text())
    networks = reference("imagenet_classification.networks")
    theirs = networks.get_net_by_name(net_config["name"]).build_from_config(copy.deepcopy(net_config))
    theirs.train()(smooth_images(4, 128))  # statistics that are not the initial ones
    ours = load_ofa_subnet(net_config, theirs.eval().state_dict(), resolution=128)
    images = smooth_images(2, 128, seed=1).double()
    assert _error(ours.double()(images), theirs.double()(images)) < 1e-12
