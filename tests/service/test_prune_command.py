"""`onceforall prune oto` on real subnets, torchvision's classifiers, and bad input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from pruning import load_compact, load_plan
from service.cli import app
from supernet.errors import CheckpointError, ConfigError, InfeasibleBudgetError
from supernet.tensors import load_tensors, save_tensors

QUICK = ["--epochs", "1", "--batch-size", "128"]


def prune(*arguments: str | Path) -> dict[str, Any]:
    result = CliRunner().invoke(app, ["prune", "oto", *map(str, arguments), "--json"], catch_exceptions=False)
    assert result.exit_code == 0
    return dict(json.loads(result.stdout))


def error_of(*arguments: str | Path) -> Exception:
    result = CliRunner().invoke(app, ["prune", "oto", *map(str, arguments)])
    assert isinstance(result.exception, Exception)
    return result.exception


@pytest.fixture(scope="session")
def subnet(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("subnets") / "smallest"
    arguments = ["extract", str(tiny_run), "--subnet", "smallest", "--out", str(folder)]
    assert CliRunner().invoke(app, arguments, catch_exceptions=False).exit_code == 0
    return folder


@pytest.mark.slow
def test_a_subnet_becomes_smaller_than_the_smallest(subnet: Path, tmp_path: Path) -> None:
    out = tmp_path / "compact"
    card = prune(subnet, "--out", out, "--target", "macs=0.6", *QUICK)
    assert card["costs"]["macs"] <= 0.6 * card["dense"]["macs"]
    assert card["dense"]["params"] == json.loads((subnet / "card.json").read_text())["measured"]["params"]
    assert card["met_by_step"] <= card["steps"]
    for part in ("holdout", "test"):
        assert card["measured"][part]["predictions_that_differ_from_the_pruned_networks"] == 0
    assert card["equality"]["largest_error"] < 1e-4 < card["equality"]["signal"]
    assert {path.name for path in out.iterdir()} == {"weights.safetensors", "model.pt2", "plan.json", "card.json"}
    stored = json.loads((out / "card.json").read_text())
    assert card == stored | {"folder": str(out)}
    plan, tensors = load_plan(out), load_tensors(out / "weights.safetensors")
    assert plan.macs == card["costs"]["macs"]
    assert load_compact(out)(torch.zeros(3, 3, card["resolution"], card["resolution"])).shape == (3, 10)
    for name, axes in plan.tensors.items():
        for axis, kept in axes.items():
            assert tensors[name].shape[axis] == len(kept)


@pytest.mark.slow
def test_a_torchvision_classifier_with_given_weights(tmp_path: Path) -> None:
    from torchvision.models import squeezenet1_1

    torch.manual_seed(3)
    net = squeezenet1_1(num_classes=10)
    save_tensors(tmp_path / "weights.safetensors", net.state_dict())
    arguments = ["--weights", tmp_path / "weights.safetensors", "--size", "32", "--method", "hesso", *QUICK]
    card = prune("squeezenet1_1", "--out", tmp_path / "a", "--target", "params=0.8", *arguments)
    again = prune("squeezenet1_1", "--out", tmp_path / "b", "--target", "params=0.8", *arguments)
    assert card["costs"]["params"] <= 0.8 * sum(parameter.numel() for parameter in net.parameters())
    assert card["sha256"]["weights.safetensors"] == again["sha256"]["weights.safetensors"]
    assert card["measured"]["test"]["predictions_that_differ_from_the_pruned_networks"] == 0


def test_bad_input_is_refused_before_anything_is_written(subnet: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for arguments, kind, message in (
        (("resnet19",), ConfigError, "'resnet19' is neither a folder of a subnet nor a classifier of torchvision"),
        ((subnet, "--target", "macs=0"), ConfigError, "max is 0.0; allowed: a finite number above 0"),
        ((subnet, "--target", "macs=0.001"), InfeasibleBudgetError, "macs<=0.1% is out of reach"),
        ((subnet, "--optimizer", "lion"), ConfigError, "unknown optimizer 'lion'; allowed: sgd, adam, adamw"),
        ((subnet, "--size", "64"), ConfigError, "--size is 64, the subnet in"),
        ((subnet, "--weights", "x.safetensors"), ConfigError, "has its own weights; leave --weights out"),
        ((subnet, "--resume"), ConfigError, "to go on with; leave out --resume"),
        ((subnet, "--keep", "nothing"), ConfigError, "keep: no module or parameter 'nothing'"),
        ((subnet, "--device", "tpu"), ConfigError, "--device is 'tpu'"),
        (("squeezenet1_1", "--weights", "absent.safetensors"), CheckpointError, "does not exist"),
    ):
        error = error_of(*arguments, "--out", out)
        assert isinstance(error, kind), error
        assert message in str(error)
    assert not out.exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    assert "is not an empty folder; choose another with --out" in str(error_of(subnet, "--out", tmp_path / "full"))
