"""Two real processes under torchrun, talking by gloo."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from saved_position import saved_position

from supernet.errors import ConfigError
from supernet.files import read_json
from supernet.network import Supernet
from supernet.runs import RunFolder
from supernet.spaces import SearchSpace, get_space
from supernet.tensors import load_tensors
from supernet.training.data import ImageData
from supernet.training.processes import Processes
from supernet.training.recipes import SMALL_IMAGES, build_stages
from supernet.training.seeds import torch_generator
from supernet.training.settings import TrainingSettings
from supernet.training.trainer import start_run, train

SOURCE = {"root": None, "size": 32}
SCRIPT = """
import os
import sys
from dataclasses import replace
from pathlib import Path
from supernet.training.data import load_data
from supernet.training.processes import joined
from supernet.training.trainer import train
data = load_data("digits")
few = dict(train_images=data.train_images[:160], train_labels=data.train_labels[:160], digest="fewer")
os.write(1, f"{os.getpid()}\\n".encode())  # in one piece: both processes write to one pipe
with joined("cpu") as here:
    train(Path(sys.argv[1]), replace(data, **few), processes=here)
"""


@pytest.fixture
def few_images(digits: ImageData) -> ImageData:
    """The images of `SCRIPT`."""
    return replace(
        digits, train_images=digits.train_images[:160], train_labels=digits.train_labels[:160], digest="fewer"
    )


@pytest.fixture
def settings(tiny: SearchSpace) -> TrainingSettings:
    """Two stages of an epoch of 10 steps for 2 x 8 images, the second with four subnets a step."""
    stages = build_stages(
        "progressive",
        tiny,
        SMALL_IMAGES,
        epochs={"largest": 1, "width2": 1},
        learning_rates={"largest": 0.02, "width2": 0.01},
    )
    small = tuple(replace(stage, choices={**stage.choices, "resolution": (16,)}) for stage in stages)
    return TrainingSettings(
        tiny.name,
        small,
        batch_size=8,
        processes=2,
        sync_batch_norm=True,
        dropout=0.0,
        calibration_images=64,
        threads=1,
    )


def _start(path: Path, tmp_path: Path) -> subprocess.Popen[bytes]:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd()), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*command, str(script), str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        start_new_session=True,
    )


@pytest.mark.slow
def test_two_processes_equal_one_with_the_doubled_batch(
    tmp_path: Path, few_images: ImageData, settings: TrainingSettings
) -> None:
    """20 steps, batch norm over both processes; the order of sums is all that differs.

    In fp64 and with a low rate: a freshly drawn network is chaotic. With a rate of 0.1 a difference grows four times a
    step, and one that pushes a value over the kink of an activation moves the gradient by up to a percent at once.
    """
    settings = replace(settings, precision="fp64")
    start_run(tmp_path / "two", settings, few_images, SOURCE)
    process = _start(tmp_path / "two", tmp_path)
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors.decode()
    start_run(tmp_path / "one", replace(settings, processes=1, batch_size=16), few_images, SOURCE)
    train(tmp_path / "one", few_images)
    one, two = (load_tensors(tmp_path / name / "supernet.safetensors") for name in ("one", "two"))
    largest = {name: float((one[name] - two[name]).abs().max()) for name in one}
    worst = max(largest, key=largest.__getitem__)
    assert largest[worst] <= 1e-5 * max(1.0, float(one[worst].abs().max())), (worst, largest[worst])
    start = Supernet(get_space(settings.space), generator=torch_generator(settings.seed, "weights"))
    moved = {name: float((one[name] - value.detach()).abs().max()) for name, value in start.named_parameters()}
    assert max(moved.values()) > 0.01


@pytest.mark.long
@pytest.mark.timeout(900)
def test_kill_9_of_two_processes_leaves_no_trace(
    tmp_path: Path, few_images: ImageData, settings: TrainingSettings
) -> None:
    settings = replace(settings, dropout=0.1, sync_batch_norm=False, checkpoint_seconds=0.0)
    start_run(tmp_path / "whole", settings, few_images, SOURCE)
    process = _start(tmp_path / "whole", tmp_path)
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors.decode()
    start_run(tmp_path / "killed", settings, few_images, SOURCE)
    moments, stages_hit = random.Random(0), set()
    for kill in range(3):  # in the first stage of 10 steps, early and late in the second
        process = _start(tmp_path / "killed", tmp_path)
        assert process.stdout is not None
        workers = [int(process.stdout.readline()) for _ in range(2)]  # torchrun gives each its own session
        while (position := saved_position(tmp_path / "killed")) is None or position.total_steps < (1, 11, 16)[kill]:
            assert process.poll() is None
            time.sleep(0.01)
        time.sleep(moments.uniform(0.0, 0.2))
        for pid in (*workers, process.pid):
            os.kill(pid, signal.SIGKILL)
        process.communicate(timeout=200)
        position = saved_position(tmp_path / "killed")
        assert position is not None
        stages_hit.add(position.stage)
    process = _start(tmp_path / "killed", tmp_path)
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors.decode()
    assert stages_hit == {0, 1}
    assert RunFolder(tmp_path / "killed").weights_sha256 == RunFolder(tmp_path / "whole").weights_sha256


@pytest.mark.slow
def test_an_error_of_one_process_ends_all_and_is_told_once(tmp_path: Path, tiny_run: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "--"]
    command += ["service.cli", "train", "--data", "digits", "--run", str(tiny_run)]
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd()), "OMP_NUM_THREADS": "1"}
    found = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert found.returncode != 0
    assert found.stderr.count("error: ") == 1
    assert "holds a training run already (status: complete); choose another folder with --run" in found.stderr


def test_another_number_of_processes_cannot_go_on(
    tmp_path: Path, few_images: ImageData, settings: TrainingSettings
) -> None:
    start_run(tmp_path, settings, few_images, SOURCE)
    with pytest.raises(ConfigError, match=r"started with 2 process\(es\), not with 1; start as many with torchrun"):
        train(tmp_path, few_images)
    assert read_json(tmp_path / "manifest.json")["status"] == "training"


def test_one_process_alone_needs_no_others() -> None:
    alone = Processes()
    parameter = torch.nn.Parameter(torch.ones(2))
    parameter.grad = torch.tensor([1.0, 2.0])
    alone.average_gradients([parameter])
    alone.wait()
    assert alone.first
    assert alone.sum(3, 4.5) == [3, 4.5]
    assert parameter.grad.tolist() == [1, 2]
