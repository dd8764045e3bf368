"""MobileNetV3 spaces: 16 to 32 pixel images (`TINY`), and ImageNet at two widths (`W1_0`, `W1_2`).

Source: Cai et al., "Once-for-All: Train One Network and Specialize it for Efficient Deployment", ICLR 2020,
section 3 and appendix A; the base network is Howard et al., "Searching for MobileNetV3", ICCV 2019.
"""

from __future__ import annotations

from supernet.spaces.base import IMAGENET_RESOLUTIONS, SearchSpace, make_divisible
from supernet.spaces.inverted_residual import HeadConv, Plan, Stage, inverted_residual_space


def mobilenet_v3_plan(
    *,
    stem_width: int,
    stem_stride: int,
    first_width: int,
    first_stride: int,
    stages: tuple[Stage, ...],
    final_width: int,
    feature_width: int,
) -> Plan:
    """A plan with MobileNetV3's activations and its head: one wide convolution before the pool, one after it."""
    return Plan(
        stem_width=stem_width,
        stem_stride=stem_stride,
        stem_activation="h_swish",
        first_width=first_width,
        first_stride=first_stride,
        first_activation="relu",
        stages=stages,
        head=(
            HeadConv("final_expand", final_width, "h_swish"),
            HeadConv("feature_mix", feature_width, "h_swish", after_pool=True),
        ),
    )


def _imagenet(name: str, width_mult: float) -> SearchSpace:
    """MobileNetV3-Large with four blocks a stage; every width is multiplied."""

    def width(channels: int) -> int:
        return make_divisible(channels * width_mult)

    plan = mobilenet_v3_plan(
        stem_width=width(16),
        stem_stride=2,
        first_width=width(16),
        first_stride=1,
        stages=(
            Stage(width(24), 2, "relu", squeeze_excite=False),
            Stage(width(40), 2, "relu", squeeze_excite=True),
            Stage(width(80), 2, "h_swish", squeeze_excite=False),
            Stage(width(112), 1, "h_swish", squeeze_excite=True),
            Stage(width(160), 2, "h_swish", squeeze_excite=True),
        ),
        final_width=width(960),
        feature_width=width(1280),
    )
    return inverted_residual_space(name, plan, resolutions=IMAGENET_RESOLUTIONS, num_classes=1000)


W1_0 = _imagenet("mobilenet_v3_w1.0", 1.0)
W1_2 = _imagenet("mobilenet_v3_w1.2", 1.2)

TINY_PLAN = mobilenet_v3_plan(
    stem_width=16,
    stem_stride=1,
    first_width=16,
    first_stride=2,
    stages=(
        Stage(24, 2, "relu", squeeze_excite=False),
        Stage(40, 2, "h_swish", squeeze_excite=True),
        Stage(64, 1, "h_swish", squeeze_excite=True),
    ),
    final_width=192,
    feature_width=256,
)
"""For 16 to 32 pixel images: the ImageNet network's parts, with a stride of 8, not 32, and three stages, not five."""

TINY = inverted_residual_space("mobilenet_v3_tiny", TINY_PLAN, resolutions=(16, 20, 24, 28, 32), num_classes=10)
