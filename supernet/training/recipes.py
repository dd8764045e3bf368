"""Training recipes: how the subnets of a space come to be trained together, each as a list of stages.

progressive   the largest network first, then elastic kernels, depths and widths, with the largest as a frozen teacher
              (Cai et al., "Once-for-All", ICLR 2020, section 3.3 and appendix B)
sandwich      one stage; every step trains the largest, some random and the smallest subnet, and the largest teaches
              the others in place (Yu et al., "BigNAS", ECCV 2020, section 3)
progressive-sandwich
              kernels, depths and widths open one after the other as in progressive shrinking, but every step is a
              sandwich of what is open, the largest network teaches in place and trains to the end, and all stages are
              on one learning rate curve (ours)
alphanet      the sandwich with the alpha-divergence as the distance from the teacher (Wang et al., ICML 2021)
random        one stage; a random subnet a step, no teacher (Random Subnet Sampling, a cheap baseline)
delayed       the largest network alone for the first half of the epochs, then the sandwich on the same learning rate
              curve, with the subnets' gradients faded in (Annavajjala et al., "Delayed epsilon-Shrinking", ECCV 2024)

In place, the largest teaches beside the true labels where the preset's `label_ratio` says so (as published: never), and
it alone has dropout (BigNAS, section 3).
Their numbers come from a `Preset`: "small-images" (ours, found on held-out images) or "imagenet" (the paper's for
progressive shrinking, ours for the others).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from supernet.arch import Value
from supernet.errors import ConfigError, one_of
from supernet.spaces import Kind, SearchSpace
from supernet.training.schedule import Divergence, Stage

PROGRESSIVE_STAGES = ("largest", "kernel", "depth1", "depth2", "width1", "width2")
PUBLISHED_SANDWICH = 4
"""Subnets a step in BigNAS: the largest, two random ones, the smallest."""
_IN_STAGES = ("progressive", "progressive-sandwich")
"""Recipes whose epochs are given by stage of progressive shrinking."""
RAMP_SHARE = 0.1
"""Share of a delayed recipe's second half in which the subnets' gradients are faded in."""


@dataclass(frozen=True)
class Preset:
    """Epochs and learning rates of every recipe, for one kind of data.

    Attributes:
        name: as `--preset` knows it.
        recipe: the one to take where none is asked for.
        batch_size: images a step and process that the learning rates are made for.
        label_smoothing, weight_decay, dropout: as in `TrainingSettings`.
        label_ratio: as in `Stage`, for every recipe with a teacher in place.
        sandwich_subnets: subnets a step of "sandwich", "alphanet" and "delayed": the largest, the smallest, and random
            ones between them.
        calibration_images: training images kept for batch norm calibration.
        progressive_epochs: epochs a stage, or None where `progressive_shares` divides a total.
        progressive_shares: share of all epochs a stage.
        warmup_epochs: stage name -> epochs of warm-up; None: a tenth of each stage.
        learning_rates: stage of progressive shrinking, or other recipe, -> greatest learning rate a process.
        epochs: recipe name -> epochs in all, where a recipe has a usual length.
    """

    name: str
    recipe: str
    batch_size: int
    label_smoothing: float
    weight_decay: float
    dropout: float
    label_ratio: float
    sandwich_subnets: int
    calibration_images: int
    progressive_shares: Mapping[str, float]
    learning_rates: Mapping[str, float]
    progressive_epochs: Mapping[str, int] | None = None
    warmup_epochs: Mapping[str, float] | None = None
    epochs: Mapping[str, int] | None = None

    def warmup(self, stage: str, epochs: int) -> float:
        """Warm-up of a stage of that many epochs."""
        return 0.1 * epochs if self.warmup_epochs is None else min(self.warmup_epochs.get(stage, 0.0), 0.5 * epochs)

    def split(self, total: int | None) -> dict[str, int]:
        """Epochs of the stages of progressive shrinking.

        Args:
            total: epochs in all; None: the preset's own.

        Raises:
            ConfigError: fewer epochs than stages, or the preset has none of its own.
        """
        if total is None and self.progressive_epochs is not None:
            return dict(self.progressive_epochs)
        if total is None or total < len(PROGRESSIVE_STAGES):
            raise ConfigError(
                f"{total} epochs for {len(PROGRESSIVE_STAGES)} stages; give at least {len(PROGRESSIVE_STAGES)}, or "
                "name stages: largest=10,kernel=2"
            )
        epochs = {name: max(1, int(total * share)) for name, share in self.progressive_shares.items()}
        while sum(epochs.values()) > total:  # few epochs: the stages' least lengths are more than their shares
            epochs[max(epochs, key=epochs.__getitem__)] -= 1
        epochs["width2"] += total - sum(epochs.values())
        return epochs


SMALL_IMAGES = Preset(
    name="small-images",
    recipe="sandwich",
    batch_size=32,
    label_smoothing=0.1,
    weight_decay=3e-5,
    dropout=0.1,
    label_ratio=1.0,
    sandwich_subnets=PUBLISHED_SANDWICH,
    calibration_images=512,
    progressive_shares={
        "largest": 0.35,
        "kernel": 0.09,
        "depth1": 0.045,
        "depth2": 0.09,
        "width1": 0.045,
        "width2": 0.38,
    },
    learning_rates={
        "largest": 0.1,
        "kernel": 0.05,
        "depth1": 0.02,
        "depth2": 0.05,
        "width1": 0.03,
        "width2": 0.08,
        "progressive-sandwich": 0.1,
        "sandwich": 0.1,
        "alphanet": 0.1,
        "random": 0.1,
        "delayed": 0.1,
    },
)
"""Images of 8 to 32 pixels, learning rates for batches of 32.

The recipe: on Fashion-MNIST (60,000 images, 10 epochs, one seed, benchmarks/training_recipes.py) the mean held-out
accuracy of five subnets was 91.0 % with the sandwich, 90.1 with "progressive-sandwich" at 0.78 of its cost, 88.8 with
"progressive" at 0.81, 89.0 with "random" at 0.18; both sandwiches without true labels for taught subnets.

True labels beside the teacher in place, and no dropout for those whom it teaches: on 12,000 of these images, 8 epochs,
one seed, the sandwich's mean was 85.1 % without both and 86.8 % with both, which were not tried apart; with both and
six subnets a step instead of four 87.2 %. The five trained alone: 87.1 %. On all 60,000 images six were no better
than four (91.30 and 91.25 %, the five alone 91.30) at 1.36 times the cost, so four it is. With both and four subnets:
twice the learning rate 86.7, half of it 86.1, half the weight of the teacher 86.3, one resolution for all subnets of a
step 85.3 %. On digits, three seeds, the mean of ten random subnets was 98.2, 98.2 and 98.4 % without both, 98.4, 98.7
and 98.6 with both.

The ImageNet schedule spends nothing on the largest network, which it downloads trained; here "progressive" takes a
third for it, and another for the last stage, in which all subnets train: with a quarter and a lower rate the smallest
subnet of `mobilenet_v3_tiny` on digits was 1 to 4 points worse on held-out images at equal cost.

The other recipes' rate of 0.1, on digits with 23 epochs and one seed, held-out accuracy of the largest and the smallest
subnet: sandwich at 0.05 99.3 and 99.0 %, at 0.1 99.7 and 99.3 %; random at 0.05 96.9 and 96.9 %, at 0.1 98.3 and
95.1 %, at 0.2 97.2 and 96.2 % (standard error 0.5 to 1). For the others it was taken over untried.
"""

IMAGENET = Preset(
    name="imagenet",
    recipe="progressive",
    batch_size=64,
    label_smoothing=0.1,
    weight_decay=3e-5,
    dropout=0.1,
    label_ratio=0.0,
    sandwich_subnets=PUBLISHED_SANDWICH,
    calibration_images=2000,
    progressive_shares=SMALL_IMAGES.progressive_shares,
    progressive_epochs={"largest": 180, "kernel": 125, "depth1": 25, "depth2": 125, "width1": 25, "width2": 125},
    warmup_epochs={
        "largest": 5,
        "kernel": 5,
        "depth2": 5,
        "width2": 5,
        "progressive-sandwich": 5,
        "sandwich": 5,
        "alphanet": 5,
        "random": 5,
        "delayed": 5,
    },
    learning_rates={
        "largest": 2.6 / 32,
        "kernel": 3e-2,
        "depth1": 2.5e-3,
        "depth2": 7.5e-3,
        "width1": 2.5e-3,
        "width2": 7.5e-3,
        "progressive-sandwich": 2.5e-2,
        "sandwich": 2.5e-2,
        "alphanet": 2.5e-2,
        "random": 2.5e-2,
        "delayed": 2.5e-2,
    },
    epochs={"sandwich": 360, "alphanet": 360, "random": 360, "delayed": 360},
)
"""Progressive shrinking as published: batches of 64 a GPU, rates a GPU (2.6 on 32 GPUs for the largest network).

The other recipes' epochs and rates are ours, after the papers' (360 epochs); nobody has tried them here."""

PRESETS: dict[str, Preset] = {preset.name: preset for preset in (SMALL_IMAGES, IMAGENET)}


def build_stages(
    recipe: str,
    space: SearchSpace,
    preset: Preset,
    *,
    epochs: int | Mapping[str, int] | None = None,
    learning_rates: Mapping[str, float] | None = None,
    processes: int = 1,
) -> tuple[Stage, ...]:
    """The stages of a recipe.

    Args:
        recipe: one of `RECIPES`.
        space: the search space; elastic kinds that it lacks drop their stages.
        preset: where epochs and learning rates come from.
        epochs: in all; or, for progressive shrinking, a stage (those not named: none).
        learning_rates: those that differ from the preset's, by stage name, as the optimiser shall use them.
        processes: the preset's learning rates are multiplied by their number (as the batch is).

    Raises:
        ConfigError: unknown recipe or stage names, negative epochs, none at all, or too few.
    """
    if recipe not in RECIPES:
        raise ConfigError(one_of("recipe", recipe, list(RECIPES)))
    epoch_names, rate_names = _stage_names(recipe)
    for given, allowed in ((epochs, epoch_names), (learning_rates, rate_names)):
        unknown = sorted(set(given) - set(allowed)) if isinstance(given, Mapping) else []
        if unknown:
            raise ConfigError(
                f"recipe {recipe!r} has no stage {', '.join(unknown)}; its stages are {', '.join(allowed)}"
            )
    rates = {name: rate * processes for name, rate in preset.learning_rates.items()} | dict(learning_rates or {})
    if isinstance(epochs, Mapping):
        counts = dict.fromkeys(epoch_names, 0) | dict(epochs)
    elif recipe in _IN_STAGES:
        counts = preset.split(epochs)
    else:
        total = epochs if epochs is not None else (preset.epochs or {}).get(recipe)
        if total is None:
            raise ConfigError(f"recipe {recipe!r} has no usual length with preset {preset.name!r}; give --epochs")
        counts = {"largest": total // 2, "delayed": total - total // 2} if recipe == "delayed" else {recipe: total}
    if any(count < 0 for count in counts.values()) or not any(counts.values()):
        raise ConfigError(f"epochs are {counts}; allowed: 0 or more a stage, at least 1 in all")
    stages = tuple(stage for stage in RECIPES[recipe](space, counts, rates, preset) if stage.epochs)
    if stages[0].teacher == "frozen":
        raise ConfigError(
            f"epochs are {counts}: stage {stages[0].name!r} needs the largest network as its teacher; give stage "
            "'largest' at least 1 epoch"
        )
    return stages


def _stage_names(recipe: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names under which a recipe takes epochs, and learning rates (a recipe of one curve has one)."""
    if recipe in _IN_STAGES:
        return PROGRESSIVE_STAGES, PROGRESSIVE_STAGES if recipe == "progressive" else (recipe,)
    return (("largest", recipe) if recipe == "delayed" else (recipe,)), (recipe,)


def _progressive(
    space: SearchSpace, epochs: Mapping[str, int], rates: Mapping[str, float], preset: Preset
) -> list[Stage]:
    def values(kind: Kind) -> list[Value]:
        return sorted({v for dim in space.dimensions if dim.kind == kind for v in dim.allowed}, reverse=True)

    expands, widths = values("expand"), values("width")
    plan: list[tuple[str, int, dict[Kind, int], int]] = [  # subnets a step, greatest values, widths trained before
        ("largest", 1, {"kernel": 1, "depth": 1, "expand": 1, "width": 1}, 0),
        ("kernel", 1, {"depth": 1, "expand": 1, "width": 1}, 0),
        ("depth1", 2, {"depth": 2, "expand": 1, "width": 1}, 0),
        ("depth2", 2, {"expand": 1, "width": 1}, 0),
        ("width1", 4, {"expand": 2, "width": 2}, 1),
        ("width2", 4, {}, 2),
    ]
    stages: list[Stage] = []
    counts = dict(epochs)
    for number, (name, subnets, greatest, trained) in enumerate(plan):
        # a stage that opens nothing in this space gives its epochs to the one that trains the same subnets
        drawn = _drawn(space, greatest)
        if number and drawn == _drawn(space, plan[number - 1][2]):
            if stages and stages[-1].name == plan[number - 1][0]:
                stages[-1] = replace(stages[-1], epochs=stages[-1].epochs + counts[name])
            continue
        stages.append(
            Stage(
                name,
                epochs=counts[name],
                warmup_epochs=preset.warmup(name, counts[name]),
                learning_rate=rates[name],
                subnets_per_step=subnets,
                greatest=greatest,
                teacher="none" if name == "largest" else "frozen",
                sort_channels=tuple(expands[:trained]) if trained else None,
                trained_widths=tuple(widths[:trained]) if trained and widths else None,
            )
        )
    return stages


def _progressive_sandwich(
    space: SearchSpace, epochs: Mapping[str, int], rates: Mapping[str, float], preset: Preset
) -> list[Stage]:
    name, total, done = "progressive-sandwich", sum(epochs.values()), 0
    stages: list[Stage] = []
    for stage in _progressive(space, epochs, rates, preset):
        alone = stage.name == "largest"
        stages.append(
            replace(
                stage,
                warmup_epochs=0.0 if done else min(preset.warmup(name, total), stage.epochs),
                learning_rate=rates[name],
                subnets_per_step=1 if alone else min(stage.subnets_per_step + 1, PUBLISHED_SANDWICH),
                sampling="random" if alone else "sandwich",
                teacher="none" if alone else "in-place",
                label_ratio=0.0 if alone else preset.label_ratio,
                taught_dropout=alone,
                cosine=(done / total, (done + stage.epochs) / total),
            )
        )
        done += stage.epochs
    return stages


def _drawn(space: SearchSpace, greatest: Mapping[Kind, int]) -> list[list[int]]:
    return [space.indices_within(gene, greatest=greatest) for gene in range(len(space.dimensions))]


def _sandwich(
    space: SearchSpace,
    epochs: Mapping[str, int],
    rates: Mapping[str, float],
    preset: Preset,
    *,
    name: str = "sandwich",
    divergence: Divergence = "cross-entropy",
) -> list[Stage]:
    return [
        Stage(
            name,
            epochs=epochs[name],
            warmup_epochs=preset.warmup(name, epochs[name]),
            learning_rate=rates[name],
            subnets_per_step=preset.sandwich_subnets,
            sampling="sandwich",
            teacher="in-place",
            label_ratio=preset.label_ratio,
            taught_dropout=False,
            divergence=divergence,
        )
    ]


def _alphanet(space: SearchSpace, epochs: Mapping[str, int], rates: Mapping[str, float], preset: Preset) -> list[Stage]:
    return _sandwich(space, epochs, rates, preset, name="alphanet", divergence="alpha")


def _random(space: SearchSpace, epochs: Mapping[str, int], rates: Mapping[str, float], preset: Preset) -> list[Stage]:
    return [
        Stage(
            "random",
            epochs=epochs["random"],
            warmup_epochs=preset.warmup("random", epochs["random"]),
            learning_rate=rates["random"],
            subnets_per_step=1,
        )
    ]


def _delayed(space: SearchSpace, epochs: Mapping[str, int], rates: Mapping[str, float], preset: Preset) -> list[Stage]:
    share = epochs["largest"] / (epochs["largest"] + epochs["delayed"])
    first = Stage(
        "largest",
        epochs=epochs["largest"],
        warmup_epochs=preset.warmup("delayed", epochs["largest"]),
        learning_rate=rates["delayed"],
        subnets_per_step=1,
        greatest={"kernel": 1, "depth": 1, "expand": 1, "width": 1},
        cosine=(0.0, share),
    )
    second = Stage(
        "delayed",
        epochs=epochs["delayed"],
        warmup_epochs=0.0 if first.epochs else preset.warmup("delayed", epochs["delayed"]),
        learning_rate=rates["delayed"],
        subnets_per_step=preset.sandwich_subnets,
        sampling="sandwich",
        teacher="in-place",
        label_ratio=preset.label_ratio,
        taught_dropout=False,
        cosine=(share, 1.0),
        ramp_epochs=RAMP_SHARE * epochs["delayed"],
    )
    return [first, second]


RECIPES: dict[str, Callable[[SearchSpace, Mapping[str, int], Mapping[str, float], Preset], list[Stage]]] = {
    "progressive": _progressive,
    "progressive-sandwich": _progressive_sandwich,
    "sandwich": _sandwich,
    "alphanet": _alphanet,
    "random": _random,
    "delayed": _delayed,
}
