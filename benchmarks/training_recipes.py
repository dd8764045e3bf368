"""Which recipe trains the best subnets: progressive shrinking, none, random, sandwich, or each subnet alone?

Command: python benchmarks/training_recipes.py run --setting fashion-mnist-short --seeds 0 1 2
         python benchmarks/training_recipes.py run --setting fashion-mnist --seeds 0 1 2
         python benchmarks/training_recipes.py run --setting cifar10-short --data-root FOLDER --seeds 0
         python benchmarks/training_recipes.py run --setting cifar10 --data-root FOLDER --seeds 0
         python benchmarks/training_recipes.py report
Result:  benchmarks/results/training_recipes/*.json, one file a training; report.json and one picture a setting.

Every arm but two sees the same images for the same number of epochs, with the same batch of 64, augmentation,
regularisation and learning rates of the preset "small-images". The rates were chosen on handwritten digits with batches
of 32 (for "alphanet" and "delayed" not at all), the weight of true labels and the place of dropout on held-out images
of "fashion-mnist-short", seed 0. "none" is the largest network alone, cut down to each subnet. "*-no-labels": the
subnets that the largest network teaches see no true label, and have dropout as it has. "alone-*" are the same subnets,
each trained from its own random start as a space of one. "sandwich-six" trains six subnets a step,
"sandwich" four, as published. "random-equal-cost" and "sandwich-equal-cost" train for more or fewer epochs than the
others, so that they cost about as much as "progressive"; "sandwich-cost-of-alone" costs on 12,000 images what the five
"alone-*" cost together.
Accuracy is on the test part, which decides nothing. Cost is the multiply-adds of all forward passes, counted exactly,
because seconds on a shared machine say little. Finished trainings are not repeated, killed ones go on. FOLDER holds
CIFAR-10 as images: train/CLASS/*.jpg and test/CLASS/*.jpg. "*-short" trains on a fifth or quarter of the images: 50
minutes of one quiet core a seed for all arms of "fashion-mnist-short"; all 60,000 images take six hours a seed.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from latency_tables import macs
from supernet.arch import SubnetConfig
from supernet.calibration import calibrate
from supernet.evaluation import calibration_batches, count_correct, standard_error
from supernet.files import read_json, write_json
from supernet.runs import MANIFEST
from supernet.spaces import SearchSpace, get_space, register_space
from supernet.spaces.inverted_residual import inverted_residual_space
from supernet.spaces.mobilenet_v3 import TINY_PLAN
from supernet.training.data import ImageData, load_data
from supernet.training.recipes import SMALL_IMAGES, build_stages
from supernet.training.sampling import draw_subnets
from supernet.training.settings import TrainingSettings
from supernet.training.trainer import exclusive, start_run, train

RESULTS = Path(__file__).parent / "results" / "training_recipes"
SPACE = "mobilenet_v3_tiny"
BATCH_SIZE = 64
SETTINGS: dict[str, dict[str, Any]] = {
    "fashion-mnist-short": {
        "data": "fashion-mnist",
        "epochs": 8,
        "resolutions": (16, 20, 24),
        "train_images": 12_000,
    },
    "fashion-mnist": {"data": "fashion-mnist", "epochs": 10, "resolutions": (16, 20, 24, 28)},
    "cifar10-short": {"data": "folder", "epochs": 8, "resolutions": (16, 20, 24), "train_images": 12_000},
    "cifar10": {"data": "folder", "epochs": 10, "resolutions": (16, 20, 24, 28, 32)},
}
RECIPE_ARMS = ("progressive", "progressive-sandwich", "none", "random", "sandwich", "alphanet", "delayed")
NO_LABELS = {f"{recipe}-no-labels": recipe for recipe in ("sandwich", "progressive-sandwich")}
"""Arm -> recipe, as it was before: the subnets that the largest network teaches see no true label, but dropout."""
SIX = {"sandwich-six": "sandwich"}
"""Arm -> recipe with the largest, the smallest and four random subnets a step."""
EQUAL_COST = {
    "random-equal-cost": ("random", 4.3),
    "sandwich-equal-cost": ("sandwich", 0.8),
    "sandwich-cost-of-alone": ("sandwich", 1.32),
}
"""Arm -> recipe and how many times the setting's epochs: about the multiply-adds of "progressive", and of the five
subnets trained alone together."""
UNIFORM = {  # subnet -> depth of all stages, kernel and expand ratio of all blocks, number of the resolution
    "smallest": (2, 3, 3, 0),
    "small": (2, 5, 4, 1),
    "middle": (3, 5, 4, 2),
    "large": (3, 7, 6, -2),
    "largest": (4, 7, 6, -1),
}
RANDOM_SUBNETS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run")
    run.add_argument("--setting", choices=sorted(SETTINGS), required=True)
    run.add_argument("--seeds", type=int, nargs="+", default=[0])
    run.add_argument(
        "--arms",
        nargs="+",
        default=[*RECIPE_ARMS, *SIX, *NO_LABELS, *EQUAL_COST, *(f"alone-{name}" for name in UNIFORM)],
    )
    run.add_argument("--data-root", type=Path)
    run.add_argument("--work", type=Path, default=Path("runs/training_recipes"), help="where unfinished runs are")
    commands.add_parser("report")
    arguments = parser.parse_args()
    if arguments.command == "report":
        report()
        return
    torch.set_num_threads(1)
    setting = SETTINGS[arguments.setting]
    data = load_data(setting["data"], root=arguments.data_root, size=max(setting["resolutions"]))
    if count := setting.get("train_images"):  # a folder lists them class by class, Fashion-MNIST's file at random
        chosen = torch.arange(count) * data.train_count // count if setting["data"] == "folder" else torch.arange(count)
        data = replace(data, train_images=data.train_images[chosen], train_labels=data.train_labels[chosen])
    for seed in arguments.seeds:
        for arm in arguments.arms:
            target = RESULTS / f"{arguments.setting}_{arm}_{seed}.json"
            if not target.exists():
                found = measure(arguments.setting, arm, seed, data, arguments.work / target.stem)
                write_json(target, found)
                row = "  ".join(f"{name} {100 * s['test']:.2f}" for name, s in found["subnets"].items())
                print(f"{target.stem}: {row}   ({found['seconds']:.0f} s)", flush=True)


def measure(setting_name: str, arm: str, seed: int, data: ImageData, path: Path) -> dict[str, Any]:
    """Train one arm and test its subnets."""
    setting = SETTINGS[setting_name]
    alone = arm.removeprefix("alone-") if arm.startswith("alone-") else None
    resolutions: tuple[int, ...] = setting["resolutions"]
    space = get_space(SPACE) if alone is None else _space_of_one(alone, resolutions)
    named = NO_LABELS | SIX | {"none": "progressive"}
    recipe, share = EQUAL_COST.get(arm, (named.get(arm, "random" if alone else arm), 1))
    epochs = round(share * setting["epochs"])
    preset = SMALL_IMAGES
    if arm in NO_LABELS:
        preset = replace(preset, label_ratio=0.0)
    if arm in SIX:
        preset = replace(preset, sandwich_subnets=6)
    stages = build_stages(recipe, space, preset, epochs={"largest": epochs} if arm == "none" else epochs)
    if alone is None:
        stages = tuple(replace(stage, choices={**stage.choices, "resolution": resolutions}) for stage in stages)
    if arm in NO_LABELS:
        stages = tuple(replace(stage, taught_dropout=True) for stage in stages)
    settings = TrainingSettings(space.name, stages, recipe, seed=seed, batch_size=BATCH_SIZE, threads=1)
    with exclusive(path):
        if not (path / MANIFEST).exists():
            start_run(path, settings, data, {"root": None, "size": data.size})
        run = train(path, data)
    net, pack = run.load_supernet(), run.images()
    configs = {alone: space.largest()} if alone else subnets(resolutions)
    rows = {}
    for name, config in configs.items():
        subnet, fit = net.extract(config), (config.resolution, pack.normalisation)
        before = count_correct(subnet, data.test_images, data.test_labels, *fit)
        calibrate(subnet, calibration_batches(pack, config.resolution, torch.device("cpu")))
        after = count_correct(subnet, data.test_images, data.test_labels, *fit)
        held_out = count_correct(subnet, pack.holdout_images, pack.holdout_labels, *fit)
        rows[name] = {
            "config": config.to_dict(),
            "macs": macs(subnet.specs),
            "test": after / len(data.test_labels),
            "test_standard_error": standard_error(after / len(data.test_labels), len(data.test_labels)),
            "test_before_calibration": before / len(data.test_labels),
            "holdout": held_out / len(pack.holdout_labels),
        }
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "setting": setting_name,
        "arm": arm,
        "seed": seed,
        "epochs": epochs,
        "batch_size": BATCH_SIZE,
        "train_images": data.train_count,
        "seconds": run.manifest["training_seconds"],
        "forward_macs": forward_macs(space, settings, data.train_count),
        "commit": commit.stdout.strip(),
        "machine": {"processor": platform.processor() or platform.machine(), "threads": 1, "torch": torch.__version__},
        "subnets": rows,
    }


def subnets(resolutions: tuple[int, ...]) -> dict[str, SubnetConfig]:
    """The subnets that every recipe is judged by: uniform ones across the space, and random ones."""
    space = get_space(SPACE)
    blocks = sum(dim.kind == "kernel" for dim in space.dimensions)
    stages = sum(dim.kind == "depth" for dim in space.dimensions)
    found = {
        name: space.config(
            resolution=resolutions[r], depths=[depth] * stages, kernels=[kernel] * blocks, expands=[expand] * blocks
        )
        for name, (depth, kernel, expand, r) in UNIFORM.items()
    }
    rng = np.random.default_rng(0)
    drawn = space.decode(space.sample_genotypes(rng, RANDOM_SUBNETS, within={"resolution": resolutions}))
    return found | {f"random{number}": config for number, config in enumerate(drawn)}


def _space_of_one(name: str, resolutions: tuple[int, ...]) -> SearchSpace:
    depth, kernel, expand, r = UNIFORM[name]
    plan = replace(TINY_PLAN, stages=tuple(replace(stage, max_depth=depth) for stage in TINY_PLAN.stages))
    space = inverted_residual_space(
        f"one_{name}_{resolutions[r]}",
        plan,
        resolutions=(resolutions[r],),
        num_classes=10,
        kernels=(kernel,),
        expands=(expand,),
        min_depth=depth,
    )
    return register_space(space)


def forward_macs(space: SearchSpace, settings: TrainingSettings, train_images: int) -> int:
    """Multiply-adds of all forward passes of a training (the frozen teacher's included), from the same draws."""
    steps_per_epoch, total = train_images // settings.step_images, 0
    for number, stage in enumerate(settings.stages):
        for step in range(stage.epochs * steps_per_epoch):
            configs = draw_subnets(space, stage, settings.seed, number, step)
            total += sum(macs(space.layers(config)) for config in configs)
            if stage.teacher == "frozen":
                largest = replace(space.largest(), resolution=configs[0].resolution)
                total += macs(space.layers(largest))
    return total * settings.step_images


def report() -> None:
    """Mean and spread over seeds for every arm and subnet; written, printed and drawn."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "training_recipes"  # equal results give equal files
    from matplotlib import pyplot as plt

    found = [read_json(path) for path in sorted(RESULTS.glob("*_*_*.json"))]
    result: dict[str, Any] = {"question": __doc__.splitlines()[0]}
    for setting in SETTINGS:
        runs = [run for run in found if run["setting"] == setting]
        if not runs:
            continue
        table: dict[str, Any] = {}
        for arm in (*RECIPE_ARMS, *SIX, *NO_LABELS, *EQUAL_COST, "alone"):
            mine = [run for run in runs if run["arm"] == arm or (arm == "alone" and run["arm"].startswith("alone-"))]
            cells: dict[str, list[tuple[int, float, float]]] = {}
            for run in mine:
                for name, row in run["subnets"].items():
                    cells.setdefault(name, []).append((row["macs"], row["test"], row["test_before_calibration"]))
            if cells:
                table[arm] = {
                    "seeds": sorted({run["seed"] for run in mine}),
                    "epochs": mine[0]["epochs"],
                    "forward_macs": sum(run["forward_macs"] for run in mine) / len({run["seed"] for run in mine}),
                    "subnets": {
                        name: {
                            "macs": values[0][0],
                            "test_mean": float(np.mean([test for _, test, _ in values])),
                            "test_std": float(np.std([test for _, test, _ in values], ddof=1))
                            if len(values) > 1
                            else None,
                            "before_calibration_mean": float(np.mean([before for _, _, before in values])),
                        }
                        for name, values in cells.items()
                    },
                }
        for row in table.values():
            row["mean_over_uniform"] = float(
                np.mean([row["subnets"][name]["test_mean"] for name in UNIFORM if name in row["subnets"]])
            )
        result[setting] = table
        figure, axes = plt.subplots(figsize=(7, 4.5))
        for arm, row in table.items():
            points = sorted(
                (s["macs"] / 1e6, 100 * s["test_mean"], 100 * (s["test_std"] or 0)) for s in row["subnets"].values()
            )
            axes.errorbar(*zip(*points, strict=True), label=arm, marker="o", markersize=4, capsize=2, linewidth=1)
        axes.set_xscale("log")
        least = min(s["test_mean"] for arm, row in table.items() if arm != "none" for s in row["subnets"].values())
        axes.set_ylim(bottom=100 * least - 1)  # "none" falls far below
        axes.set_xlabel("MACs of the subnet, millions")
        axes.set_ylabel("test accuracy, %")
        axes.set_title(f"{setting}, {SETTINGS[setting]['epochs']} epochs each")
        axes.legend()
        figure.tight_layout()
        figure.savefig(RESULTS / f"{setting}.svg", metadata={"Date": None})
        print(f"\n{setting}: test accuracy in %, mean over seeds")
        for arm, row in table.items():
            cells_text = "  ".join(f"{name} {100 * s['test_mean']:.2f}" for name, s in row["subnets"].items())
            cost = f"{row['forward_macs'] / 1e12:6.2f} T MACs"
            print(f"{arm:<30} {cost}  mean {100 * row['mean_over_uniform']:.2f}   {cells_text}")
    write_json(RESULTS / "report.json", result)
    print(json.dumps({"written": str(RESULTS / "report.json")}))


if __name__ == "__main__":
    main()
