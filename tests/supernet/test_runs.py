from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from latency_tables import macs, params
from latency_tables.counter import counted_macs
from supernet.calibration import calibrate
from supernet.errors import CheckpointError
from supernet.evaluation import calibration_batches, measure_subnet
from supernet.runs import RunFolder, load_supernet
from supernet.subnet_file import load_centre_share, load_normalisation, load_subnet, save_subnet


@pytest.fixture
def run_copy(tiny_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_run, tmp_path / "run"))


@pytest.fixture
def subnet_folder(tiny_run: Path, tmp_path: Path) -> Path:
    run = RunFolder(tiny_run)
    measured = measure_subnet(run.load_supernet(), run.space.smallest(), run.images())
    card = {"correct": measured.correct, "total": measured.total}
    save_subnet(
        tmp_path / "subnet", measured.subnet, card, normalisation=run.normalisation, class_names=run.class_names
    )
    return tmp_path / "subnet"


def test_the_supernet_loads_in_evaluation_mode(tiny_run: Path) -> None:
    net = load_supernet(tiny_run)
    assert not net.training
    assert net.space == RunFolder(tiny_run).space


def _flip_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-50])


def _open_all(path: Path) -> None:
    run = RunFolder(path)
    run.load_supernet()
    run.images()


@pytest.mark.parametrize(
    ("file", "damage", "text"),
    [
        ("supernet.safetensors", _flip_byte, "was altered"),
        ("supernet.safetensors", _truncate, "truncated or not a safetensors file"),
        ("supernet.safetensors", Path.unlink, "does not exist"),
        ("images.safetensors", _flip_byte, "was altered"),
        ("images.safetensors", _truncate, "truncated or not a safetensors file"),
        ("manifest.json", _truncate, "is not readable JSON"),
        ("manifest.json", Path.unlink, "is not a training run"),
    ],
)
def test_altered_truncated_and_absent_files_are_named(
    run_copy: Path, file: str, damage: Callable[[Path], None], text: str
) -> None:
    damage(run_copy / file)
    with pytest.raises(CheckpointError, match=text) as caught:
        _open_all(run_copy)
    assert "\n" not in str(caught.value)


def test_weights_of_another_space_size_are_refused(run_copy: Path) -> None:
    manifest = json.loads((run_copy / "manifest.json").read_text())
    manifest["num_classes"] = 12
    (run_copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match=r"classifier\.linear\.weight is float32 \[10, 256\], expected"):
        load_supernet(run_copy)


@pytest.mark.parametrize(
    ("change", "text"),
    [({"format": 2}, "has format 2; this version reads 1"), ({"space": "x"}, "unknown search space 'x'")],
)
def test_a_manifest_of_another_kind_is_refused(run_copy: Path, change: dict[str, object], text: str) -> None:
    manifest = json.loads((run_copy / "manifest.json").read_text())
    (run_copy / "manifest.json").write_text(json.dumps(manifest | change))
    with pytest.raises(CheckpointError, match=text):
        RunFolder(run_copy)


def test_an_unfinished_run_says_how_to_finish_it(run_copy: Path) -> None:
    manifest = json.loads((run_copy / "manifest.json").read_text())
    (run_copy / "manifest.json").write_text(json.dumps(manifest | {"status": "training"}))
    with pytest.raises(CheckpointError, match="has not ended; continue it with: onceforall train --resume"):
        load_supernet(run_copy)


def test_measuring_leaves_the_supernet_alone_and_repeats_exactly(tiny_run: Path) -> None:
    run = RunFolder(tiny_run)
    net, pack = run.load_supernet(), run.images()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    first, second = (measure_subnet(net, run.space.smallest(), pack) for _ in range(2))
    assert (first.correct, first.correct_before) == (second.correct, second.correct_before)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    state = second.subnet.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in first.subnet.state_dict().items())


def test_a_stored_subnet_reproduces_its_accuracy_in_a_fresh_process(subnet_folder: Path, tiny_run: Path) -> None:
    code = (
        "import sys, torch; from pathlib import Path; torch.set_num_threads(1)\n"
        "from supernet.subnet_file import load_normalisation, load_subnet\n"
        "from supernet.runs import RunFolder; from supernet.evaluation import count_correct\n"
        "folder, pack = Path(sys.argv[1]), RunFolder(sys.argv[2]).images(); subnet = load_subnet(folder)\n"
        "print(count_correct(subnet, pack.holdout_images, pack.holdout_labels, subnet.config.resolution,"
        " load_normalisation(folder)))\n"
    )
    command = [sys.executable, "-c", code, str(subnet_folder), str(tiny_run)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert int(done.stdout) == json.loads((subnet_folder / "card.json").read_text())["correct"]


def test_a_stored_subnet_has_the_stated_macs_and_parameters(subnet_folder: Path) -> None:
    subnet = load_subnet(subnet_folder)
    assert counted_macs(subnet, subnet.config.resolution) == macs(subnet.specs)
    assert sum(parameter.numel() for parameter in subnet.parameters()) == params(subnet.specs)


def test_calibration_matters_and_is_stored(subnet_folder: Path, tiny_run: Path) -> None:
    run = RunFolder(tiny_run)
    pack, stored = run.images(), load_subnet(subnet_folder)
    raw = run.load_supernet().extract(stored.config)
    assert not torch.equal(stored.stem.bn.running_mean, raw.stem.bn.running_mean)  # type: ignore[union-attr, arg-type]
    calibrate(raw, calibration_batches(pack, raw.config.resolution, torch.device("cpu")))
    assert torch.equal(stored.stem.bn.running_mean, raw.stem.bn.running_mean)  # type: ignore[union-attr, arg-type]


@pytest.mark.parametrize(
    ("file", "change", "text"),
    [
        ("config.json", {"format": 9}, "is not a subnet description of format 1"),
        ("config.json", {"config": {"space": "x", "resolution": 1, "depths": []}}, "does not describe a subnet"),
        ("config.json", {"num_classes": "ten"}, "does not describe a subnet"),
        ("config.json", {"num_classes": 3}, "does not fit the network"),
        ("config.json", {"mean": None}, "lacks the normalisation"),
        ("config.json", {"centre_share": 0}, "centre_share is 0; expected a number above 0, at most 1; extract the"),
        ("config.json", {"centre_share": "all"}, "centre_share is 'all'; expected"),
    ],
)
def test_altered_subnet_files_are_refused(subnet_folder: Path, file: str, change: dict[str, object], text: str) -> None:
    path = subnet_folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    load = {"mean": load_normalisation, "centre_share": load_centre_share}.get(next(iter(change)), load_subnet)
    with pytest.raises(CheckpointError, match=text):
        load(subnet_folder)


def test_folders_from_before_the_centre_share_was_written_down_are_read(subnet_folder: Path, run_copy: Path) -> None:
    description = json.loads((subnet_folder / "config.json").read_text())
    assert description.pop("centre_share") == 1.0
    (subnet_folder / "config.json").write_text(json.dumps(description))
    assert load_centre_share(subnet_folder) == 1.0
    manifest = json.loads((run_copy / "manifest.json").read_text())
    assert manifest["data"].pop("centre_share") == 1.0
    for stream, share in ((False, 1.0), (True, 0.875)):
        manifest["data"]["source"]["stream"] = stream
        (run_copy / "manifest.json").write_text(json.dumps(manifest))
        assert RunFolder(run_copy).centre_share == share


def test_altered_subnet_weights_are_refused(subnet_folder: Path) -> None:
    _flip_byte(subnet_folder / "subnet.safetensors")
    with pytest.raises(CheckpointError, match=r"is not the file that config\.json beside it was written for"):
        load_subnet(subnet_folder)


def test_truncated_subnet_weights_are_refused(subnet_folder: Path) -> None:
    _truncate(subnet_folder / "subnet.safetensors")
    with pytest.raises(CheckpointError, match="truncated or not a safetensors file"):
        load_subnet(subnet_folder)
