"""What needs a CUDA device; skipped elsewhere."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from interruption import StopAfter

from supernet.tensors import load_tensors
from supernet.training.data import ImageData
from supernet.training.settings import Precision, TrainingSettings
from supernet.training.trainer import start_run, train

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_training_on_a_gpu_gives_finite_weights(
    precision: Precision, tmp_path: Path, few_digits: ImageData, short_settings: TrainingSettings
) -> None:
    settings = replace(short_settings, device="cuda", precision=precision)
    start_run(tmp_path, settings, few_digits, {"root": None, "size": 32})
    run = train(tmp_path, few_digits)
    assert run.complete
    weights = load_tensors(tmp_path / "supernet.safetensors")
    assert all(bool(tensor.isfinite().all()) for tensor in weights.values())


def test_a_gpu_trains_as_a_cpu_does(tmp_path: Path, few_digits: ImageData, short_settings: TrainingSettings) -> None:
    """One stage of four steps in fp64, where rounding does not decide."""
    stage = replace(short_settings.stages[0], learning_rate=0.01)
    found = []
    for device in ("cpu", "cuda"):
        settings = replace(short_settings, stages=(stage,), device=device, precision="fp64", dropout=0.0)
        start_run(tmp_path / device, settings, few_digits, {"root": None, "size": 32})
        train(tmp_path / device, few_digits)
        found.append(load_tensors(tmp_path / device / "supernet.safetensors"))
    for name, tensor in found[0].items():
        torch.testing.assert_close(found[1][name], tensor, rtol=1e-4, atol=1e-5, msg=name)


SCRIPT = """
import sys
from dataclasses import replace
from pathlib import Path
import torch.distributed as dist
from supernet.training.data import load_data
from supernet.training.processes import joined
from supernet.training.trainer import train
data = load_data("digits")
few = dict(train_images=data.train_images[:280], train_labels=data.train_labels[:280], digest="few")
with joined("cuda") as here:
    assert dist.get_backend() == "nccl"
    train(Path(sys.argv[1]), replace(data, **few), processes=here)
"""


def test_torchrun_on_one_gpu_trains_as_without_it(
    tmp_path: Path, few_digits: ImageData, short_settings: TrainingSettings
) -> None:
    stage = replace(short_settings.stages[0], learning_rate=0.01)
    settings = replace(short_settings, stages=(stage,), device="cuda", precision="fp64")
    for name in ("alone", "torchrun"):
        start_run(tmp_path / name, settings, few_digits, {"root": None, "size": 32})
    train(tmp_path / "alone", few_digits)
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1"]
    done = subprocess.run(
        [*command, str(tmp_path / "script.py"), str(tmp_path / "torchrun")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path.cwd()), *sys.path])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    one, other = (load_tensors(tmp_path / name / "supernet.safetensors") for name in ("alone", "torchrun"))
    for name, tensor in one.items():
        torch.testing.assert_close(other[name], tensor, rtol=1e-4, atol=1e-5, msg=name)


def test_an_interrupted_training_on_a_gpu_goes_on(
    tmp_path: Path, few_digits: ImageData, short_settings: TrainingSettings
) -> None:
    """To the same weights but for the order of sums in the GPU's own operators, in fp64."""
    stages = tuple(replace(stage, learning_rate=0.005) for stage in short_settings.stages[:3])
    settings = replace(short_settings, stages=stages, device="cuda", precision="fp64", checkpoint_seconds=0.0)
    for name in ("whole", "stopped"):
        start_run(tmp_path / name, settings, few_digits, {"root": None, "size": 32})
    train(tmp_path / "whole", few_digits)
    for steps in (2, 6):
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "stopped", few_digits, StopAfter(steps))
    assert train(tmp_path / "stopped", few_digits).complete
    whole, stopped = (load_tensors(tmp_path / name / "supernet.safetensors") for name in ("whole", "stopped"))
    for name, tensor in whole.items():
        torch.testing.assert_close(stopped[name], tensor, rtol=1e-4, atol=1e-5, msg=name)
