"""What needs a CUDA device; skipped elsewhere."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

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
