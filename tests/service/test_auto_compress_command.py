"""`onceforall prune auto-compress` on a real subnet, and bad input."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from pruning import load_compact, load_plan
from service.cli import app
from supernet.errors import ConfigError
from supernet.tensors import load_tensors

QUICK = ["--blocks", "2", "--purify-proposals", "2", "--retrain-epochs", "1", "--batch-size", "128"]


def error_of(*arguments: str | Path) -> Exception:
    result = CliRunner().invoke(app, ["prune", "auto-compress", *map(str, arguments)])
    assert isinstance(result.exception, Exception)
    return result.exception


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("proposals", [3, 0])
def test_a_subnet_becomes_smaller_than_the_smallest(tiny_run: Path, tmp_path: Path, proposals: int) -> None:
    subnet, out = tmp_path / "subnet", tmp_path / "compact"
    arguments = ["extract", str(tiny_run), "--subnet", "smallest", "--out", str(subnet)]
    assert CliRunner().invoke(app, arguments, catch_exceptions=False).exit_code == 0
    arguments = ["prune", "auto-compress", str(subnet), "--out", str(out), "--target", "params=60%", "--factor", "1.5"]
    arguments += ["--proposals", str(proposals), *QUICK, "--json"]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    card = json.loads(result.stdout)
    assert [one["proposals"] for one in card["rounds"]] == [proposals or 1] * 2  # without a search experience alone
    last = card["rounds"][-1]
    assert last["met"]["params"] <= 0.6 * card["dense"]["params"]
    assert last["model"]["params"] <= last["met"]["params"]
    assert last["error"] < 1e-4 < last["signal"]
    files = {path.name for path in out.iterdir()}
    assert files == {
        "weights.safetensors",
        "model.pt2",
        "plan.json",
        "card.json",
        "report.json",
        "masks.safetensors",
        "round_1",
        "round_2",
    }
    plan, tensors = load_plan(out), load_tensors(out / "weights.safetensors")
    for name, axes in plan.tensors.items():
        for axis, kept in axes.items():
            assert tensors[name].shape[axis] == len(kept)
    for name, mask in load_tensors(out / "masks.safetensors").items():
        assert not tensors[name][~mask].any()
    assert load_compact(out)(torch.zeros(3, 3, card["resolution"], card["resolution"])).shape == (3, 10)


def test_bad_input_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    out = tmp_path / "out"
    error = error_of("resnet18", "--out", out)
    assert isinstance(error, ConfigError)
    assert "'resnet18' would be untrained" in str(error)
    error = error_of("resnet18", "--out", out, "--dimensions", "rows")
    assert isinstance(error, ConfigError)
    assert "'rows'" in str(error)
    for option in ("--proposals", "--purify-proposals"):
        result = CliRunner().invoke(app, ["prune", "auto-compress", "resnet18", "--out", str(out), option, "-1"])
        assert result.exit_code == 2
        assert f"'{option}': Input should be greater than or equal to 0" in result.output
    error = error_of("resnet18", "--out", out, "--factor", "1")
    assert "factor is 1.0; allowed: above 1" in str(error)
    error = error_of(tmp_path, "--out", out, "--resume")
    assert "nothing in" in str(error)
    error = error_of(tmp_path, "--out", tmp_path.parent)
    assert "is not an empty folder" in str(error)
    assert not out.exists()
