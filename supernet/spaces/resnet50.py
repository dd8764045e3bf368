"""ResNet50 space for ImageNet: bottleneck blocks with elastic depth, middle and outer width, and an elastic stem.

Source: Cai et al., "Once-for-All: Train One Network and Specialize it for Efficient Deployment", ICLR 2020 (the
released `ofa_resnet50`); the base network is ResNet-D of He et al., "Bag of Tricks for Image Classification with
Convolutional Neural Networks", CVPR 2019, section 4.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from supernet.arch import LayerSpec, Value
from supernet.spaces.base import IMAGENET_RESOLUTIONS, ElasticDimension, LayerSite, SearchSpace, make_divisible, strided

STEM_DEPTHS = (0, 2)
"""The stem's depth gene: 2 with its residual convolution, 0 without (the reference's two values)."""


@dataclass(frozen=True)
class Stage:
    """A run of bottleneck blocks of one width; the first has the stride and a projected shortcut."""

    width: int
    stride: int
    least_depth: int


@dataclass(frozen=True)
class Plan:
    """Everything that is fixed in a ResNet space.

    Attributes:
        stem_width: output channels of the stem at multiplier 1; its inner channels are half.
        stages: the stages, with widths at multiplier 1.
        extra_depths: what a stage's depth may add to its least number of blocks, ascending from 0.
        expands: ratios of a block's middle channels to its output channels, ascending.
        multipliers: width multipliers, ascending.
    """

    stem_width: int
    stages: tuple[Stage, ...]
    extra_depths: tuple[int, ...] = (0, 1, 2)
    expands: tuple[Value, ...] = (0.2, 0.25, 0.35)
    multipliers: tuple[Value, ...] = (0.65, 0.8, 1.0)

    def stem_channels(self, multiplier: Value) -> int:
        """Channels of the stem's output."""
        return make_divisible(self.stem_width * multiplier)

    def stem_inner_channels(self, multiplier: Value) -> int:
        """Channels inside of the stem."""
        return make_divisible(self.stem_channels(multiplier) // 2)

    def stage_channels(self, stage: int, multiplier: Value) -> int:
        """Output channels of a stage's blocks; of stage -1, those of the stem."""
        return self.stem_channels(multiplier) if stage < 0 else make_divisible(self.stages[stage].width * multiplier)

    def size_before_stage(self, resolution: int, stage: int) -> int:
        """Side of the feature map that enters a stage, behind the stem's convolution and max pool of stride 2."""
        size = strided(strided(resolution, 2), 2)
        for earlier in self.stages[:stage]:
            size = strided(size, earlier.stride)
        return size


def resnet_space(name: str, plan: Plan, *, resolutions: tuple[int, ...], num_classes: int) -> SearchSpace:
    """Build the space.

    Genes: the resolution; the stem's depth and a depth a stage; expand ratios of all blocks; width multipliers of the
    stem's inner channels, of its output, and of each stage.
    """
    stages = range(len(plan.stages))
    positions = [
        (s, b) for s, stage in enumerate(plan.stages) for b in range(stage.least_depth + max(plan.extra_depths))
    ]
    stem_depth = 1
    depth_gene = [2 + s for s in stages]
    first_expand = 2 + len(plan.stages)
    stem_inner = first_expand + len(positions)
    stem_out = stem_inner + 1
    width_gene = [stem_out + 1 + s for s in stages]

    dimensions = [ElasticDimension("resolution", 0, resolutions), ElasticDimension("depth", 0, STEM_DEPTHS)]
    dimensions += [ElasticDimension("depth", 1 + s, plan.extra_depths) for s in stages]
    for i, (s, b) in enumerate(positions):
        extra = b + 1 - plan.stages[s].least_depth
        dimensions.append(
            ElasticDimension("expand", i, plan.expands, needs_depth=(depth_gene[s], extra) if extra > 0 else None)
        )
    channels: list[Callable[[Value], int]] = [
        plan.stem_inner_channels,
        plan.stem_channels,
        *(partial(plan.stage_channels, s) for s in stages),
    ]
    dimensions += [_width_dimension(index, plan.multipliers, function) for index, function in enumerate(channels)]

    def build_sites(classes: int) -> tuple[LayerSite, ...]:
        sites = [
            LayerSite("stem_first", (0, stem_inner), partial(_stem_first, plan)),
            LayerSite("stem_residual", (0, stem_depth, stem_inner), partial(_stem_residual, plan)),
            LayerSite("stem_last", (0, stem_inner, stem_out), partial(_stem_last, plan)),
            LayerSite("max_pool", (0, stem_out), partial(_max_pool, plan)),
        ]
        for i, (s, b) in enumerate(positions):
            name, expand = f"stage{s + 1}_block{b + 1}", first_expand + i
            if b == 0:
                before = width_gene[s - 1] if s else stem_out
                genes: tuple[int, ...] = (0, expand, before, width_gene[s])
                sites.append(LayerSite(name, genes, partial(_first_block, plan, s)))
            else:
                genes = (0, depth_gene[s], expand, width_gene[s])
                sites.append(LayerSite(name, genes, partial(_later_block, plan, s, b)))
        sites += [
            LayerSite("pool", (0, width_gene[-1]), partial(_pool, plan)),
            LayerSite("classifier", (width_gene[-1],), partial(_classifier, plan, classes)),
        ]
        return tuple(sites)

    return SearchSpace(name, num_classes, tuple(dimensions), build_sites)


def _width_dimension(index: int, multipliers: Sequence[Value], channels: Callable[[Value], int]) -> ElasticDimension:
    """Multipliers that round to the same channels are one choice, named by the least of them."""
    choices: dict[int, Value] = {}
    aliases = []
    for multiplier in multipliers:
        choice = choices.setdefault(channels(multiplier), multiplier)
        if choice != multiplier:
            aliases.append((multiplier, choice))
    return ElasticDimension("width", index, tuple(choices.values()), aliases=tuple(aliases))


def _stem_first(plan: Plan, resolution: int, inner: Value) -> LayerSpec:
    return LayerSpec(
        "conv",
        in_size=resolution,
        out_size=strided(resolution, 2),
        in_channels=3,
        out_channels=plan.stem_inner_channels(inner),
        kernel=3,
        stride=2,
        activation="relu",
    )


def _stem_residual(plan: Plan, resolution: int, depth: int, inner: Value) -> LayerSpec | None:
    if depth == 0:
        return None
    size, channels = strided(resolution, 2), plan.stem_inner_channels(inner)
    return LayerSpec("conv", size, size, channels, channels, kernel=3, activation="relu", shortcut=True)


def _stem_last(plan: Plan, resolution: int, inner: Value, out: Value) -> LayerSpec:
    size = strided(resolution, 2)
    channels = plan.stem_inner_channels(inner), plan.stem_channels(out)
    return LayerSpec("conv", size, size, *channels, kernel=3, activation="relu")


def _max_pool(plan: Plan, resolution: int, out: Value) -> LayerSpec:
    channels = plan.stem_channels(out)
    size = strided(resolution, 2)
    return LayerSpec("max_pool", size, strided(size, 2), channels, channels, kernel=3, stride=2)


def _first_block(plan: Plan, stage: int, resolution: int, expand: Value, before: Value, width: Value) -> LayerSpec:
    size, stride = plan.size_before_stage(resolution, stage), plan.stages[stage].stride
    out = plan.stage_channels(stage, width)
    return LayerSpec(
        "bottleneck",
        in_size=size,
        out_size=strided(size, stride),
        in_channels=plan.stage_channels(stage - 1, before),
        out_channels=out,
        mid_channels=make_divisible(round(out * expand)),
        kernel=3,
        stride=stride,
        activation="relu",
    )


def _later_block(
    plan: Plan, stage: int, block: int, resolution: int, extra_depth: int, expand: Value, width: Value
) -> LayerSpec | None:
    if plan.stages[stage].least_depth + extra_depth <= block:
        return None
    size, out = plan.size_before_stage(resolution, stage + 1), plan.stage_channels(stage, width)
    return LayerSpec(
        "bottleneck",
        in_size=size,
        out_size=size,
        in_channels=out,
        out_channels=out,
        mid_channels=make_divisible(round(out * expand)),
        kernel=3,
        activation="relu",
        shortcut=True,
    )


def _pool(plan: Plan, resolution: int, width: Value) -> LayerSpec:
    channels = plan.stage_channels(len(plan.stages) - 1, width)
    return LayerSpec("pool", plan.size_before_stage(resolution, len(plan.stages)), 1, channels, channels)


def _classifier(plan: Plan, classes: int, width: Value) -> LayerSpec:
    return LayerSpec("linear", 1, 1, plan.stage_channels(len(plan.stages) - 1, width), classes)


RESNET50 = resnet_space(
    "resnet50",
    Plan(stem_width=64, stages=(Stage(256, 1, 2), Stage(512, 2, 2), Stage(1024, 2, 4), Stage(2048, 2, 2))),
    resolutions=IMAGENET_RESOLUTIONS,
    num_classes=1000,
)
