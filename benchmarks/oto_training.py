"""Does training with DHSPG cost accuracy against dense training, at 64 % of the MACs or fewer, and is its target met?

Command: OMP_NUM_THREADS=1 python -m benchmarks.oto_training run --archive cifar10.zip --seeds 0 1 2 --arms dense dhspg
         ... run --archive cifar10.zip --seeds 0 1 2 --arms package --strength 0.3   (with only-train-once 2.0.16)
         python -m benchmarks.oto_training report
Result:  benchmarks/results/oto_training/*.json, one file a training; report.json

VGG16-BN at quarter width (19.9 million MACs, 0.92 million parameters), 8,000 images of CIFAR-10 (the first 800 of
every class), 8 epochs, batch 64, seeds 0 to 2, one thread, channels last. All arms share data, order, augmentation
(mirroring), initial weights, SGD (momentum 0.9, weight decay 5e-4) and learning rate: warm-up over half an epoch, then
a cosine to zero over all 8 epochs. Arms:
- dense: no pruning.
- narrow: the plain way to 64 % of the MACs, a network with every layer equally narrower, trained alike.
- dhspg, hesso: pruned while it trains, then no more than trained on; no fine-tuning after the 8 epochs.
- package: the authors' DHSPG with SGD (only-train-once 2.0.16), for half of all groups and from the same step on. It
  has no last step: it penalises until its target is met. With its own strength of 1e-3 (lambda) nothing becomes zero
  in so few steps, so the strength is tried on held-out images. It does not import on torch 2.14 and asks for CUDA: the
  old names are put back, and `.cuda()` does nothing; to have it, put it (``pip install --no-deps graphviz
  only-train-once==2.0.16``) into an environment that sees this project's. Its optimiser has no state to save: such a
  training starts anew.

Every training is tested on images that it has not seen: "holdout", the next 500 training images of every class, by
which variants (learning rate; when pruning starts and ends) are chosen, on seed 0; and "test", which decides nothing.
Finished trainings are not repeated, killed ones go on after their last whole epoch. The archive holds JPEG files
train/CLASS/*.jpg and test/CLASS/*.jpg. The package measured before with a recipe of its own: dense 56.8 and 60.4 (seeds
0 and 1), DHSPG 53.3 and 57.7 with 63 to 64 % of the MACs and 24 to 25 % of the parameters.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
import platform
import time
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD
from torch.optim.lr_scheduler import LambdaLR

from benchmarks.pruning_groups import oto
from benchmarks.pruning_networks import vgg16_bn
from benchmarks.reference_speed import processor
from pruning import DHSPG, HESSO, GroupSparseOptimizer, ZeroInvariantGroups
from supernet.files import atomic_path, read_json, write_json

RESULTS = Path(__file__).parent / "results" / "oto_training"
TRAIN, HOLDOUT = 800, 500
"""Images of every class."""
BATCH, EPOCHS = 64, 8
TARGET = "macs=64%"
METHODS = {"dhspg": DHSPG, "hesso": HESSO}
PACKAGE_TARGET = 0.5
"""Share of all groups; came to 63 to 64 % of the MACs before."""
NARROW = 0.203
"""Width of "narrow": the widest network within 64 % of the MACs (62.7 %)."""


@dataclass(frozen=True)
class Variant:
    """What is chosen on held-out images.

    Attributes:
        rate: the highest learning rate.
        start: epochs before units are chosen.
        prune: epochs from then until they are zero.
        score: what makes a unit redundant.
        strength: of the package's penalty.
    """

    rate: float = 0.05
    start: float = 1.0
    prune: float = 3.0
    score: str = "oto"
    strength: float = 1e-3

    def of(self, arm: str) -> dict[str, Any]:
        """What matters to an arm."""
        used = {**dict.fromkeys(METHODS, ("rate", "start", "prune", "score")), "package": ("rate", "start", "strength")}
        return {name: getattr(self, name) for name in used.get(arm, ("rate",))}


@dataclass(frozen=True)
class Images:
    """Normalised float32 images (n, 3, 32, 32) and labels (n)."""

    images: Tensor
    labels: Tensor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run")
    run.add_argument("--archive", type=Path, required=True)
    run.add_argument("--seeds", type=int, nargs="+", default=[0])
    run.add_argument("--arms", nargs="+", choices=["dense", "narrow", *METHODS, "package"], default=["dense", "dhspg"])
    for name, value in asdict(Variant()).items():
        run.add_argument(f"--{name}", type=type(value), default=value)
    run.add_argument("--work", type=Path, default=Path("runs/oto_training"), help="where unfinished trainings are")
    commands.add_parser("report")
    arguments = parser.parse_args()
    if arguments.command == "report":
        report()
        return
    torch.set_num_threads(1)
    parts = load(arguments.archive)
    variant = Variant(**{name: getattr(arguments, name) for name in asdict(Variant())})
    for seed in arguments.seeds:
        for arm in arguments.arms:
            words = (name + (value if name == "score" else f"{value:g}") for name, value in variant.of(arm).items())
            path = RESULTS / f"{arm}_{'_'.join(words).replace('score', '')}_{seed}.json"
            if not path.exists():
                found = train(arm, variant, seed, parts, arguments.work / f"{path.stem}.pt")
                write_json(path, found)
                print(f"{path.stem}: test {found['test']:.2%}, holdout {found['holdout']:.2%}", flush=True)


def load(archive: Path) -> dict[str, Images]:
    """Parts train, holdout and test, normalised by the training images' mean and deviation."""
    with zipfile.ZipFile(archive) as files:
        names = sorted(name for name in files.namelist() if name.endswith(".jpg"))
        classes = sorted({name.split("/")[-2] for name in names})

        def read(part: str, first: int, last: int | None) -> tuple[Tensor, Tensor]:
            images, labels = [], []
            for label, kind in enumerate(classes):
                for name in [name for name in names if f"{part}/{kind}/" in name][first:last]:
                    images.append(np.asarray(Image.open(io.BytesIO(files.read(name))).convert("RGB")))
                    labels.append(label)
            return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255, torch.tensor(labels)

        raw = {
            "train": read("train", 0, TRAIN),
            "holdout": read("train", TRAIN, TRAIN + HOLDOUT),
            "test": read("test", 0, None),
        }
    mean = raw["train"][0].mean((0, 2, 3), keepdim=True)
    deviation = raw["train"][0].std((0, 2, 3), keepdim=True)
    return {
        part: Images(((images - mean) / deviation).contiguous(memory_format=torch.channels_last), labels)
        for part, (images, labels) in raw.items()
    }


def train(arm: str, variant: Variant, seed: int, parts: dict[str, Images], state: Path) -> dict[str, Any]:
    """One training from scratch, or from where `state` says that it was killed, and what its network then does."""
    net = vgg16_bn(NARROW if arm == "narrow" else 0.25, seed=seed)
    example = torch.zeros(1, 3, 32, 32)
    groups = ZeroInvariantGroups(net, example)
    net.to(memory_format=torch.channels_last)
    data, generator = parts["train"], torch.Generator().manual_seed(seed)
    steps = len(data.labels) // BATCH
    optimizer: Any = SGD(net.parameters(), lr=variant.rate, momentum=0.9, weight_decay=5e-4)
    if arm in METHODS:
        optimizer = METHODS[arm](
            optimizer,
            groups,
            target=TARGET,
            start_pruning_step=round(variant.start * steps),
            pruning_steps=round(variant.prune * steps),
            score=variant.score,
        )
    elif arm == "package":
        net, optimizer = package(net, example, variant, start=round(variant.start * steps))
    warm_up, total = steps // 2, EPOCHS * steps
    schedule = LambdaLR(
        optimizer, lambda step: min((step + 1) / warm_up, 1) * (1 + math.cos(math.pi * min(step / total, 1))) / 2
    )
    losses_by_epoch: list[float] = []
    seconds, met = 0.0, None
    if state.exists():
        saved = torch.load(state, weights_only=True)
        net.load_state_dict(saved["net"])
        optimizer.load_state_dict(saved["optimizer"])
        schedule.load_state_dict(saved["schedule"])
        generator.set_state(saved["generator"])
        losses_by_epoch, seconds, met = saved["losses"], saved["seconds"], saved["met"]
    step = len(losses_by_epoch) * steps
    for _ in range(len(losses_by_epoch), EPOCHS):
        started = time.thread_time()
        net.train()
        order, losses = torch.randperm(len(data.labels), generator=generator), 0.0
        for batch in order[: steps * BATCH].split(BATCH):
            images = data.images[batch]
            flip = torch.rand(BATCH, generator=generator) < 0.5
            images = torch.where(flip[:, None, None, None], images.flip(3), images)
            loss = F.cross_entropy(net(images), data.labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses += float(loss.detach())
            step += 1
            if arm not in ("dense", "narrow") and met is None and is_met(groups, net):
                met = step
        losses_by_epoch.append(losses / steps)
        seconds += time.thread_time() - started
        if arm == "package":
            continue
        whole = {
            "net": net.state_dict(),
            "optimizer": optimizer.state_dict(),
            "schedule": schedule.state_dict(),
            "generator": generator.get_state(),
            "losses": losses_by_epoch,
            "seconds": seconds,
            "met": met,
        }
        with atomic_path(state) as temporary, temporary.open("wb") as file:
            torch.save(whole, file)
    kept = tuple(~mask for mask in groups.zeroed(net))
    dense, compact = ZeroInvariantGroups(vgg16_bn(), example).count(), groups.count(kept)
    return {
        "arm": arm,
        "variant": variant.of(arm),
        "seed": seed,
        "test": accuracy(net, parts["test"]),
        "holdout": accuracy(net, parts["holdout"]),
        "macs": compact.macs,
        "params": compact.params,
        "macs_share": compact.macs / dense.macs,
        "params_share": compact.params / dense.params,
        "kept_units": [int(mask.sum()) for mask in kept],
        "stated_step": optimizer.end_step if isinstance(optimizer, GroupSparseOptimizer) else None,
        "met_at_step": met,
        "losses": losses_by_epoch,
        "processor_seconds": round(seconds, 1),
        "machine": {"processor": processor(), "system": platform.machine(), "torch": torch.__version__, "threads": 1},
    }


def package(net: nn.Module, example: Tensor, variant: Variant, start: int) -> tuple[nn.Module, Any]:
    """The authors' copy of the network, and their optimiser."""
    if not torch.cuda.is_available():
        torch.Tensor.cuda = lambda self, *_, **__: self  # type: ignore[method-assign]
    with contextlib.redirect_stdout(io.StringIO()):
        made = oto(net, example)
        made._model.to(memory_format=torch.contiguous_format)  # its `view` of the weights knows no other
        optimizer = made.dhspg(
            variant="sgd",
            lr=variant.rate,
            first_momentum=0.9,
            weight_decay=5e-4,
            lmbda=variant.strength,
            target_group_sparsity=PACKAGE_TARGET,
            start_pruning_steps=start,
        )
    return made._model, optimizer


def is_met(groups: ZeroInvariantGroups, net: nn.Module) -> bool:
    """Whether the network's own zeros meet the target, by exact count."""
    share = float(TARGET.partition("=")[2].rstrip("%")) / 100
    return groups.count(tuple(~mask for mask in groups.zeroed(net))).macs <= share * groups.count().macs


@torch.inference_mode()
def accuracy(net: nn.Module, part: Images) -> float:
    """Share of right answers."""
    net.eval()
    right = sum(int((net(images).argmax(1) == labels).sum()) for images, labels in batches(part))
    net.train()
    return right / len(part.labels)


def batches(part: Images) -> zip[tuple[Tensor, Tensor]]:
    """Batches of 500."""
    return zip(part.images.split(500), part.labels.split(500), strict=True)


def report() -> None:
    """Per arm the variant that is best on held-out images of seed 0, and its test accuracy beside dense training."""
    found = [read_json(path) for path in sorted(RESULTS.glob("*_[0-9].json"))]
    rows: dict[str, Any] = {}
    for arm in ("dense", "narrow", *METHODS, "package"):
        own = [run for run in found if run["arm"] == arm]
        tried = {json.dumps(run["variant"]): run["holdout"] for run in own if run["seed"] == 0}
        if not tried:
            continue
        best = max(tried, key=lambda name: tried[name])
        chosen = {run["seed"]: run for run in own if json.dumps(run["variant"]) == best}
        rows[arm] = {"holdout_of_seed_0": tried, "chosen": best, "test": {}}
        for seed, run in sorted(chosen.items()):
            against = rows["dense"]["test"].get(seed, {}).get("test") if "dense" in rows else None
            row = {name: run[name] for name in ("test", "macs_share", "params_share", "stated_step", "met_at_step")}
            rows[arm]["test"][seed] = {
                **row,
                "points_over_dense": None if against is None else 100 * (row["test"] - against),
            }
    dense = {(run["variant"]["rate"], run["seed"]): run["test"] for run in found if run["arm"] == "dense"}
    rows["points_over_dense_training_of_the_same_rate"] = {
        f"{run['arm']}, {json.dumps(run['variant'])}, seed {run['seed']}": 100 * (run["test"] - dense[pair])
        for run in found
        if run["arm"] != "dense" and (pair := (run["variant"]["rate"], run["seed"])) in dense
    }
    write_json(RESULTS / "report.json", rows)
    print(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
