"""MobileNetV3 spaces: inverted residual blocks with elastic kernel, expand ratio and depth.

Source: Cai et al., "Once-for-All: Train One Network and Specialize it for Efficient Deployment", ICLR 2020,
section 3 and appendix A; the base network is Howard et al., "Searching for MobileNetV3", ICCV 2019.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from supernet.arch import Activation, LayerSpec, Value
from supernet.spaces.base import ElasticDimension, LayerSite, SearchSpace, make_divisible


@dataclass(frozen=True)
class Stage:
    """A run of blocks of one width; the first has the stride and, where shapes differ, no shortcut."""

    width: int
    stride: int
    activation: Activation
    squeeze_excite: bool
    max_depth: int = 4


@dataclass(frozen=True)
class MobileNetV3Plan:
    """Everything that is fixed in a MobileNetV3 space.

    Attributes:
        stem_width: output channels of the 3x3 stem convolution.
        stem_stride: its stride.
        first_width: output channels of the first block (expand 1, kernel 3, relu, not elastic).
        first_stride: its stride.
        stages: the elastic stages.
        final_width: channels of the 1x1 convolution before the pool.
        feature_width: channels of the 1x1 convolution after it (no batch norm, no bias).
    """

    stem_width: int
    stem_stride: int
    first_width: int
    first_stride: int
    stages: tuple[Stage, ...]
    final_width: int
    feature_width: int


def mobilenet_v3_space(
    name: str,
    plan: MobileNetV3Plan,
    *,
    resolutions: tuple[int, ...],
    num_classes: int,
    kernels: tuple[int, ...] = (3, 5, 7),
    expands: tuple[Value, ...] = (3, 4, 6),
    min_depth: int = 2,
) -> SearchSpace:
    """Build the space.

    Genes: the resolution; a depth a stage; then kernels of all blocks; then expand ratios of all blocks.
    """
    depth_gene = {stage: 1 + stage for stage in range(len(plan.stages))}
    positions = [(s, b) for s, stage in enumerate(plan.stages) for b in range(stage.max_depth)]
    dimensions = [ElasticDimension("resolution", 0, resolutions)]
    for s, stage in enumerate(plan.stages):
        dimensions.append(
            ElasticDimension("depth", s, tuple(range(min(min_depth, stage.max_depth), stage.max_depth + 1)))
        )
    for i, (s, b) in enumerate(positions):
        dimensions.append(ElasticDimension("kernel", i, kernels, needs_depth=(depth_gene[s], b + 1)))
    for i, (s, b) in enumerate(positions):
        dimensions.append(ElasticDimension("expand", i, expands, needs_depth=(depth_gene[s], b + 1)))
    first_kernel_gene = 1 + len(plan.stages)

    def build_sites(classes: int) -> tuple[LayerSite, ...]:
        sites = [
            LayerSite("stem", (0,), partial(_stem, plan)),
            LayerSite("first_block", (0,), partial(_first_block, plan)),
        ]
        for i, (s, b) in enumerate(positions):
            genes = (0, depth_gene[s], first_kernel_gene + i, first_kernel_gene + len(positions) + i)
            sites.append(LayerSite(f"stage{s + 1}_block{b + 1}", genes, partial(_block, plan, s, b)))
        sites += [
            LayerSite("final_expand", (0,), partial(_final_expand, plan)),
            LayerSite("pool", (0,), partial(_pool, plan)),
            LayerSite("feature_mix", (), partial(_feature_mix, plan)),
            LayerSite("classifier", (), partial(_classifier, plan, classes)),
        ]
        return tuple(sites)

    return SearchSpace(name, num_classes, tuple(dimensions), build_sites)


def _halve(size: int, stride: int) -> int:
    """Side of the output of a convolution padded by half its kernel."""
    return -(-size // stride)


def _size_before_stage(plan: MobileNetV3Plan, resolution: int, stage: int) -> int:
    size = _halve(_halve(resolution, plan.stem_stride), plan.first_stride)
    for earlier in plan.stages[:stage]:
        size = _halve(size, earlier.stride)
    return size


def _se_channels(mid: int) -> int:
    return make_divisible(mid // 4)


def _stem(plan: MobileNetV3Plan, resolution: int) -> LayerSpec:
    return LayerSpec(
        "conv",
        in_size=resolution,
        out_size=_halve(resolution, plan.stem_stride),
        in_channels=3,
        out_channels=plan.stem_width,
        kernel=3,
        stride=plan.stem_stride,
        activation="h_swish",
    )


def _first_block(plan: MobileNetV3Plan, resolution: int) -> LayerSpec:
    size = _halve(resolution, plan.stem_stride)
    return LayerSpec(
        "mbconv",
        in_size=size,
        out_size=_halve(size, plan.first_stride),
        in_channels=plan.stem_width,
        out_channels=plan.first_width,
        mid_channels=plan.stem_width,
        kernel=3,
        stride=plan.first_stride,
        activation="relu",
        shortcut=plan.first_stride == 1 and plan.first_width == plan.stem_width,
    )


def _block(
    plan: MobileNetV3Plan, stage: int, block: int, resolution: int, depth: int, kernel: int, expand: Value
) -> LayerSpec | None:
    if depth <= block:
        return None
    here = plan.stages[stage]
    entry = _size_before_stage(plan, resolution, stage)
    if block == 0:
        in_channels = plan.stages[stage - 1].width if stage else plan.first_width
        in_size, stride = entry, here.stride
    else:
        in_channels, in_size, stride = here.width, _halve(entry, here.stride), 1
    mid = make_divisible(round(in_channels * expand))
    return LayerSpec(
        "mbconv",
        in_size=in_size,
        out_size=_halve(in_size, stride),
        in_channels=in_channels,
        out_channels=here.width,
        mid_channels=mid,
        kernel=kernel,
        stride=stride,
        se_channels=_se_channels(mid) if here.squeeze_excite else 0,
        activation=here.activation,
        shortcut=stride == 1 and in_channels == here.width,
    )


def _final_expand(plan: MobileNetV3Plan, resolution: int) -> LayerSpec:
    size = _size_before_stage(plan, resolution, len(plan.stages))
    return LayerSpec("conv", size, size, plan.stages[-1].width, plan.final_width, activation="h_swish")


def _pool(plan: MobileNetV3Plan, resolution: int) -> LayerSpec:
    size = _size_before_stage(plan, resolution, len(plan.stages))
    return LayerSpec("pool", size, 1, plan.final_width, plan.final_width)


def _feature_mix(plan: MobileNetV3Plan) -> LayerSpec:
    return LayerSpec("conv", 1, 1, plan.final_width, plan.feature_width, activation="h_swish", batch_norm=False)


def _classifier(plan: MobileNetV3Plan, classes: int) -> LayerSpec:
    return LayerSpec("linear", 1, 1, plan.feature_width, classes)


TINY = mobilenet_v3_space(
    "mobilenet_v3_tiny",
    MobileNetV3Plan(
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
    ),
    resolutions=(16, 20, 24, 28, 32),
    num_classes=10,
)
"""For 16 to 32 pixel images: the ImageNet network's parts, with a stride of 8, not 32, and three stages, not five."""


def _imagenet_plan(width_mult: float) -> MobileNetV3Plan:
    """MobileNetV3-Large with four blocks a stage; every width is multiplied."""

    def width(channels: int) -> int:
        return make_divisible(channels * width_mult)

    return MobileNetV3Plan(
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


IMAGENET_RESOLUTIONS = tuple(range(128, 225, 4))

W1_0 = mobilenet_v3_space("mobilenet_v3_w1.0", _imagenet_plan(1.0), resolutions=IMAGENET_RESOLUTIONS, num_classes=1000)
W1_2 = mobilenet_v3_space("mobilenet_v3_w1.2", _imagenet_plan(1.2), resolutions=IMAGENET_RESOLUTIONS, num_classes=1000)
