"""ProxylessNAS space for ImageNet: relu6, no squeeze-excite, and a last stage of a single block.

Source: Cai et al., "ProxylessNAS: Direct Neural Architecture Search on Target Task and Hardware", ICLR 2019; made
elastic in Cai et al., "Once-for-All", ICLR 2020.
"""

from __future__ import annotations

from supernet.spaces.base import IMAGENET_RESOLUTIONS, SearchSpace, make_divisible
from supernet.spaces.inverted_residual import HeadConv, Plan, Stage, inverted_residual_space


def _imagenet(name: str, width_mult: float) -> SearchSpace:
    def width(channels: int) -> int:
        return make_divisible(channels * width_mult)

    plan = Plan(
        stem_width=width(32),
        stem_stride=2,
        stem_activation="relu6",
        first_width=width(16),
        first_stride=1,
        first_activation="relu6",
        stages=(
            Stage(width(24), 2, "relu6", squeeze_excite=False),
            Stage(width(40), 2, "relu6", squeeze_excite=False),
            Stage(width(80), 2, "relu6", squeeze_excite=False),
            Stage(width(96), 1, "relu6", squeeze_excite=False),
            Stage(width(192), 2, "relu6", squeeze_excite=False),
            Stage(width(320), 1, "relu6", squeeze_excite=False, max_depth=1),
        ),
        head=(HeadConv("feature_mix", width(1280), "relu6"),),
    )
    return inverted_residual_space(name, plan, resolutions=IMAGENET_RESOLUTIONS, num_classes=1000, bn_eps=1e-3)


W1_3 = _imagenet("proxyless_w1.3", 1.3)
