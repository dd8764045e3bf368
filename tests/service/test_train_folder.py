"""`onceforall train --data folder` as a user meets it, with damaged files among the images."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from service.cli import app
from supernet.errors import CheckpointError, ConfigError, DataError, OnceForAllError
from supernet.runs import RunFolder
from supernet.training.data import FolderOptions, StreamedFolder, load_data, recorded_source
from supernet.training.schedule import Stage
from supernet.training.settings import TrainingSettings
from supernet.training.trainer import start_run
from tests.service.command_line import onceforall


def _run(*arguments: object) -> str:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert done.exit_code == 0
    return done.stdout


def _refusal(kind: type[OnceForAllError], *arguments: object) -> str:
    with pytest.raises(kind) as caught:
        _run(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two classes of 20 images; one of the files is no image, another is cut off."""
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for number in range(20):
            pixels = rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pictures" / name / f"{number:02}.jpg")
    (tmp_path / "pictures" / "cat" / "03.jpg").write_text("no image")
    cut = tmp_path / "pictures" / "dog" / "07.jpg"
    cut.write_bytes(cut.read_bytes()[:300])
    return tmp_path / "pictures"


@pytest.mark.slow
def test_damaged_images_stop_the_training_or_are_left_out_and_named(pictures: Path, tmp_path: Path) -> None:
    options = ("--data", "folder", "--data-root", pictures, "--run", tmp_path / "run", "--batch-size", 8)
    options += ("--recipe", "progressive", "--epochs", "largest=1", "--calibration-images", 8, "--workers", 0)
    refused = onceforall("train", *options)
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: ")
    assert ".jpg' is not a readable image" in refused.stderr
    assert "add --skip-corrupt, which leaves such files out" in refused.stderr
    assert not (tmp_path / "run" / "manifest.json").exists()

    trained = onceforall("train", *options, "--skip-corrupt", "--json")
    assert trained.returncode == 0, trained.stderr
    assert "left out 2 unreadable file(s): 'cat/03.jpg', 'dog/07.jpg'; the run's manifest lists all" in trained.stderr
    recorded = json.loads((tmp_path / "run" / "manifest.json").read_text())["data"]
    assert recorded["source"]["skipped"] == ["cat/03.jpg", "dog/07.jpg"]
    assert recorded["train"] + recorded["holdout"] + recorded["test"] == 38

    resumed = onceforall("train", "--resume", tmp_path / "run", "--workers", 0, "--json")
    assert json.loads(resumed.stdout)["weights_sha256"] == json.loads(trained.stdout)["weights_sha256"]


def test_options_for_folders_are_refused_with_other_data(tmp_path: Path) -> None:
    refused = onceforall("train", "--data", "digits", "--skip-corrupt", "--run", tmp_path / "run")
    assert (refused.returncode, len(refused.stderr.splitlines())) == (2, 1)
    assert "are for --data folder, not 'digits'; leave them out" in refused.stderr


@pytest.fixture
def begun(tmp_path: Path) -> tuple[Path, StreamedFolder]:
    """A streamed run of one short stage that has not taken a step, and its images: three classes, all of them sound."""
    rng, root, run = np.random.default_rng(1), tmp_path / "images", tmp_path / "begun"
    for part, count in (("train", 12), ("val", 3)):
        for name in ("cat", "dog", "fox"):
            (root / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)
                Image.fromarray(pixels).resize((60, 40)).save(root / part / name / f"{number:02}.png")
    data = load_data("folder", root=root, size=32, folder=FolderOptions(stream=True, workers=0))
    assert isinstance(data, StreamedFolder)
    stage = Stage("largest", 1, 0.0, 0.01, 1, {})
    settings = TrainingSettings("mobilenet_v3_tiny", (stage,), batch_size=8, calibration_images=8, threads=1)
    start_run(run, settings, data, recorded_source(data, root, 32))
    return run, data


def _spoil(path: Path) -> None:
    """Unreadable, but as long as before."""
    path.write_bytes(bytes(path.stat().st_size))


def test_a_streamed_training_goes_on_past_files_that_became_unreadable(begun: tuple[Path, StreamedFolder]) -> None:
    run, data = begun
    resume = ("train", "--resume", run, "--workers", 0, "--json")
    spoilt = [data.train.name(number) for number in range(0, 30, 5)]
    for name in spoilt:
        _spoil(data.train.root / name)
    advice = _refusal(DataError, *resume)
    assert "is not a readable image" in advice
    assert "; leave it in its place (without it, the images would no longer be the run's), and go on with: " in advice
    assert "onceforall train --resume RUN --skip-corrupt, which takes another image of the class instead" in advice

    _run(*resume, "--skip-corrupt")
    finished = RunFolder(run)
    assert finished.complete
    assert finished.manifest["data"]["source"]["replaced"] == sorted(spoilt)
    assert finished.manifest["data"]["digest"] == data.digest
    assert "has ended, no image is left to replace; omit --skip-corrupt" in _refusal(
        ConfigError, *resume, "--skip-corrupt"
    )


def test_an_unreadable_file_that_was_removed_is_missed_before_all_files_are_checked(
    begun: tuple[Path, StreamedFolder],
) -> None:
    run, data = begun
    (data.train.root / data.train.name(3)).unlink()
    before = (run / "manifest.json").read_text()
    text = _refusal(CheckpointError, "train", "--resume", run, "--skip-corrupt", "--workers", 0)
    assert "(names or sizes of files differ; an unreadable file has to stay in its place); restore them" in text
    assert (run / "manifest.json").read_text() == before


def test_images_that_were_all_read_at_the_start_cannot_be_replaced(tmp_path: Path) -> None:
    stage = Stage("largest", 1, 0.0, 0.01, 1, {})
    settings = TrainingSettings("mobilenet_v3_tiny", (stage,), batch_size=8, calibration_images=8, threads=1)
    start_run(tmp_path / "run", settings, load_data("digits"), {"root": None, "size": 32})
    text = _refusal(ConfigError, "train", "--resume", tmp_path / "run", "--skip-corrupt")
    assert "is for streamed folders; the 'digits' images of " in text
    assert "were all read when it was started: restore those that have changed since" in text


def test_a_subnet_is_evaluated_on_images_read_as_its_training_read_them(
    begun: tuple[Path, StreamedFolder], tmp_path: Path
) -> None:
    """Streamed or not, and with damaged files in parts that are not asked for."""
    run, data = begun
    _run("train", "--resume", run, "--workers", 0, "--json")
    card = json.loads(_run("extract", run, "--subnet", "smallest", "--out", tmp_path / "subnet", "--json"))
    assert json.loads((tmp_path / "subnet" / "config.json").read_text())["centre_share"] == 0.875
    _spoil(data.train.root / data.train.name(0))
    _spoil(data.test.root / data.test.name(4))
    options = ("evaluate", tmp_path / "subnet", "--data", "folder", "--data-root", data.train.root, "--workers", 0)
    found = json.loads(_run(*options, "--part", "holdout", "--device", "cpu", "--json"))
    figures = found["parts"]["holdout"]
    assert (figures["correct"], figures["total"]) == (card["measured"]["correct"], card["measured"]["total"])

    text = _refusal(DataError, *options)
    assert "val/dog/01.png' is not a readable image" in text
    assert "; remove or replace it, or add --skip-corrupt, which leaves such files out" in text
    done = CliRunner().invoke(app, [str(word) for word in (*options, "--skip-corrupt", "--json")])
    found = json.loads(done.stdout)
    assert (found["parts"]["test"]["total"], found["skipped"]) == (8, ["val/dog/01.png"])
    assert done.stderr == "left out 1 unreadable file(s): 'val/dog/01.png'\n"


def test_the_centre_share_of_the_subnet_decides_about_the_pixels(
    begun: tuple[Path, StreamedFolder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, data = begun
    _run("train", "--resume", run, "--workers", 0, "--json")
    _run("extract", run, "--subnet", "smallest", "--out", tmp_path / "subnet", "--json")
    options = ("evaluate", tmp_path / "subnet", "--data", "folder", "--data-root", data.train.root, "--workers", 0)
    description = json.loads((tmp_path / "subnet" / "config.json").read_text())
    seen: list[torch.Tensor] = []

    def remember(subnet: object, images: torch.Tensor, *rest: object) -> int:
        seen.append(images)
        return 0

    monkeypatch.setattr("supernet.evaluation.count_correct", remember)
    for share in (0.875, 0.5, None):
        changed = {name: value for name, value in description.items() if name != "centre_share"}
        changed |= {"centre_share": share} if share else {}
        (tmp_path / "subnet" / "config.json").write_text(json.dumps(changed))
        _run(*options, "--json")
        [(expected, _)] = replace(data, centre_share=share or 1.0).test_batches(200)
        assert torch.equal(seen.pop(), expected)


def test_evaluate_names_the_devices_that_are_usable(tmp_path: Path) -> None:
    assert "--device is 'tpu'; usable here: cpu, " in _refusal(ConfigError, "evaluate", tmp_path, "--device", "tpu")
    if not torch.cuda.is_available():
        text = _refusal(ConfigError, "evaluate", tmp_path, "--device", "cuda")
        assert "--device is 'cuda'; usable here: cpu, auto" in text
