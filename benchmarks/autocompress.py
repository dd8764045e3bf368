"""How far can AutoCompress go without a loss, and what is each of its parts worth?

Command: OMP_NUM_THREADS=1 python -m benchmarks.autocompress run --case digits-lenet --seeds 0 1 2
         OMP_NUM_THREADS=1 python -m benchmarks.autocompress run --case digits-lenet --arms uniform oto --share 25%
         OMP_NUM_THREADS=1 python -m benchmarks.autocompress latency
         python -m benchmarks.autocompress report
Result:  benchmarks/results/autocompress/CASE_ARM_SHARE_SEED.json, one file a run; report.json

Cases: LeNet-5 (20 and 50 filters of 5x5, 500 hidden units) on handwritten digits (8x8), also with about half of the
epochs ("short", what was tried first) and with more weight decay ("decay", chosen on held-out images), and on
Fashion-MNIST; a small CNN with batch norm on both; VGG16-BN and ResNet-18 on CIFAR-10, cut to a quarter and an eighth
of their width; both also from a better trained dense network ("trained": 160 epochs instead of 60, and a higher rate),
there with `short-admm` for all arms.
Fashion-MNIST and CIFAR-10 are cut to 4,000 training and 2,000 held-out images because two cores allow no more: figures
do not compare with those of the paper. CIFAR-10 is a folder of images (--data-root), Fashion-MNIST is where the
system's package puts it. Every round's model is in the file of its run, so one run to 6.25 % tells of 4, 8 and 16 times
fewer parameters; OTO has no rounds and is trained for each.

Arms, all from the same trained dense network of that seed, each with the same epochs after it:
- full: everything, combined dimensions, in rounds of two times less each.
- late: `full` with 4 epochs of masked training after each round but the last, and the epochs so saved after the last:
  every share is a run of its own. filters-late: filters only, likewise.
- short-admm: `full` with 5 blocks of ADMM at most instead of 9, and 4 epochs more of masked training: in the last
  blocks rho holds the weights so tight that they hardly learn.
- few-rounds: of four times less each; 4 epochs of masked training after each but the last, and all others that `full`
  may use after the last: every share is a run of its own. long-steps: likewise, with W-steps of 4 epochs.
- channels: what a device computes shrinks by as much as is counted.
- filters: filters only.
- uniform: the same share of every layer instead of the search.
- no-annealing: the rates that experience gives instead of the search.
- no-purification.
- one-shot: magnitude masks at once and masked training; neither ADMM nor purification, one round, uniform rates.
- weights: without structure.
- trained-on: the dense network, not pruned, trained for as many epochs more as `full` may use: what a loss is to be
  measured against where the dense network is not trained to its end.
- oto: Only Train Once (DHSPG) from the same dense network, at the same share of parameters, its epochs as many as
  `full` may use; channels only, so that its counted parameters are all computed.

Accuracy on the held-out part decides inside the method; "test" decides nothing. A run that was killed goes on where it
was; a finished one is not repeated. `search` compares the annealing with random points on quick evaluations; `latency`
measures untrained networks of full width for 32x32 pixels in `channels` (what a layer's numbers are has no influence on
its time), in PyTorch and ONNX Runtime, dense and compact in turns.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.pruning_networks import small_image_resnet18, vgg16_bn
from benchmarks.reference_speed import processor
from latency_tables.measure import open_session, visit_ms
from latency_tables.profiler import timed_pass
from pruning.admm import AdmmSettings
from pruning.annealing import Annealing, AnnealingSettings
from pruning.artefact import save_compact
from pruning.autocompress import Progress, auto_compress
from pruning.compression_settings import CompressionSettings
from pruning.construct import construct_kept, construct_subnet
from pruning.groups import ZeroInvariantGroups
from pruning.loops import Epoch, ImageLoop, reestimate_norms
from pruning.placement import device_of
from pruning.plan import Plan
from pruning.rates import Rates
from pruning.selftest import telling_copy
from pruning.training import PruningSettings, train_and_prune
from pruning.weights import WeightMatrices, energies_of
from supernet.evaluation import standard_error
from supernet.files import read_json, write_json
from supernet.training.data import load_data
from supernet.training.in_memory import ImageData

RESULTS = Path(__file__).parent / "results" / "autocompress"
DENSE_DECAY, LATE_ROUND_EPOCHS, SHORT_ADMM, LONG_STEP_EPOCHS = 5e-4, 4, 5, 4
SEARCHES = 5
"""Of which the median is compared."""
ARMS = (
    "full",
    "late",
    "filters-late",
    "short-admm",
    "few-rounds",
    "long-steps",
    "channels",
    "filters",
    "uniform",
    "no-annealing",
    "no-purification",
    "one-shot",
    "weights",
    "trained-on",
    "oto",
)


def lenet(seed: int, side: int) -> nn.Module:
    """LeNet-5 as the pruning papers have it; its classifier's input follows from the images' side."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 20, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(20, 50, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(50 * (side // 4) ** 2, 500),
        nn.ReLU(),
        nn.Linear(500, 10),
    )


def small_cnn(seed: int, side: int) -> nn.Module:
    """Four convolutions with batch norm."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for before, after, stride in ((3, 32, 1), (32, 32, 2), (32, 64, 1), (64, 64, 2)):
        layers += [nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def vgg(seed: int, side: int) -> nn.Module:
    return vgg16_bn(0.25, seed=seed)


def resnet18(seed: int, side: int) -> nn.Module:
    return small_image_resnet18(seed, 8)


@dataclass(frozen=True)
class Case:
    """A network on a data set.

    Attributes:
        data: its name.
        network: makes it, from a seed and the images' side.
        dense_epochs: of the dense training.
        batch, rate, decay: of all trainings; the dense one takes `dense_rate` and `DENSE_DECAY`.
        share: of the parameters that the last round may keep, for those that leave it to us.
        settings: of AutoCompress.
        limits: training and held-out images that are used; None: all.
    """

    data: str
    network: Callable[[int, int], nn.Module]
    dense_epochs: int
    batch: int
    rate: float
    dense_rate: float
    share: str
    settings: CompressionSettings
    limits: tuple[int, int] | None = None
    decay: float = 1e-4


_SHORT = CompressionSettings(
    search=AnnealingSettings(proposals=100),
    # 36 steps an epoch, a tenth and less of the paper's: rho starts higher, so that W can follow Z within a block
    admm=AdmmSettings(rho=2e-2, rho_max=2.0, blocks=9),
    admm_epochs=2,
    purify=AnnealingSettings(proposals=40, explored=0.0, calibration=8),
    purify_epochs=2,
    retrain_epochs=14,
    allowed_drop=0.5,
)
_DIGITS = replace(_SHORT, admm_epochs=3, purify_epochs=3, retrain_epochs=30)
_FEW = replace(
    _SHORT, admm_epochs=1, purify=AnnealingSettings(proposals=30, explored=0.0, calibration=8), purify_epochs=1
)
_SHORT_ADMM = replace(_FEW, admm=replace(_FEW.admm, blocks=SHORT_ADMM), retrain_epochs=18)
_IMAGES = (4000, 2000)
CASES = {
    "digits-lenet": Case("digits", lenet, 30, 32, 0.02, 0.02, "2%", _DIGITS),
    "digits-lenet-decay": Case("digits", lenet, 30, 32, 0.02, 0.02, "2%", _DIGITS, decay=5e-4),
    "digits-lenet-short": Case("digits", lenet, 30, 32, 0.02, 0.02, "2%", _SHORT),
    "digits-cnn": Case("digits", small_cnn, 30, 32, 0.05, 0.05, "6.25%", _DIGITS),
    "fashion-lenet": Case("fashion-mnist", lenet, 40, 64, 0.02, 0.02, "2%", _FEW, _IMAGES),
    "fashion-cnn": Case("fashion-mnist", small_cnn, 40, 64, 0.05, 0.02, "12.5%", _FEW, _IMAGES),
    "cifar-vgg16": Case("folder", vgg, 60, 64, 0.05, 0.01, "6.25%", _FEW, _IMAGES, 5e-4),
    "cifar-resnet18": Case("folder", resnet18, 60, 64, 0.05, 0.01, "6.25%", _FEW, _IMAGES, 5e-4),
    "cifar-vgg16-trained": Case("folder", vgg, 160, 64, 0.05, 0.02, "6.25%", _SHORT_ADMM, _IMAGES, 5e-4),
    "cifar-resnet18-trained": Case("folder", resnet18, 160, 64, 0.05, 0.05, "6.25%", _SHORT_ADMM, _IMAGES, 5e-4),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("dense", "run", "search"):
        own = commands.add_parser(name)
        own.add_argument("--case", choices=list(CASES), required=True)
        own.add_argument("--seeds", type=int, nargs="+", default=[0])
        own.add_argument("--data-root", type=Path)
        own.add_argument("--download", action="store_true")
        own.add_argument("--work", type=Path, default=Path("runs/autocompress"), help="states of unfinished runs")
        own.add_argument("--share", help="of the parameters; default: the case's")
        own.add_argument("--device", default="cpu", help="where networks are trained")
        if name == "run":
            own.add_argument("--arms", nargs="+", choices=ARMS, default=["full"])
    commands.add_parser("latency")
    commands.add_parser("report")
    arguments = parser.parse_args()
    if arguments.command == "report":
        report()
        return
    torch.set_num_threads(1)
    if arguments.command == "latency":
        latency()
        return
    case = CASES[arguments.case]
    data = limited(load_data(case.data, root=arguments.data_root, download=arguments.download), case.limits)
    share = arguments.share or case.share
    for seed in arguments.seeds:
        net = dense(arguments.case, case, data, seed, arguments.work, arguments.device)
        if arguments.command == "dense":
            print(arguments.case, seed, "held out", ImageLoop(data).accuracy(net), flush=True)
            continue
        if arguments.command == "search":
            compare_searches(arguments.case, case, data, net, share, seed)
            continue
        for arm in arguments.arms:
            path = RESULTS / f"{arguments.case}_{arm}_{share.rstrip('%')}_{seed}.json"
            if not path.exists():
                folder = arguments.work / path.stem
                by = by_autocompress if arm not in ("oto", "trained-on") else by_oto
                found = by(case, data, net, share, seed, arm, folder)
                found = {"case": arguments.case, "arm": arm, "share": share, "seed": seed, **found}
                write_json(path, found | {"machine": machine(arguments.device)})
                print(path.stem, json.dumps(found["outcome"]), flush=True)


def limited(data: Any, images: tuple[int, int] | None) -> ImageData:
    """The data set with so many of its training and held-out images, evenly from all: folders are in order of class."""
    if images is None:
        return data  # type: ignore[no-any-return]
    changes = {}
    for part, count in zip(("train", "holdout"), images, strict=True):
        labels = getattr(data, f"{part}_labels")
        chosen = torch.arange(count) * len(labels) // count
        changes |= {f"{part}_images": getattr(data, f"{part}_images")[chosen], f"{part}_labels": labels[chosen]}
    return replace(data, **changes)


def dense(name: str, case: Case, data: ImageData, seed: int, work: Path, device: str = "cpu") -> nn.Module:
    """The trained dense network of a seed, on the device, kept in the folder of states."""
    net = case.network(seed, data.size).to(device)
    path = work / f"{name}_dense_{seed}.pt"
    if path.exists():
        net.load_state_dict(torch.load(path, weights_only=True, map_location="cpu"))
        return net.eval()
    loop = ImageLoop(data, batch_size=case.batch, learning_rate=case.dense_rate, weight_decay=DENSE_DECAY)
    state: dict[str, Any] | None = None
    for number in range(case.dense_epochs):
        epoch = Epoch(number, case.dense_epochs, seed * 1000 + number, _nothing, lambda: None, state)
        net.train()
        loop.train_epoch(net, epoch)
        assert epoch.used is not None
        state = epoch.used.state_dict()
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(net.state_dict(), path)
    return net.eval()


def by_autocompress(
    case: Case, data: ImageData, net: nn.Module, share: str, seed: int, arm: str, folder: Path
) -> dict[str, Any]:
    settings = replace(case.settings, seed=seed)
    saved = (rounds_of(share) - 1) * (settings.retrain_epochs - LATE_ROUND_EPOCHS)
    late = {"round_epochs": LATE_ROUND_EPOCHS, "retrain_epochs": settings.retrain_epochs + saved}
    changes: dict[str, dict[str, Any]] = {
        "full": {},
        "late": late,
        "filters-late": {"dimensions": "filters"} | late,
        "short-admm": {
            "admm": replace(settings.admm, blocks=SHORT_ADMM),
            "retrain_epochs": settings.retrain_epochs + (settings.admm.blocks - SHORT_ADMM) * settings.admm_epochs,
        },
        "few-rounds": few_rounds(share, settings, settings.admm_epochs),
        "long-steps": few_rounds(share, settings, LONG_STEP_EPOCHS),
        "channels": {"dimensions": "channels"},
        "filters": {"dimensions": "filters"},
        "weights": {"dimensions": "weights"},
        "uniform": {"uniform": True},
        "no-annealing": {"anneal": False},
        "no-purification": {"purification": False},
        "one-shot": {
            "one_shot": True,
            "uniform": True,
            "purification": False,
            "factor": 1e6,
            "retrain_epochs": rounds_of(share) * epochs_of(settings),
        },
    }
    began, before = time.thread_time(), None
    loop = ImageLoop(data, batch_size=case.batch, learning_rate=case.rate, weight_decay=case.decay)

    def show(progress: Progress) -> None:
        nonlocal before
        if before != (progress.round, progress.phase):
            before = (progress.round, progress.phase)
            print(folder.name, f"round {progress.round} of {progress.rounds}: {progress.phase}", flush=True)

    found = auto_compress(
        net, loop, f"params={share}", settings=replace(settings, **changes[arm]), folder=folder, progress=show
    )
    report = found.report
    last = report.rounds[-1].model
    return {
        "outcome": outcome(report.dense.test_accuracy, last.test_accuracy, len(data.test_labels))
        | {"params_times_less": report.dense.params / last.params, "macs_times_less": report.dense.macs / last.macs},
        "report": report.to_dict(),
        "processor_seconds_of_this_process": round(time.thread_time() - began, 1),
    }


def by_oto(
    case: Case, data: ImageData, net: nn.Module, share: str, seed: int, arm: str, folder: Path
) -> dict[str, Any]:
    """Train by `train_and_prune`: pruned (arm "oto"), or with nothing to prune (arm "trained-on")."""
    loop = ImageLoop(data, batch_size=case.batch, learning_rate=case.rate)
    before = loop.test_accuracy(net)
    own = case.network(seed, data.size)
    own.load_state_dict(net.state_dict())
    groups = ZeroInvariantGroups(own, torch.randn(2, 3, data.size, data.size))
    full = groups.count()
    settings = PruningSettings(
        target=f"params={share if arm == 'oto' else '100%'}",
        epochs=rounds_of(share) * epochs_of(case.settings),
        learning_rate=case.rate,
        weight_decay=case.decay,
        batch_size=case.batch,
        start_share=0.02,
        pruning_share=0.5,
        # The library's own, which keeps a layer from going down to one unit, where that leaves the target in reach.
        min_share=PruningSettings.min_share if float(share.rstrip("%")) > 5 else 0.0,
        seed=seed,
    )
    folder.mkdir(parents=True, exist_ok=True)
    train_and_prune(
        groups,
        data,
        settings,
        resolution=data.size,
        normalisation=data.normalisation(),
        device=str(device_of(net)),
        state=folder / "training.pt",
    )
    compact, plan = construct_subnet(own, groups)
    after = loop.test_accuracy(compact)
    return {
        "outcome": outcome(before, after, len(data.test_labels))
        | {"params_times_less": full.params / plan.params, "macs_times_less": full.macs / plan.macs},
        "epochs": settings.epochs,
        "holdout": loop.accuracy(compact),
    }


def epochs_of(settings: CompressionSettings) -> int:
    """Epochs of one round at most."""
    purify = settings.purify_passes * settings.purify_epochs
    return settings.admm.blocks * settings.admm_epochs + purify + settings.retrain_epochs


def few_rounds(share: str, settings: CompressionSettings, admm_epochs: int) -> dict[str, Any]:
    """Rounds of four times less; the last retraining has what else is left of the epochs that `full` may use."""
    times = 100 / float(share.rstrip("%"))
    rounds = int(np.ceil(np.log(times) / np.log(4)))
    changed = replace(settings, admm_epochs=admm_epochs, retrain_epochs=LATE_ROUND_EPOCHS)
    unused = rounds_of(share) * epochs_of(settings) - rounds * epochs_of(changed)
    return {
        "factor": (1 + 1e-9) * times ** (1 / rounds),
        "admm_epochs": admm_epochs,
        "round_epochs": LATE_ROUND_EPOCHS,
        "retrain_epochs": LATE_ROUND_EPOCHS + unused,
    }


def rounds_of(share: str) -> int:
    return int(np.ceil(np.log2(100 / float(share.rstrip("%")))))


def outcome(before: float | None, after: float | None, images: int) -> dict[str, Any]:
    """Test accuracy against the dense network's; no loss: no more than one standard error of the difference's parts."""
    assert before is not None
    assert after is not None
    error = standard_error(before, images)
    return {
        "dense_test": before,
        "test": after,
        "points": 100 * (after - before),
        "standard_error_points": 100 * error,
        "no_loss": after >= before - error,
    }


def compare_searches(name: str, case: Case, data: ImageData, net: nn.Module, share: str, seed: int) -> None:
    """200 proposals of the annealing, several times, against 1,000 random points, by quick evaluation in one round."""
    loop = ImageLoop(data, batch_size=case.batch)
    groups = ZeroInvariantGroups(net, torch.randn(2, 3, data.size, data.size))
    matrices = WeightMatrices(groups)
    rates = Rates(matrices, {"params": groups.count().params * float(share.rstrip("%")) / 100})
    energies = energies_of(matrices.matrices(dict(net.named_parameters())))
    scratch = case.network(seed, data.size)

    def value(point: Any) -> float:
        scratch.load_state_dict(net.state_dict())
        matrices.apply(scratch, matrices.project(energies, rates.counts(point)))
        reestimate_norms(scratch, loop.calibration_batches())
        return 100 * loop.accuracy(scratch.eval())

    began, found, told = time.perf_counter(), [], 0
    for number in range(SEARCHES):
        search = Annealing(rates.prior(), seed=SEARCHES * seed + number)
        while not search.done:
            point = search.ask()
            search.tell(point, value(point))
        found.append(search.best_value)
        told += search.told
    speed, usual = told / (time.perf_counter() - began), float(np.median(found))
    rng = np.random.default_rng(seed)
    random = [value(rng.uniform(0, 1, rates.size)) for _ in range(5 * told // SEARCHES)]
    best = np.maximum.accumulate(random)
    reached = np.flatnonzero(best >= usual)
    write_json(
        RESULTS / f"search_{name}_{share.rstrip('%')}_{seed}.json",
        {
            "case": name,
            "share": share,
            "seed": seed,
            "prior": value(rates.prior()),
            "uniform": value(rates.uniform()),
            "annealing_200": found,
            "annealing_200_median": usual,
            "random_200": float(best[told // SEARCHES - 1]),
            "random_1000": float(best[-1]),
            "random_points_until_as_good": int(reached[0]) + 1 if len(reached) else None,
            "evaluations_per_second": speed,
            "machine": machine(),
        },
    )


def latency(turns: int = 15) -> None:
    """Medians over turns of the quickest of a few passes, dense and compact one after the other, batch of one."""
    rows: list[dict[str, Any]] = []
    for name, plain in (("vgg16_bn", vgg16_bn(1.0)), ("resnet18", small_image_resnet18(0, 64))):
        example = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        net = telling_copy(plain, [example]).eval()  # an untrained network's outputs hardly depend on its input
        groups = ZeroInvariantGroups(net, example)
        matrices = WeightMatrices(groups)
        full = groups.count()
        for share in (0.5, 0.25, 0.125):
            rates = Rates(matrices, {"macs": share * full.macs}, "channels")
            energies = energies_of(matrices.matrices(dict(net.named_parameters())))
            kept = matrices.project(energies, rates.counts(rates.uniform()), "channels")
            masked = copy.deepcopy(net)
            matrices.apply(masked, kept)
            compact, plan = construct_kept(masked, groups, kept.units)
            ms = _alternating({"dense": net, "compact": compact}, plan, example, turns)
            row = {"network": name, "macs_left": plan.macs / full.macs, "error": plan.error, "signal": plan.signal}
            for runtime in ("torch", "onnxruntime"):
                dense_ms, own = ms["dense", runtime], ms["compact", runtime]
                row |= {f"{runtime}_dense_ms": dense_ms, f"{runtime}_compact_ms": own}
                row[f"{runtime}_share_of_the_macs_cut"] = (1 - own / dense_ms) / (1 - plan.macs / full.macs)
            rows.append(row)
            print(json.dumps(row), flush=True)
            write_json(RESULTS / "latency.json", {"rows": rows, "turns": turns, "machine": machine()})


def _alternating(nets: dict[str, nn.Module], plan: Plan, example: Tensor, turns: int) -> dict[tuple[str, str], float]:
    images = example[:1]
    times: dict[tuple[str, str], list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        sessions = {}
        for name, net in nets.items():
            save_compact(Path(folder) / name, net, plan, example, formats=["onnx"])
            sessions[name] = open_session(str(Path(folder) / name / "model.onnx"), 1)
        for _ in range(turns):
            for name, net in nets.items():
                with torch.inference_mode():
                    passes = [sum(np.diff(timed_pass([net], images))) / 1e6 for _ in range(6)]
                times.setdefault((name, "torch"), []).append(min(passes))
                times.setdefault((name, "onnxruntime"), []).append(min(visit_ms(sessions[name], images.numpy())))
    return {key: float(np.median(own)) for key, own in times.items()}


def report() -> None:
    """Every case, share and arm over its seeds."""
    runs = [
        read_json(path) for path in sorted(RESULTS.glob("*.json")) if path.name not in ("report.json", "latency.json")
    ]
    rows: dict[str, Any] = {}
    for run in runs:
        if "outcome" in run:
            rows.setdefault(run["case"], {}).setdefault(run["share"], {}).setdefault(run["arm"], []).append(
                {"seed": run["seed"], **run["outcome"], **_rounds_in(run)}
            )
        else:
            rows.setdefault(run["case"], {}).setdefault("search", []).append(run)
    write_json(RESULTS / "report.json", rows)
    print(json.dumps(rows, indent=2))


def _rounds_in(run: dict[str, Any]) -> dict[str, Any]:
    """Times fewer parameters, points of test accuracy off the dense network, after each round; nothing for OTO."""
    if "report" not in run:
        return {}
    dense = run["report"]["dense"]
    return {
        "rounds": [
            {
                "params_times_less": dense["params"] / model["params"],
                "points": 100 * (model["test_accuracy"] - dense["test_accuracy"]),
                "holdout_points": 100 * (model["accuracy"] - dense["accuracy"]),
            }
            for model in (one["model"] for one in run["report"]["rounds"])
        ]
    }


def machine(device: str = "cpu") -> dict[str, Any]:
    gpu = {} if device == "cpu" else {"gpu": torch.cuda.get_device_name()}
    return gpu | {"processor": processor(), "system": platform.machine(), "torch": torch.__version__, "threads": 1}


def _nothing() -> Tensor:
    return torch.zeros(())


if __name__ == "__main__":
    main()
