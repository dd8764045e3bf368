"""Networks of torchvision, timm and our own: half of the units zeroed at random, constructed, compared.

The large ones, and the time beside other packages, are in benchmarks/pruning_groups.py.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import nn

from pruning import ZeroInvariantGroups
from pruning.selftest import run
from tests.pruning.networks import Carn, UNet, tiny_subnet

NETWORKS: dict[str, tuple[Callable[[], nn.Module], int, str]] = {
    "unet": (UNet, 16, "modules"),
    "carn": (Carn, 12, "modules"),
    "our subnet": (tiny_subnet, 32, "modules"),
    "resnet18": (lambda: torchvision.models.resnet18(weights=None), 32, "modules"),
    "mobilenet v3": (lambda: torchvision.models.mobilenet_v3_small(weights=None), 64, "modules"),
    "shufflenet v2": (lambda: torchvision.models.shufflenet_v2_x0_5(weights=None), 32, "program"),
    "densenet": (lambda: torchvision.models.DenseNet(8, (2, 3, 2, 2), 16, num_classes=10), 32, "modules"),
    "regnet": (lambda: torchvision.models.regnet_y_400mf(weights=None), 32, "modules"),
    "convnext": (lambda: _convnext(), 32, "modules"),
    "vision transformer": (lambda: torchvision.models.VisionTransformer(32, 8, 2, 4, 32, 64), 32, "program"),
    "swin": (lambda: torchvision.models.SwinTransformer([4, 4], 24, [2, 2], [2, 4], [4, 4]), 64, "program"),
}


def _convnext() -> nn.Module:
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    return ConvNeXt([CNBlockConfig(16, 32, 2), CNBlockConfig(32, None, 2)])


@pytest.mark.parametrize("name", NETWORKS)
def test_compact_network_computes_the_same(name: str) -> None:
    build, size, form = NETWORKS[name]
    torch.manual_seed(0)
    model = build().eval()
    images = torch.randn(2, 3, size, size)
    groups = ZeroInvariantGroups(model, images)
    compact, plan = run(groups, 0.5, 0)
    with torch.no_grad():
        scale = float(compact(images).abs().max())
    assert plan.error <= 1e-5 * scale
    assert plan.signal >= 100 * plan.error
    assert plan.form == form
    assert plan.params == sum(p.numel() for p in compact.parameters())
    assert groups.prunable_share > 0.25  # small transformers: little but what the residual stream fixes


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"])
def test_timm_transformers_keep_their_modules(name: str) -> None:
    timm = pytest.importorskip("timm", reason="a part of the extra dev")
    torch.manual_seed(0)
    model = timm.create_model(name, img_size=64, depth=2) if name.startswith("vit") else None
    model = (model or timm.create_model(name, img_size=64, depths=(1, 1), num_heads=(3, 6))).eval()
    compact, plan = run(ZeroInvariantGroups(model, torch.randn(2, 3, 64, 64)), 0.5, 0)
    assert plan.form == "modules"
    assert plan.signal >= 100 * plan.error
    assert type(compact) is type(model)
