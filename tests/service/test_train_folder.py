"""`onceforall train --data folder` as a user meets it, with damaged files among the images."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from service.cli import app
from supernet.errors import CheckpointError, ConfigError, DataError, OnceForAllError
from supernet.runs import RunFolder
from supernet.training.data import FolderOptions, StreamedFolder, load_data, recorded_source
from supernet.training.schedule import Stage
from supernet.training.settings import TrainingSettings
from supernet.training.trainer import start_run


def _train(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "service.cli", "train", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "COLUMNS": "200"},
    )


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
    options += ("--epochs", "largest=1", "--calibration-images", 8, "--workers", 0)
    refused = _train(*options)
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: ")
    assert ".jpg' is not a readable image" in refused.stderr
    assert "add --skip-corrupt, which leaves such files out" in refused.stderr
    assert not (tmp_path / "run" / "manifest.json").exists()

    trained = _train(*options, "--skip-corrupt", "--json")
    assert trained.returncode == 0, trained.stderr
    assert "left out 2 unreadable file(s): 'cat/03.jpg', 'dog/07.jpg'; the run's manifest lists all" in trained.stderr
    recorded = json.loads((tmp_path / "run" / "manifest.json").read_text())["data"]
    assert recorded["source"]["skipped"] == ["cat/03.jpg", "dog/07.jpg"]
    assert recorded["train"] + recorded["holdout"] + recorded["test"] == 38

    resumed = _train("--resume", tmp_path / "run", "--workers", 0, "--json")
    assert json.loads(resumed.stdout)["weights_sha256"] == json.loads(trained.stdout)["weights_sha256"]


def test_options_for_folders_are_refused_with_other_data(tmp_path: Path) -> None:
    refused = _train("--data", "digits", "--skip-corrupt", "--run", tmp_path / "run")
    assert (refused.returncode, len(refused.stderr.splitlines())) == (2, 1)
    assert "are for --data folder, not 'digits'; leave them out" in refused.stderr
