"""The inverted residual family: blocks with elastic kernel, expand ratio and depth between a fixed stem and head.

MobileNetV3 and ProxylessNAS differ in widths, activations, squeeze-excite and head only; a `Plan` says which.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from supernet.arch import Activation, LayerSpec, Value
from supernet.spaces.base import ElasticDimension, LayerSite, SearchSpace, make_divisible, strided


@dataclass(frozen=True)
class Stage:
    """A run of blocks of one width; the first has the stride and, where shapes differ, no shortcut."""

    width: int
    stride: int
    activation: Activation
    squeeze_excite: bool
    max_depth: int = 4


@dataclass(frozen=True)
class HeadConv:
    """A 1x1 convolution between the last stage and the classifier.

    Attributes:
        name: of its layer site.
        width: output channels.
        activation: activation function.
        after_pool: whether it follows the global pool; it then has neither batch norm nor bias.
    """

    name: str
    width: int
    activation: Activation
    after_pool: bool = False


@dataclass(frozen=True)
class Plan:
    """Everything that is fixed in a space of the family.

    Attributes:
        stem_width: output channels of the 3x3 stem convolution.
        stem_stride: its stride.
        stem_activation: its activation function.
        first_width: output channels of the first block (expand 1, kernel 3, not elastic).
        first_stride: its stride.
        first_activation: its activation function.
        stages: the elastic stages.
        head: the 1x1 convolutions after them, those before the pool first.
    """

    stem_width: int
    stem_stride: int
    stem_activation: Activation
    first_width: int
    first_stride: int
    first_activation: Activation
    stages: tuple[Stage, ...]
    head: tuple[HeadConv, ...]


def inverted_residual_space(
    name: str,
    plan: Plan,
    *,
    resolutions: tuple[int, ...],
    num_classes: int,
    kernels: tuple[int, ...] = (3, 5, 7),
    expands: tuple[Value, ...] = (3, 4, 6),
    min_depth: int = 2,
    bn_eps: float = 1e-5,
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
        return (*sites, *_head_sites(plan, classes))

    return SearchSpace(name, num_classes, tuple(dimensions), build_sites, bn_eps)


def _size_before_stage(plan: Plan, resolution: int, stage: int) -> int:
    size = strided(strided(resolution, plan.stem_stride), plan.first_stride)
    for earlier in plan.stages[:stage]:
        size = strided(size, earlier.stride)
    return size


def squeeze_width(mid: int) -> int:
    """Channels between the two layers of squeeze-excite, for `mid` channels around them.

    Source: Howard et al., "Searching for MobileNetV3", ICCV 2019, section 5.3.
    """
    return make_divisible(mid // 4)


def _stem(plan: Plan, resolution: int) -> LayerSpec:
    return LayerSpec(
        "conv",
        in_size=resolution,
        out_size=strided(resolution, plan.stem_stride),
        in_channels=3,
        out_channels=plan.stem_width,
        kernel=3,
        stride=plan.stem_stride,
        activation=plan.stem_activation,
    )


def _first_block(plan: Plan, resolution: int) -> LayerSpec:
    size = strided(resolution, plan.stem_stride)
    return LayerSpec(
        "mbconv",
        in_size=size,
        out_size=strided(size, plan.first_stride),
        in_channels=plan.stem_width,
        out_channels=plan.first_width,
        mid_channels=plan.stem_width,
        kernel=3,
        stride=plan.first_stride,
        activation=plan.first_activation,
        shortcut=plan.first_stride == 1 and plan.first_width == plan.stem_width,
    )


def _block(
    plan: Plan, stage: int, block: int, resolution: int, depth: int, kernel: int, expand: Value
) -> LayerSpec | None:
    if depth <= block:
        return None
    here = plan.stages[stage]
    entry = _size_before_stage(plan, resolution, stage)
    if block == 0:
        in_channels = plan.stages[stage - 1].width if stage else plan.first_width
        in_size, stride = entry, here.stride
    else:
        in_channels, in_size, stride = here.width, strided(entry, here.stride), 1
    mid = make_divisible(round(in_channels * expand))
    return LayerSpec(
        "mbconv",
        in_size=in_size,
        out_size=strided(in_size, stride),
        in_channels=in_channels,
        out_channels=here.width,
        mid_channels=mid,
        kernel=kernel,
        stride=stride,
        se_channels=squeeze_width(mid) if here.squeeze_excite else 0,
        activation=here.activation,
        shortcut=stride == 1 and in_channels == here.width,
    )


def _head_sites(plan: Plan, classes: int) -> list[LayerSite]:
    sites = []
    width = plan.stages[-1].width
    for conv in plan.head:
        if conv.after_pool:
            continue
        sites.append(LayerSite(conv.name, (0,), partial(_conv_before_pool, plan, width, conv)))
        width = conv.width
    sites.append(LayerSite("pool", (0,), partial(_pool, plan, width)))
    for conv in plan.head:
        if conv.after_pool:
            spec = LayerSpec("conv", 1, 1, width, conv.width, activation=conv.activation, batch_norm=False)
            sites.append(LayerSite(conv.name, (), partial(_same, spec)))
            width = conv.width
    return [*sites, LayerSite("classifier", (), partial(_same, LayerSpec("linear", 1, 1, width, classes)))]


def _conv_before_pool(plan: Plan, in_channels: int, conv: HeadConv, resolution: int) -> LayerSpec:
    size = _size_before_stage(plan, resolution, len(plan.stages))
    return LayerSpec("conv", size, size, in_channels, conv.width, activation=conv.activation)


def _pool(plan: Plan, channels: int, resolution: int) -> LayerSpec:
    size = _size_before_stage(plan, resolution, len(plan.stages))
    return LayerSpec("pool", size, 1, channels, channels)


def _same(spec: LayerSpec) -> LayerSpec:
    return spec
