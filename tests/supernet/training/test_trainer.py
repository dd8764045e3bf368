from __future__ import annotations

import json
import math
import random
import resource
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from interruption import StopAfter
from saved_position import saved_position
from torch import Tensor
from torch.nn import functional

from supernet.errors import CheckpointError, ConfigError, DataError, RunBusyError, StorageError
from supernet.files import read_json, sha256_file
from supernet.network import Supernet
from supernet.runs import RunFolder
from supernet.spaces import SearchSpace, get_space
from supernet.tensors import load_tensors
from supernet.training.checkpoint import load_checkpoint
from supernet.training.data import ImageData
from supernet.training.metrics import Silence
from supernet.training.recipes import SMALL_IMAGES, build_stages
from supernet.training.schedule import Stage
from supernet.training.seeds import torch_generator
from supernet.training.settings import TrainingSettings
from supernet.training.trainer import _Training, exclusive, start_run, train

SPACE = "mobilenet_v3_tiny"
SOURCE = {"root": None, "size": 32}


def test_a_run_ends_with_weights_manifest_metrics_and_curves(tiny_run: Path) -> None:
    run = RunFolder(tiny_run)
    assert run.complete
    assert sha256_file(tiny_run / "supernet.safetensors") == run.weights_sha256
    assert not (tiny_run / "checkpoint.safetensors").exists()
    lines = [json.loads(line) for line in (tiny_run / "metrics.jsonl").read_text().splitlines()]
    ended = [line["stage_ended"] for line in lines if "stage_ended" in line]
    assert ended == ["largest", "kernel", "depth1", "depth2", "width1", "width2"]
    assert all(0 <= line["holdout_accuracy_smallest"] <= 1 for line in lines if "stage_ended" in line)
    assert list((tiny_run / "tensorboard").glob("events.out.tfevents.*"))
    net = run.load_supernet()
    assert not net.training


def test_training_learns(tmp_path: Path, digits: ImageData, short_settings: TrainingSettings) -> None:
    """Two epochs of the largest network do better than guessing (10 %) by far."""
    stage = replace(short_settings.stages[0], epochs=3)
    settings = replace(short_settings, stages=(stage,), batch_size=32, calibration_images=256)
    start_run(tmp_path, settings, digits, SOURCE)
    train(tmp_path, digits)
    ended = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    assert ended["holdout_accuracy_largest"] > 0.4


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(
    tmp_path: Path, few_digits: ImageData, short_settings: TrainingSettings, tiny_run: Path
) -> None:
    digests = []
    for name, seed in (("same", short_settings.seed), ("other", short_settings.seed + 1)):
        start_run(tmp_path / name, replace(short_settings, seed=seed), few_digits, SOURCE)
        digests.append(train(tmp_path / name, few_digits).weights_sha256)
    assert digests[0] == RunFolder(tiny_run).weights_sha256
    assert digests[1] != digests[0]


@pytest.mark.parametrize(
    ("recipe", "changes"),
    [
        ("sandwich", {"accumulate": 2}),
        ("alphanet", {"clip_norm": 0.5}),
        ("delayed", {"ema_decay": 0.9}),
        ("progressive-sandwich", {"dropout": 0.5}),
        ("random", {"precision": "bf16"}),
    ],
)
def test_every_recipe_and_option_trains_and_resumes_alike(
    recipe: str,
    changes: dict[str, Any],
    tmp_path: Path,
    few_digits: ImageData,
    short_settings: TrainingSettings,
    tiny: SearchSpace,
) -> None:
    epochs = {"largest": 1, "width2": 1} if recipe == "progressive-sandwich" else 2
    stages = build_stages(recipe, tiny, SMALL_IMAGES, epochs=epochs)
    settings = replace(short_settings, stages=stages, recipe=recipe, checkpoint_seconds=0.0, **changes)
    plain = replace(short_settings, stages=stages, recipe=recipe)
    for name, here in (("whole", settings), ("broken", settings), ("plain", plain)):
        start_run(tmp_path / name, here, few_digits, SOURCE)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "broken", few_digits, StopAfter(6))
    digests = {name: train(tmp_path / name, few_digits).weights_sha256 for name in ("whole", "broken", "plain")}
    assert digests["broken"] == digests["whole"]
    assert digests["plain"] != digests["whole"]  # the option has an effect
    weights = load_tensors(tmp_path / "whole" / "supernet.safetensors")
    assert all(bool(tensor.isfinite().all()) for tensor in weights.values())
    losses = [json.loads(line)["loss"] for line in _lines(tmp_path / "whole") if '"loss"' in line]
    assert all(0 < loss < 5 for loss in losses)


class _Losses(Silence):
    def __init__(self) -> None:
        self.seen: list[float] = []

    def step(self, metrics: dict[str, float]) -> None:
        self.seen.append(metrics["loss"])


def test_taught_subnets_see_true_labels_by_the_stages_ratio(
    tmp_path: Path, few_digits: ImageData, short_settings: TrainingSettings, tiny: SearchSpace
) -> None:
    """Three of a sandwich's four subnets are taught; guessing costs about ln 10 each: a ratio of 1 adds 3/4 of that."""
    (stage,) = build_stages("sandwich", tiny, SMALL_IMAGES, epochs=1)
    first = []
    for ratio in (0.0, 1.0, 2.0):
        watcher, path = _Losses(), tmp_path / str(ratio)
        start_run(path, replace(short_settings, stages=(replace(stage, label_ratio=ratio),)), few_digits, SOURCE)
        train(path, few_digits, watcher)
        first.append(watcher.seen[0])
    assert first[1] - first[0] == pytest.approx(0.75 * math.log(10), rel=0.3)
    assert first[2] - first[1] == pytest.approx(first[1] - first[0], rel=1e-4)


@pytest.mark.parametrize(("everywhere", "expected"), [(False, [0.5, 0, 0, 0]), (True, [0.5] * 4)])
def test_of_a_sandwich_only_the_largest_has_dropout(
    everywhere: bool,
    expected: list[float],
    tmp_path: Path,
    few_digits: ImageData,
    short_settings: TrainingSettings,
    tiny: SearchSpace,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (stage,) = build_stages("sandwich", tiny, SMALL_IMAGES, epochs=1)
    stage, dropout, seen = replace(stage, taught_dropout=everywhere), functional.dropout, []

    def noted(x: Tensor, probability: float, training: bool) -> Tensor:
        seen.append(probability)
        return dropout(x, probability, training)

    monkeypatch.setattr(functional, "dropout", noted)
    start_run(tmp_path, replace(short_settings, stages=(stage,), dropout=0.5), few_digits, SOURCE)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, few_digits, StopAfter(0))
    assert seen == expected


def test_a_frozen_teacher_in_fp64_survives_a_resume(
    tmp_path: Path, few_digits: ImageData, short_settings: TrainingSettings
) -> None:
    few = replace(few_digits, train_images=few_digits.train_images[:8], train_labels=few_digits.train_labels[:8])
    few = replace(few, holdout_images=few.holdout_images[:8], holdout_labels=few.holdout_labels[:8])
    stages = tuple(replace(stage, choices={"resolution": (16,)}) for stage in short_settings.stages[:3])
    changes = {"stages": stages, "precision": "fp64", "checkpoint_seconds": 0.0, "batch_size": 8}
    digests = []
    for name, steps in (("whole", 9), ("broken", 2)):
        settings = replace(short_settings, calibration_images=8, **changes)
        start_run(tmp_path / name, settings, few, SOURCE)
        with suppress(KeyboardInterrupt):
            train(tmp_path / name, few, StopAfter(steps))
        digests.append(train(tmp_path / name, few).weights_sha256)
    assert digests[0] == digests[1]


def _lines(run: Path) -> list[str]:
    return (run / "metrics.jsonl").read_text().splitlines()


def test_a_batch_in_parts_has_the_gradient_of_its_parts_mean(
    tmp_path: Path, few_digits: ImageData, short_settings: TrainingSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two equal halves: batch norm sees the same in each half as in the whole, so the first gradient is the same."""
    stage = replace(short_settings.stages[0], epochs=1, learning_rate=0.05)
    half = few_digits.train_images[:32]
    twice = replace(
        few_digits, train_images=torch.cat([half, half]), train_labels=few_digits.train_labels[:32].repeat(2)
    )
    identity = np.arange(64)
    monkeypatch.setattr(
        "supernet.training.trainer.numpy_generator",
        lambda *_: type("Order", (), {"permutation": lambda _, n: identity})(),
    )
    weights = []
    for parts in (1, 2):
        settings = replace(short_settings, stages=(stage,), accumulate=parts, dropout=0.0, precision="fp64")
        start_run(tmp_path / str(parts), settings, twice, SOURCE)
        train(tmp_path / str(parts), twice)
        weights.append(load_tensors(tmp_path / str(parts) / "supernet.safetensors"))
    start = dict(
        Supernet(get_space(SPACE), generator=torch_generator(short_settings.seed, "weights")).named_parameters()
    )
    moved = sum(float((weights[0][name] - value.detach()).square().sum()) for name, value in start.items()) ** 0.5
    apart = sum(float((weights[0][name] - weights[1][name]).square().sum()) for name in start) ** 0.5
    assert moved > 0.01
    assert apart < 1e-5 * moved


def test_a_clipped_gradient_moves_the_weights_by_no_more_than_its_norm(
    tmp_path: Path, few_digits: ImageData, short_settings: TrainingSettings
) -> None:
    """One step from rest: with Nesterov momentum 0.9 the step is 1.9 times rate times gradient."""
    stage = replace(short_settings.stages[0], epochs=1, warmup_epochs=0.0, learning_rate=0.1)
    few = replace(few_digits, train_images=few_digits.train_images[:64], train_labels=few_digits.train_labels[:64])
    moved = []
    for clip in (0.0, 0.01):
        settings = replace(short_settings, stages=(stage,), clip_norm=clip, weight_decay=0.0)
        start_run(tmp_path / str(clip), settings, few, SOURCE)
        train(tmp_path / str(clip), few)
        before = Supernet(get_space(settings.space), generator=torch_generator(settings.seed, "weights"))
        after = load_tensors(tmp_path / str(clip) / "supernet.safetensors")
        squares = sum(float((after[n] - p.detach()).square().sum()) for n, p in before.named_parameters())
        moved.append(squares**0.5)
    assert moved[1] == pytest.approx(1.9 * 0.1 * 0.01, rel=1e-3)
    assert moved[0] > 10 * moved[1]


@pytest.mark.parametrize("steps", [3, 4, 9, 22])
def test_interrupted_and_resumed_equals_uninterrupted(
    steps: int, tmp_path: Path, few_digits: ImageData, short_settings: TrainingSettings, tiny_run: Path
) -> None:
    """Checkpoints after every step, so that the training goes on in the middle of an epoch too."""
    settings = replace(short_settings, checkpoint_seconds=0.0)
    start_run(tmp_path, settings, few_digits, SOURCE)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, few_digits, StopAfter(steps))
    stored = load_checkpoint(tmp_path)
    assert stored is not None
    assert stored[0].total_steps == steps
    found = train(tmp_path, few_digits)
    expected = load_tensors(tiny_run / "supernet.safetensors")
    weights = load_tensors(tmp_path / "supernet.safetensors")
    assert all(torch.equal(weights[name], value) for name, value in expected.items())
    assert found.weights_sha256 == RunFolder(tiny_run).weights_sha256


def _metrics(run: Path) -> list[dict[str, Any]]:
    """The run's metrics without what depends on the clock."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("seconds", "images_per_second")} for line in lines]


@pytest.mark.slow
def test_kill_9_at_any_moment_leaves_no_trace(
    tmp_path: Path, few_digits: ImageData, short_settings: TrainingSettings, tiny_run: Path
) -> None:
    """Killed at a random moment of every stage; weights and metrics are those of one run."""
    start_run(tmp_path, replace(short_settings, checkpoint_seconds=0.0), few_digits, SOURCE)
    code = (
        "import sys; from pathlib import Path; from supernet.training.data import load_data\n"
        "from supernet.training.trainer import train, exclusive; path = Path(sys.argv[1])\n"
        "from dataclasses import replace; data = load_data('digits')\n"
        "few = dict(train_images=data.train_images[:280], train_labels=data.train_labels[:280], digest='few')\n"
        "data = replace(data, **few); print('ready', flush=True)\n"
        "with exclusive(path): train(path, data)\n"
    )
    moments, stages_hit = random.Random(0), set()
    for kill in range(6):
        process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
        # each of the six stages has four steps; the kill falls anywhere in the stage after so many steps
        while (saved := saved_position(tmp_path)) is None or saved.total_steps < 4 * kill:
            assert process.poll() is None
            time.sleep(0.01)
        time.sleep(moments.uniform(0.0, 0.3))
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=120)
        stored = load_checkpoint(tmp_path)
        assert stored is not None
        stages_hit.add(stored[0].stage)
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, timeout=120, capture_output=True)
    assert len(stages_hit) >= 5
    assert not list(tmp_path.glob(".*.tmp"))
    assert RunFolder(tmp_path).weights_sha256 == RunFolder(tiny_run).weights_sha256
    assert _metrics(tmp_path) == _metrics(tiny_run)


def test_a_second_training_in_the_same_folder_is_refused(
    tmp_path: Path, few_digits: ImageData, short_settings: TrainingSettings, tiny_run: Path
) -> None:
    start_run(tmp_path, short_settings, few_digits, SOURCE)
    with pytest.raises(
        ConfigError, match=r"holds a training run already \(status: training\); continue it with: onceforall"
    ):
        start_run(tmp_path, short_settings, few_digits, SOURCE)
    with pytest.raises(ConfigError, match=r"\(status: complete\); choose another folder with --run"):
        start_run(tiny_run, short_settings, few_digits, SOURCE)


def test_two_processes_never_train_in_one_folder(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from supernet.training.trainer import exclusive\n"
        "with exclusive(Path(sys.argv[1])): print('locked', flush=True); sys.stdin.read()\n"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], **pipes) as process:  # type: ignore[call-overload]
        assert process.stdout.readline() == b"locked\n"
        with pytest.raises(RunBusyError, match="another process trains in"), exclusive(tmp_path):
            pass
        process.kill()
    with exclusive(tmp_path):
        pass


def test_other_images_are_refused_on_resume(
    tmp_path: Path, few_digits: ImageData, short_settings: TrainingSettings
) -> None:
    start_run(tmp_path, short_settings, few_digits, SOURCE)
    with pytest.raises(CheckpointError, match="are not those that"):
        train(tmp_path, replace(few_digits, digest="0" * 64))


def test_a_damaged_checkpoint_is_refused_by_name(
    tmp_path: Path, few_digits: ImageData, short_settings: TrainingSettings
) -> None:
    start_run(tmp_path, replace(short_settings, checkpoint_seconds=0.0), few_digits, SOURCE)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, few_digits, StopAfter(2))
    path = tmp_path / "checkpoint.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(CheckpointError, match=r"checkpoint\.safetensors' is not a training checkpoint, or was altered"):
        train(tmp_path, few_digits)
    path.write_bytes(whole[:-100])
    with pytest.raises(CheckpointError, match=r"checkpoint\.safetensors' is truncated or not a safetensors file"):
        train(tmp_path, few_digits)


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_checkpoint(
    tmp_path: Path, few_digits: ImageData, short_settings: TrainingSettings
) -> None:
    wild = tuple(replace(stage, learning_rate=1e30) for stage in short_settings.stages)
    start_run(tmp_path, replace(short_settings, stages=wild, checkpoint_seconds=0.0), few_digits, SOURCE)
    with pytest.raises(
        DataError, match=r"the (loss|weights) became (nan|inf|infinite) in stage 'largest'.*smaller learning rate"
    ):
        train(tmp_path, few_digits)
    stored = load_checkpoint(tmp_path)
    assert stored is None or all(bool(tensor.isfinite().all()) for tensor in stored[1]["model"].values())
    assert read_json(tmp_path / "manifest.json")["status"] == "training"


def test_weights_that_are_not_finite_are_never_saved(
    tmp_path: Path, few_digits: ImageData, short_settings: TrainingSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fifth update spoils the weights; the checkpoint after the fourth stays, and the training goes on from it."""
    whole = _Training._update

    def spoiled(self: _Training) -> None:
        whole(self)
        if self.position.total_steps == 4:
            with torch.no_grad():
                next(self.net.parameters()).fill_(float("inf"))

    start_run(tmp_path, replace(short_settings, checkpoint_seconds=0.0), few_digits, SOURCE)
    monkeypatch.setattr(_Training, "_update", spoiled)
    with pytest.raises(DataError, match=r"the weights became infinite in stage 'kernel', step 1; the last checkpoint"):
        train(tmp_path, few_digits)
    monkeypatch.setattr(_Training, "_update", whole)
    stored = load_checkpoint(tmp_path)
    assert stored is not None
    assert stored[0].total_steps == 4
    assert train(tmp_path, few_digits).complete


def test_fewer_images_than_a_batch_are_refused(
    tmp_path: Path, few_digits: ImageData, short_settings: TrainingSettings
) -> None:
    with pytest.raises(DataError, match="has 280 images, fewer than one batch of 2000; use a smaller --batch-size"):
        start_run(tmp_path, replace(short_settings, batch_size=2000), few_digits, SOURCE)
    assert not (tmp_path / "manifest.json").exists()


def test_all_faults_of_the_settings_are_named_at_once(short_settings: TrainingSettings) -> None:
    with pytest.raises(ConfigError) as caught:
        replace(
            short_settings,
            batch_size=1,
            label_smoothing=1.0,
            kd_ratio=float("nan"),
            seed=-1,
            device="tpu",
            threads=-1,
            accumulate=3,
            ema_decay=1.0,
            clip_norm=-1.0,
            processes=0,
            precision="fp8",  # type: ignore[arg-type]
        )
    text = str(caught.value)
    assert text.startswith("training settings: ")
    for name in (
        "batch_size is 1",
        "label_smoothing is 1.0",
        "kd_ratio is nan",
        "seed is -1",
        "device is 'tpu'",
        "threads is -1",
        "accumulate is 3",
        "ema_decay is 1.0",
        "clip_norm is -1.0",
        "processes is 0",
        "unknown precision 'fp8'",
    ):
        assert name in text
    stage: Stage = replace(short_settings.stages[0], learning_rate=0.0, label_ratio=math.inf)
    with pytest.raises(
        ConfigError, match=r"learning rate of stage largest is 0\.0; .*label_ratio of stage largest is inf"
    ):
        replace(short_settings, stages=(stage,))


def test_a_full_disk_stops_with_one_sentence_and_keeps_the_last_checkpoint(
    tmp_path: Path, few_digits: ImageData, short_settings: TrainingSettings
) -> None:
    """A limit of 1 MB a file stands for the full disk: the 7 MB checkpoint cannot be written."""
    start_run(tmp_path, replace(short_settings, checkpoint_seconds=0.0), few_digits, SOURCE)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, few_digits, StopAfter(2))
    before = sha256_file(tmp_path / "checkpoint.safetensors")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))
    try:
        with pytest.raises(StorageError, match=r"cannot write .*checkpoint\.safetensors': .*; free some space"):
            train(tmp_path, few_digits)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert sha256_file(tmp_path / "checkpoint.safetensors") == before
    assert not list(tmp_path.glob(".*.tmp"))
    assert train(tmp_path, few_digits).complete


def test_a_folder_that_cannot_be_written_stops_with_one_sentence(
    few_digits: ImageData, short_settings: TrainingSettings
) -> None:
    """Nobody, root included, makes folders in /sys."""
    with pytest.raises(
        StorageError, match=r"cannot write '/sys/onceforall/images\.safetensors': .*choose another folder"
    ):
        start_run(Path("/sys/onceforall"), short_settings, few_digits, SOURCE)
