from __future__ import annotations

import pytest

from supernet.errors import ConfigError
from supernet.spaces import SearchSpace, get_space, list_spaces
from supernet.training.recipes import IMAGENET, PROGRESSIVE_STAGES, RECIPES, SMALL_IMAGES, Preset, build_stages
from supernet.training.schedule import Stage


def _progressive(space: SearchSpace, **epochs: int) -> tuple[Stage, ...]:
    return build_stages("progressive", space, SMALL_IMAGES, epochs=dict.fromkeys(PROGRESSIVE_STAGES, 10) | epochs)


def _drawn(space: SearchSpace, stage: Stage, kind: str) -> tuple[float, ...]:
    """The values that a stage draws from, for all dimensions of a kind together."""
    return tuple(
        sorted(
            {
                dim.choices[index]
                for gene, dim in enumerate(space.dimensions)
                if dim.kind == kind
                for index in space.indices_within(gene, stage.choices, stage.greatest)
            }
        )
    )


def test_stages_open_kernel_depth_and_width_in_the_papers_order(tiny: SearchSpace) -> None:
    """Values: Cai et al., ICLR 2020, appendix B."""
    found = [
        (
            s.name,
            s.subnets_per_step,
            *(_drawn(tiny, s, kind) for kind in ("kernel", "depth", "expand")),
            s.sort_channels,
        )
        for s in _progressive(tiny)
    ]
    assert found == [
        ("largest", 1, (7,), (4,), (6,), None),
        ("kernel", 1, (3, 5, 7), (4,), (6,), None),
        ("depth1", 2, (3, 5, 7), (3, 4), (6,), None),
        ("depth2", 2, (3, 5, 7), (2, 3, 4), (6,), None),
        ("width1", 4, (3, 5, 7), (2, 3, 4), (4, 6), (6,)),
        ("width2", 4, (3, 5, 7), (2, 3, 4), (3, 4, 6), (6, 4)),
    ]


def test_a_space_without_elastic_kernels_gives_their_epochs_to_the_largest_network() -> None:
    space = get_space("resnet50")
    stages = _progressive(space, kernel=5)
    assert [(s.name, s.epochs) for s in stages] == [
        ("largest", 15),
        ("depth1", 10),
        ("depth2", 10),
        ("width1", 10),
        ("width2", 10),
    ]
    width1, width2 = stages[-2:]
    assert (_drawn(space, width1, "expand"), width1.sort_channels, width1.trained_widths) == (
        (0.25, 0.35),
        (0.35,),
        (1.0,),
    )
    assert (width2.sort_channels, width2.trained_widths) == ((0.35, 0.25), (1.0, 0.8))
    assert stages[1].greatest["depth"] == 2


def test_the_imagenet_preset_is_the_published_schedule(tiny: SearchSpace) -> None:
    """Values: Cai et al., ICLR 2020, appendix B: 120 + 5 epochs, rates a GPU of 64 images, here for 8 GPUs."""
    stages = build_stages("progressive", tiny, IMAGENET, processes=8)
    found = [(s.name, s.epochs, s.warmup_epochs, s.learning_rate / 8) for s in stages]
    assert found == [
        ("largest", 180, 5, pytest.approx(0.08125)),
        ("kernel", 125, 5, pytest.approx(3e-2)),
        ("depth1", 25, 0, pytest.approx(2.5e-3)),
        ("depth2", 125, 5, pytest.approx(7.5e-3)),
        ("width1", 25, 0, pytest.approx(2.5e-3)),
        ("width2", 125, 5, pytest.approx(7.5e-3)),
    ]
    assert IMAGENET.batch_size == 64
    assert IMAGENET.calibration_images == 2000


def test_only_the_largest_network_trains_without_a_teacher(tiny: SearchSpace) -> None:
    assert [stage.teacher for stage in _progressive(tiny)] == ["none"] + ["frozen"] * 5


def test_a_stage_without_epochs_is_left_out(tiny: SearchSpace) -> None:
    assert [stage.name for stage in _progressive(tiny, depth1=0, width1=0)] == ["largest", "kernel", "depth2", "width2"]


@pytest.mark.parametrize("recipe", sorted(RECIPES))
@pytest.mark.parametrize("total", [6, 23, 100])
@pytest.mark.parametrize("name", list_spaces())
def test_every_recipe_spends_exactly_the_epochs_that_it_gets(recipe: str, total: int, name: str) -> None:
    stages = build_stages(recipe, get_space(name), SMALL_IMAGES, epochs=total)
    assert sum(stage.epochs for stage in stages) == total
    assert all(stage.warmup_epochs <= stage.epochs for stage in stages)


def test_delayed_shrinking_is_half_the_largest_network_then_the_sandwich_on_one_curve(tiny: SearchSpace) -> None:
    first, second = build_stages("delayed", tiny, SMALL_IMAGES, epochs=20)
    assert (first.epochs, second.epochs, first.sampling, second.sampling) == (10, 10, "random", "sandwich")
    assert _drawn(tiny, first, "expand") == (6,)
    assert _drawn(tiny, second, "expand") == (3, 4, 6)
    assert first.learning_rate_at(10 * 5, 5) == pytest.approx(second.learning_rate_at(0, 5), rel=0.02)
    assert second.subnet_weight_at(0, 10) == pytest.approx(0.1)
    uneven = build_stages("delayed", tiny, SMALL_IMAGES, epochs={"largest": 5, "delayed": 15})
    assert [stage.cosine for stage in uneven] == [(0.0, 0.25), (0.25, 1.0)]
    (alone,) = build_stages("delayed", tiny, SMALL_IMAGES, epochs={"delayed": 10})
    assert alone.warmup_epochs == 1  # no stage before it has warmed up


def test_progressive_sandwich_opens_as_progressive_shrinking_does_on_one_curve(tiny: SearchSpace) -> None:
    epochs = {"largest": 4, "kernel": 1, "depth2": 2, "width2": 3}
    stages = build_stages("progressive-sandwich", tiny, SMALL_IMAGES, epochs=epochs)
    opened = build_stages("progressive", tiny, SMALL_IMAGES, epochs=epochs)
    for name in ("name", "epochs", "greatest", "choices", "sort_channels", "trained_widths"):
        assert [getattr(stage, name) for stage in stages] == [getattr(stage, name) for stage in opened]
    assert [stage.subnets_per_step for stage in stages] == [1, 2, 3, 4]
    assert [stage.teacher for stage in stages] == ["none", "in-place", "in-place", "in-place"]
    assert [stage.cosine for stage in stages] == [(0, 0.4), (0.4, 0.5), (0.5, 0.7), (0.7, 1)]
    assert [stage.warmup_epochs for stage in stages] == [1, 0, 0, 0]
    assert {stage.learning_rate for stage in stages} == {SMALL_IMAGES.learning_rates["progressive-sandwich"]}


def test_alphanet_is_the_sandwich_with_another_divergence(tiny: SearchSpace) -> None:
    (sandwich,) = build_stages("sandwich", tiny, SMALL_IMAGES, epochs=5)
    (alpha,) = build_stages("alphanet", tiny, SMALL_IMAGES, epochs=5)
    assert (sandwich.divergence, alpha.divergence) == ("cross-entropy", "alpha")
    assert (sandwich.sampling, sandwich.teacher, sandwich.subnets_per_step) == ("sandwich", "in-place", 4)
    assert (alpha.sampling, alpha.teacher, alpha.subnets_per_step) == ("sandwich", "in-place", 4)


@pytest.mark.parametrize("preset", [SMALL_IMAGES, IMAGENET])
@pytest.mark.parametrize("recipe", sorted(RECIPES))
def test_subnets_taught_in_place_see_true_labels_as_the_preset_says(
    recipe: str, preset: Preset, tiny: SearchSpace
) -> None:
    stages = build_stages(recipe, tiny, preset, epochs=12)
    assert {stage.label_ratio for stage in stages if stage.teacher == "in-place"} <= {preset.label_ratio}
    assert {stage.label_ratio for stage in stages if stage.teacher != "in-place"} <= {0}
    assert all(stage.taught_dropout == (stage.teacher != "in-place") for stage in stages)
    assert (SMALL_IMAGES.label_ratio, IMAGENET.label_ratio) == (1, 0)


@pytest.mark.parametrize("total", [6, 7, 34, 100, 999])
def test_epochs_are_split_without_loss(total: int) -> None:
    epochs = SMALL_IMAGES.split(total)
    assert sum(epochs.values()) == total
    assert min(epochs.values()) >= 1
    assert max(epochs, key=epochs.__getitem__) in ("largest", "width2")


def test_given_learning_rates_are_used_as_they_are_and_usual_ones_for_each_process(tiny: SearchSpace) -> None:
    (stage,) = build_stages("random", tiny, SMALL_IMAGES, epochs=5, processes=4)
    assert stage.learning_rate == pytest.approx(4 * SMALL_IMAGES.learning_rates["random"])
    (stage,) = build_stages("random", tiny, SMALL_IMAGES, epochs=5, processes=4, learning_rates={"random": 0.3})
    assert stage.learning_rate == 0.3


def test_impossible_recipes_are_refused(tiny: SearchSpace) -> None:
    with pytest.raises(ConfigError, match="unknown recipe 'bignas'; allowed: progressive, progressive-sandwich"):
        build_stages("bignas", tiny, SMALL_IMAGES, epochs=5)
    with pytest.raises(ConfigError, match="5 epochs for 6 stages; give at least 6"):
        build_stages("progressive", tiny, SMALL_IMAGES, epochs=5)
    with pytest.raises(ConfigError, match=r"epochs are .*; allowed: 0 or more a stage"):
        _progressive(tiny, kernel=-1)
    with pytest.raises(ConfigError, match="recipe 'progressive' has no stage kernels; its stages are largest, kernel"):
        _progressive(tiny, kernels=3)
    with pytest.raises(ConfigError, match="'progressive-sandwich' has no stage kernel; its stages are progressive-s"):
        build_stages("progressive-sandwich", tiny, SMALL_IMAGES, epochs=6, learning_rates={"kernel": 1.0})
    with pytest.raises(ConfigError, match="recipe 'random' has no stage kernel; its stages are random"):
        build_stages("random", tiny, SMALL_IMAGES, epochs=5, learning_rates={"kernel": 1.0})
    with pytest.raises(ConfigError, match="recipe 'delayed' has no stage largest; its stages are delayed"):
        build_stages("delayed", tiny, SMALL_IMAGES, epochs=6, learning_rates={"largest": 1.0})
    with pytest.raises(ConfigError, match="stage 'kernel' needs the largest network as its teacher"):
        build_stages("progressive", tiny, SMALL_IMAGES, epochs={"kernel": 3})
    with pytest.raises(ConfigError, match="has no usual length with preset 'small-images'; give --epochs"):
        build_stages("sandwich", tiny, SMALL_IMAGES)
