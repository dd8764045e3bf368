"""Every example runs to its end, with a few steps."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

import pytest

from supernet.files import read_json


@pytest.mark.long
@pytest.mark.parametrize("name", ["super_resolution", "unet", "text"])
def test_examples_of_oto(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("examples.training.RESULTS", tmp_path)
    monkeypatch.setattr(sys, "argv", [name, "--steps", "8"])
    import_module(f"examples.oto_{name}").main()
    found = read_json(tmp_path / f"{name}.json")
    assert found["pruned"]["macs"] <= float(found["target"].partition("=")[2]) * found["dense"]["macs"]
    assert found["pruned"]["largest_error"] < 1e-4 < found["pruned"]["signal"]
    assert found["pruned"][found["metric"]] == pytest.approx(found["pruned"][f"{found['metric']}_before_cutting"])


@pytest.mark.long
def test_the_example_of_classification(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    example = import_module("examples.oto_classification")
    monkeypatch.setattr(example, "RESULTS", tmp_path)
    monkeypatch.setattr(sys, "argv", ["", "resnet18", "--data", "digits", "--images", "256", "--epochs", "2"])
    example.main()
    found = read_json(tmp_path / "resnet18_digits.json")
    assert found["dense"]["macs_share"] == 1
    assert found["pruned"]["macs_share"] <= 0.5
