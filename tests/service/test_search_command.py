"""`onceforall search` and `front` on a run: its classes, its weights, and what is shown of them."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from latency_tables import LatencyTable, Provenance, Row, macs
from search import AccuracyPredictor, NoSubnetError, fit_predictor
from service.cli import app
from supernet import SubnetConfig
from supernet.errors import CheckpointError, ConfigError, TableError
from supernet.files import write_json
from supernet.spaces import SearchSpace

FEW = ("--population", "50", "--generations", "20", "--json")


def _run(*arguments: object) -> Any:
    done = CliRunner().invoke(app, list(map(str, arguments)))
    if done.exception is not None:
        raise done.exception
    return done


def make_run(folder: Path, space: SearchSpace, *, fitted_to: str = "a" * 64) -> Path:
    """What the commands read of a run: manifest and predictor; more work, more accuracy."""
    weights = {"sha256": "a" * 64}
    manifest = {"format": 1, "space": space.name, "num_classes": space.num_classes, "status": "complete"}
    write_json(folder / "manifest.json", {**manifest, "weights": weights})
    configs = space.decode(space.sample_genotypes(np.random.default_rng(0), 60))
    accuracies = [0.5 + 0.1 * np.log10(macs(space.layers(config)) / 1e6) for config in configs]
    details = {"weights_sha256": fitted_to}
    fit_predictor(space, configs, accuracies, kind="ridge", details=details).save(folder / "predictor")
    return folder


def make_table(path: Path, space: SearchSpace, *, drop: str = "", device: str = "phone") -> Path:
    rows = {spec.key: Row(0.001 + macs([spec]) * 1e-7, 1e-4, 9) for spec in space.all_layers() if spec.key != drop}
    provenance = Provenance({"cpu": "none"}, "formula", {}, "fp32", "channels_last", 1, 1, "2025-01-01", 9, 1)
    LatencyTable(device, space.name, space.num_classes, rows, provenance).save(path)
    return path


@pytest.fixture(scope="module")
def wide(tiny: SearchSpace) -> SearchSpace:
    return tiny.with_num_classes(100)


@pytest.fixture(scope="module")
def run(wide: SearchSpace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("run"), wide)


def test_costs_and_tables_are_those_of_the_run_s_classes(wide: SearchSpace, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", wide)
    table = make_table(tmp_path / "phone.json", wide)
    for changes in ({}, {"num_classes": None}):  # as from before it was written down
        path = run / "predictor" / "predictor.json"
        write_json(path, json.loads(path.read_text()) | changes)
        found = json.loads(
            _run("search", run, "--budget", "macs<=1M, latency_ms@phone<=1", "--table", table, *FEW).stdout
        )
        assert found["costs"]["macs"] == macs(wide.layers(SubnetConfig.from_dict(found["config"]))) <= 1e6
    made = ("front", run, "--metric", "macs", "--out", tmp_path / "f.json", "--check", "1", *FEW)
    assert json.loads(_run(*made).stdout)["subnets"] > 1
    best = json.loads((tmp_path / "f.json").read_text())["subnets"][0]
    assert best["costs"]["macs"] == macs(wide.layers(SubnetConfig.from_dict(best["config"])))


def test_a_predictor_of_other_classes_is_refused(tiny: SearchSpace, run: Path, tmp_path: Path) -> None:
    make_run(tmp_path, tiny)
    text = "fitted for 'mobilenet_v3_tiny' with 10 classes, not for 'mobilenet_v3_tiny' with 100 classes; fit one on"
    with pytest.raises(ConfigError, match=text):
        _run("search", run, "--budget", "macs<=1M", "--predictor", tmp_path / "predictor", *FEW)


def test_a_predictor_of_other_weights_is_refused_unless_it_is_asked_for(wide: SearchSpace, tmp_path: Path) -> None:
    stale = make_run(tmp_path, wide, fitted_to="b" * 64)
    command = ("search", stale, "--budget", "macs<=1M", *FEW)
    with pytest.raises(
        CheckpointError, match=r"the weights bbbbbbbbbbbb\.\.\., the run has aaaaaaaaaaaa.*fit it again"
    ):
        _run(*command)
    assert json.loads(_run(*command, "--predictor", stale / "predictor").stdout)["costs"]["macs"] <= 1e6


def test_no_search_loads_torch(run: Path) -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from service.cli import app\n"
        f"done = CliRunner().invoke(app, ['search', {str(run)!r}, '--budget', 'macs<=1M', '--generations', '1'])\n"
        "print(done.exit_code, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "0 False"


def test_resolutions_that_are_left_out_are_told(wide: SearchSpace, run: Path, tmp_path: Path) -> None:
    at_32 = [spec.key for spec in wide.layers(wide.largest())]
    elsewhere = {spec.key for config in wide.decode(_at_largest(wide, below=32)) for spec in wide.layers(config)}
    gone = next(key for key in at_32 if key not in elsewhere)
    table = make_table(tmp_path / "phone.json", wide, drop=gone)
    told = f"not searched: 32 (1 row missing on 'phone': {gone})\n"
    searched = _run("search", run, "--budget", "macs<=60%", "--table", table, *FEW)
    assert told in searched.stderr
    found = json.loads(searched.stdout)
    assert found["resolutions"] == [16, 20, 24, 28]
    assert found["not_searched"] == {"32": f"1 row missing on 'phone': {gone}"}
    out = tmp_path / "f.json"
    made = _run("front", run, "--metric", "macs", "--table", table, "--out", out, "--check", "0", *FEW)
    assert told in made.stderr
    assert json.loads(made.stdout)["details"]["not_searched"] == found["not_searched"]
    looked_up = _run("search", run, "--front", out, "--budget", "macs<=60%", "--json")
    assert told in looked_up.stderr
    assert json.loads(looked_up.stdout)["resolutions"] == [16, 20, 24, 28]


def _at_largest(space: SearchSpace, *, below: int) -> np.ndarray:
    """Every gene at its greatest choice but the resolution, which takes each value below one."""
    rows = []
    for index, side in enumerate(space.dimensions[0].choices):
        if side < below:
            rows.append([index, *(len(dim.choices) - 1 for dim in space.dimensions[1:])])
    return np.array(rows, dtype=np.int8)


@pytest.fixture(scope="module")
def table(wide: SearchSpace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_table(tmp_path_factory.mktemp("tables") / "phone.json", wide)


@pytest.fixture(scope="module")
def front(run: Path, table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("front") / "front.json"
    _run("front", run, "--metric", "macs", "--table", table, "--out", out, "--check", "0", *FEW)
    return out


def test_a_front_answers_for_what_it_was_made_with(
    tiny: SearchSpace, wide: SearchSpace, run: Path, table: Path, front: Path, tmp_path: Path
) -> None:
    look_up = ("search", run, "--front", front, "--budget", "macs<=1M", "--json")
    found = json.loads(_run(*look_up).stdout)
    for same in (("--table", table), ("--predictor", run / "predictor"), ()):
        assert json.loads(_run(*look_up, *same).stdout) == found
    slow, other = (tmp_path / name for name in ("phone.json", "tv.json"))
    slow.write_text(table.read_text().replace('"repeats": 9', '"repeats": 8'))
    make_table(other, wide, device="tv")
    fitted = AccuracyPredictor.load(run / "predictor")
    replace(fitted, stacks=fitted.stacks * 2).save(tmp_path / "predictor")
    given = ("--table", slow, "--table", other, "--predictor", tmp_path / "predictor")
    text = r"made with another predictor than '.*' .* and another table of 'phone' and no table of 'tv'; give what"
    with pytest.raises(ConfigError, match=text):
        _run(*look_up, *given)
    with pytest.raises(TableError, match=r"nothere\.json"):
        _run(*look_up, "--table", tmp_path / "nothere.json")
    with pytest.raises(ConfigError, match=r"is of space 'mobilenet_v3_tiny' with 100 classes, not of .* with 10 class"):
        _run("search", tiny.name, "--front", front, "--budget", "macs<=1M")


def test_options_that_a_front_leaves_without_effect_are_refused(run: Path, front: Path, tmp_path: Path) -> None:
    given = ("--seed", "0", "--checkpoint", tmp_path / "c")
    with pytest.raises(ConfigError, match="--seed, --checkpoint would change nothing with --front; leave it out"):
        _run("search", run, "--front", front, "--budget", "macs<=1M", *given)


def test_the_nearest_subnet_is_shown_where_none_meets_the_budget(run: Path) -> None:
    command = ("search", run, "--budget", "macs<=0.5M")
    shown = CliRunner().invoke(app, list(map(str, (*command, "--json"))))
    found = json.loads(shown.stdout)
    assert isinstance(shown.exception, NoSubnetError)
    assert found["error"] == str(shown.exception)
    assert found["tightest"]["least"] == found["nearest"]["costs"]["macs"] > 5e5
    text = CliRunner().invoke(app, list(map(str, command))).stdout
    assert text.startswith("the nearest subnet, which does not meet the budget:\npredicted accuracy ")
    assert "scored" not in text
    assert SubnetConfig.from_dict(found["nearest"]["config"]).to_json() in text


def test_the_interval_of_the_prediction_is_shown_where_errors_are_known(run: Path, front: Path, tmp_path: Path) -> None:
    command = ("search", run, "--budget", "macs<=1M", "--population", "50", "--generations", "20")
    found = json.loads(_run(*command, "--json").stdout)
    fitted = AccuracyPredictor.load(run / "predictor")
    low, high = fitted.interval([SubnetConfig.from_dict(found["config"])])
    assert found["interval"] == {"coverage": 0.9, "low": float(low[0]), "high": float(high[0])}
    assert f"90 % interval {100 * low[0]:.2f} % to {100 * high[0]:.2f} %" in _run(*command).stdout
    looked_up = json.loads(_run("search", run, "--front", front, "--budget", "macs<=1M", "--json").stdout)
    assert looked_up["interval"]["low"] < looked_up["predicted_accuracy"] < looked_up["interval"]["high"]
    replace(fitted, residuals=None).save(tmp_path)
    assert json.loads(_run(*command, "--json", "--predictor", tmp_path).stdout)["interval"] is None
