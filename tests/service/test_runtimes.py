"""The commands for other runtimes than torch, as a user meets them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from latency_tables import LatencyTable
from latency_tables.covering import layers_within
from supernet.export import relative_error
from supernet.images import Normalisation
from supernet.network import Subnet
from supernet.spaces import SearchSpace
from supernet.subnet_file import load_class_names, save_subnet
from tests.lively import lively
from tests.service.command_line import onceforall, refusal

onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra onnx")

NORMALISATION = Normalisation((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


@pytest.fixture(scope="module")
def folder(tiny: SearchSpace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A subnet as `onceforall extract` writes it."""
    path = tmp_path_factory.mktemp("subnets") / "middle"
    subnet = Subnet(tiny, tiny.sample(np.random.default_rng(0)))
    lively(subnet)
    names = [str(number) for number in range(10)]
    save_subnet(path, subnet, {"format": 1}, normalisation=NORMALISATION, class_names=names)
    return path


def test_a_subnet_is_exported_and_runs_elsewhere(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "digits.onnx"
    done = onceforall("export", folder, "--dynamic-batch", "--out", out, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["max_relative_error"] < 1e-5
    assert report["compared_batches"] == 7
    assert json.loads(report["metadata"]["class_names"]) == load_class_names(folder)
    assert report["metadata"]["space"] == "mobilenet_v3_tiny"
    session = onnxruntime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    size = int(report["metadata"]["resolution"])
    images = torch.randn(3, 3, size, size)
    from supernet.subnet_file import load_subnet

    with torch.no_grad():
        expected = load_subnet(folder)(images)
    assert relative_error(torch.from_numpy(session.run(None, {"images": images.numpy()})[0]), expected) < 1e-5


def test_an_export_goes_beside_the_subnet_and_tells_its_error(folder: Path) -> None:
    done = onceforall("export", folder)
    assert done.returncode == 0, done.stderr
    assert "of the largest output, 5 batches; " in done.stdout
    assert (folder / "subnet.onnx").is_file()
    (folder / "subnet.onnx").unlink()


@pytest.mark.slow
def test_without_the_extra_the_pip_command_is_told(folder: Path, tmp_path: Path) -> None:
    for command in (
        ("export", folder),
        ("profile", "mobilenet_v3_tiny", "--runtime", "onnxruntime", "--out", tmp_path / "a.json"),
        ("profile", "mobilenet_v3_tiny", "--bundle", tmp_path / "bundle"),
        ("evaluate", folder, "--runtime", "onnxruntime"),
    ):
        text = refusal(*command, without=("onnxruntime",))
        assert text == "error: package 'onnxruntime' is missing; install it with: pip install 'onceforall[onnx]'"
    assert [path.name for path in tmp_path.iterdir()] == []


@pytest.mark.slow
def test_a_subnet_is_evaluated_in_onnxruntime(folder: Path) -> None:
    reports = {}
    for runtime in ("torch", "onnxruntime"):
        done = onceforall("evaluate", folder, "--runtime", runtime, "--json")
        assert done.returncode == 0, done.stderr
        reports[runtime] = json.loads(done.stdout)
    ours, theirs = reports["onnxruntime"], reports["torch"]
    assert (ours["runtime"], theirs["runtime"]) == ("onnxruntime", "torch-eager")
    assert abs(ours["parts"]["test"]["correct"] - theirs["parts"]["test"]["correct"]) <= 1  # a tie by rounding
    assert ours["macs"] == theirs["macs"]
    assert 0 < ours["latency_ms"] < 1000
    assert (
        "--runtime onnxruntime classifies on the CPU"
        in refusal("evaluate", folder, "--runtime", "onnxruntime", "--device", "cuda")
        or not torch.cuda.is_available()
    )


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["torch", "onnxruntime"])
def test_some_resolutions_are_profiled(tiny: SearchSpace, tmp_path: Path, runtime: str) -> None:
    out = tmp_path / "table.json"
    options = ("--runtime", runtime, "--resolutions", "16,24", "--repeats", 1, "--warmup", 1, "--threads", 2)
    done = onceforall("profile", tiny.name, *options, "--batch", 2, "--out", out, "--json")
    assert done.returncode == 0, done.stderr
    report, table = json.loads(done.stdout), LatencyTable.load(out)
    assert report["resolutions"] == [16, 24]
    assert report["runtime"] == table.provenance.runtime == {"torch": "torch-eager"}.get(runtime, runtime)
    assert (table.provenance.threads, table.provenance.batch) == (2, 2)
    assert set(table.rows) == {spec.key for spec in layers_within(tiny, (16, 24))}
    assert set(report["measured_ms"]) == set(report["estimated_ms"]) == {"smallest", "largest"}


@pytest.mark.slow
def test_a_bundle_is_written_for_another_device(tiny: SearchSpace, tmp_path: Path) -> None:
    done = onceforall("profile", tiny.name, "--bundle", tmp_path / "bundle", "--resolutions", "16")
    assert done.returncode == 0, done.stderr
    assert f"with all {len(layers_within(tiny, (16,)))} layers of mobilenet_v3_tiny" in done.stdout
    assert "python bundle/measure.py --device NAME --threads 1" in done.stdout
    assert (tmp_path / "bundle" / "measure.py").is_file()
    assert "is not an empty folder" in refusal("profile", tiny.name, "--bundle", tmp_path / "bundle")


@pytest.mark.slow
def test_wrong_options_are_refused_by_name(folder: Path, tmp_path: Path) -> None:
    assert "unknown format 'tflite'; allowed: onnx, torch-export" in refusal("export", folder, "--format", "tflite")
    assert "does not exist" in refusal("export", tmp_path / "absent")
    for command in (("profile", "mobilenet_v3_tiny"), ("evaluate", folder)):
        assert "unknown runtime 'tvm'; allowed: torch, onnxruntime" in refusal(*command, "--runtime", "tvm")
    profile = ("profile", "mobilenet_v3_tiny", "--out", tmp_path / "a.json", "--resolutions")
    assert "--resolutions is 'large'; write it as 160,192" in refusal(*profile, "large")
    assert "mobilenet_v3_tiny has no resolution 17; allowed: 16, 20, 24, 28, 32" in refusal(*profile, "17,32")
