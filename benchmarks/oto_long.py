"""What does OTO cost on all of CIFAR-10, trained for longer, at the share of MACs that its authors published?

Command: OMP_NUM_THREADS=1 python -m benchmarks.oto_long run --case vgg16_bn --data-root FOLDER
         python -m benchmarks.oto_long report
Result:  benchmarks/results/oto_long/CASE_ARM_SEED.json, one file a training; report.json

VGG16-BN (30 epochs) and ResNet-18 with the stem for small images (6 epochs), both at a quarter of their width, because
two cores allow no more, and both at full width on a GPU (`_full`, --device cuda: 20 epochs, batches of 256, a rate of
0.1), on all training images but a tenth (held out, not used), for the same number of epochs dense, pruned, and
"narrow": the plain way to as few MACs, every layer equally narrower. All by `pruning.training.train_and_prune`, the
loop of `onceforall prune oto`, else with its own settings: SGD, batch 64, shifted and mirrored images, a cosine to
zero, nothing trained after it; "dense" is the target of all MACs. Published, at full width: VGG16-BN 93.27 % with
26.6 % of the MACs and 5.0 % of the parameters; ResNet-18 92.86 % (dense 93.02) with 20.3 % and 8.8 %.

FOLDER holds CIFAR-10 as images: train/CLASS/*.jpg and test/CLASS/*.jpg. Finished trainings are not repeated, killed
ones go on. The test part decides nothing.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.pruning_networks import small_image_resnet18, vgg16_bn
from benchmarks.reference_speed import processor
from pruning import ZeroInvariantGroups, construct_subnet
from pruning.training import PruningSettings, predictions, train_and_prune
from supernet.evaluation import standard_error
from supernet.files import read_json, write_json
from supernet.training.data import load_data

ARMS = ("dense", "pruned", "narrow")
RESULTS = Path(__file__).parent / "results" / "oto_long"


@dataclass(frozen=True)
class Case:
    """A network and how far it is pruned.

    Attributes:
        make: the untrained network of a seed.
        narrow: the same, every layer equally narrower: the widest within the target.
        epochs: of either training.
        target: the published share of MACs.
        batch_size, learning_rate: of either training.
    """

    make: Callable[[int], nn.Module]
    narrow: Callable[[int], nn.Module]
    epochs: int
    target: str
    batch_size: int = 64
    learning_rate: float = 0.05


CASES = {
    "vgg16_bn": Case(lambda seed: vgg16_bn(0.25, seed=seed), lambda seed: vgg16_bn(0.129, seed=seed), 30, "macs=26.6%"),
    "resnet18": Case(
        lambda seed: small_image_resnet18(seed, 16), lambda seed: small_image_resnet18(seed, 7), 6, "macs=20.3%"
    ),
    "vgg16_bn_full": Case(
        lambda seed: vgg16_bn(1.0, seed=seed), lambda seed: vgg16_bn(0.515, seed=seed), 20, "macs=26.6%", 256, 0.1
    ),
    "resnet18_full": Case(
        lambda seed: small_image_resnet18(seed, 64),
        lambda seed: small_image_resnet18(seed, 28),
        20,
        "macs=20.3%",
        256,
        0.1,
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run")
    run.add_argument("--case", choices=list(CASES), required=True)
    run.add_argument("--data-root", type=Path, required=True)
    run.add_argument("--seeds", type=int, nargs="+", default=[0])
    run.add_argument("--arms", nargs="+", choices=ARMS, default=ARMS)
    run.add_argument("--device", default="cpu", help="cpu, or cuda")
    run.add_argument("--work", type=Path, default=Path("runs/oto_long"), help="where unfinished trainings are")
    commands.add_parser("report")
    arguments = parser.parse_args()
    if arguments.command == "report":
        report()
        return
    torch.set_num_threads(1)
    images: Any = load_data("folder", root=arguments.data_root, size=32)
    for seed in arguments.seeds:
        for arm in arguments.arms:
            path = RESULTS / f"{arguments.case}_{arm}_{seed}.json"
            if not path.exists():
                state = arguments.work / f"{path.stem}.pt"
                found = train(arguments.case, arm, seed, images, state, arguments.device)
                write_json(path, found)
                print(f"{path.stem}: test {found['test']:.2%}, {found['macs_share']:.1%} of the MACs", flush=True)


def train(name: str, arm: str, seed: int, images: Any, state: Path, device: str = "cpu") -> dict[str, Any]:
    """One training from scratch, or from where `state` says that it was killed, and what its network then does."""
    case, normalisation = CASES[name], images.normalisation()
    example = torch.randn(2, 3, 32, 32)
    full = ZeroInvariantGroups(case.make(seed), example).count()
    net = case.narrow(seed) if arm == "narrow" else case.make(seed)
    groups = ZeroInvariantGroups(net, example)
    target = case.target if arm == "pruned" else "macs=100%"
    settings = PruningSettings(
        target=target,
        epochs=case.epochs,
        batch_size=case.batch_size,
        learning_rate=case.learning_rate,
        seed=seed,
    )
    state.parent.mkdir(parents=True, exist_ok=True)
    began, began_clock = time.thread_time(), time.perf_counter()

    def show(done: int, total: int, loss: float) -> None:
        if done % 500 == 0:
            print(f"{state.stem}: step {done} of {total}, loss {loss:.3f}", flush=True)

    optimizer = train_and_prune(
        groups,
        images,
        settings,
        resolution=32,
        normalisation=normalisation,
        device=device,
        state=state,
        progress=show,
    )
    seconds, clock = time.thread_time() - began, time.perf_counter() - began_clock
    compact, plan = construct_subnet(net, groups)
    answers, right = predictions(
        compact, images.test_batches(250), resolution=32, normalisation=normalisation, device=device
    )
    test = float((answers == right).double().mean())
    return {
        "case": name,
        "arm": arm,
        "seed": seed,
        "settings": asdict(settings),
        "train_images": images.train_count,
        "test": test,
        "test_standard_error": standard_error(test, len(right)),
        "macs": plan.macs,
        "params": plan.params,
        "macs_share": plan.macs / full.macs,
        "params_share": plan.params / full.params,
        "largest_error": plan.error,
        "signal": plan.signal,
        "met_by_step": optimizer.end_step,
        "processor_seconds": round(seconds, 1),
        "seconds": round(clock, 1),
        "machine": {
            "gpu": torch.cuda.get_device_name() if device == "cuda" else None,
            "processor": processor(),
            "system": platform.machine(),
            "torch": torch.__version__,
            "threads": 1,
        },
    }


def report() -> None:
    """All arms of every case and seed, and how far they are from the dense one."""
    runs = [read_json(path) for path in sorted(RESULTS.glob("*_[0-9].json"))]
    rows: dict[str, Any] = {}
    for run in runs:
        row = {name: run[name] for name in ("test", "macs_share", "params_share", "processor_seconds")}
        rows.setdefault(run["case"], {}).setdefault(run["seed"], {"epochs": run["settings"]["epochs"]})[run["arm"]] = (
            row
        )
    for seeds in rows.values():
        for row in seeds.values():
            for arm in ARMS[1:]:
                if {"dense", arm} <= set(row):
                    row[arm]["points_over_dense"] = 100 * (row[arm]["test"] - row["dense"]["test"])
    write_json(RESULTS / "report.json", rows)
    print(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
