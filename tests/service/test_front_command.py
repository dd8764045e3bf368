"""`onceforall front`, and budgets answered from a front, as a user meets them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from latency_tables import LatencyTable, Provenance, Row, macs, params
from search import AccuracyPredictor, fit_predictor
from search.checkpoint import Checkpoint, State
from service.cli import app
from supernet.errors import CheckpointError, ConfigError, StorageError
from supernet.spaces import SearchSpace

FEW = ("--population", "1000", "--generations", "60")


def _run(*arguments: object) -> str:
    done = CliRunner().invoke(app, list(map(str, arguments)))
    if done.exception is not None:
        raise done.exception
    return done.stdout


@pytest.fixture(scope="module")
def predictor(tiny: SearchSpace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """More work, more accuracy."""
    import numpy as np

    configs = tiny.decode(tiny.sample_genotypes(np.random.default_rng(0), 60))
    path = tmp_path_factory.mktemp("predictor")
    accuracies = [0.5 + 0.1 * np.log10(macs(tiny.layers(config)) / 1e6) for config in configs]
    fit_predictor(tiny, configs, accuracies, kind="ridge").save(path)
    return path


@pytest.fixture(scope="module")
def table(tiny: SearchSpace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = {spec.key: Row(0.001 + macs([spec]) * 1e-7 + params([spec]) * 3e-6, 1e-4, 9) for spec in tiny.all_layers()}
    provenance = Provenance({"cpu": "none"}, "formula", {}, "fp32", "channels_last", 1, 1, "2025-01-01", 9, 1)
    path = tmp_path_factory.mktemp("tables") / "phone.json"
    LatencyTable("phone", tiny.name, tiny.num_classes, rows, provenance).save(path)
    return path


@pytest.fixture(scope="module")
def front(tiny: SearchSpace, predictor: Path, table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("front") / "front.json"
    found = json.loads(
        _run(
            *("front", tiny.name, "--predictor", predictor, "--table", table, "--metric", "latency_ms@phone"),
            *("--out", path, "--picture", path.with_suffix(".svg"), "--json", *FEW),
        )
    )
    assert found["subnets"] > 10
    assert found["metrics"] == ["latency_ms@phone"]
    assert len(found["details"]["gaps"]) == 3
    for gap in found["details"]["gaps"]:
        assert gap["gap"] == pytest.approx(gap["search"] - gap["front"])
        assert gap["gap"] < 0.005
    assert "<svg" in path.with_suffix(".svg").read_text()
    return path


def test_a_budget_is_answered_from_the_front_as_well_as_by_a_search(
    tiny: SearchSpace, predictor: Path, table: Path, front: Path, tmp_path: Path
) -> None:
    budget = ("--budget", "latency_ms@phone<=2", "--json")
    quick = json.loads(_run("search", tiny.name, "--front", front, *budget))
    slow = json.loads(_run("search", tiny.name, "--predictor", predictor, "--table", table, *budget))
    for found in (quick, slow):
        assert found["costs"]["latency_ms@phone"] <= 2
    assert quick["predicted_accuracy"] == pytest.approx(slow["predicted_accuracy"], abs=0.002)


def test_shares_of_the_largest_subnet_are_understood_by_both(
    tiny: SearchSpace, predictor: Path, table: Path, front: Path
) -> None:
    most = 0.5 * LatencyTable.load(table).estimate_ms(tiny, tiny.largest())
    budget = ("--budget", "latency_ms@phone<=50%", "--json")
    quick = json.loads(_run("search", tiny.name, "--front", front, *budget))
    slow = json.loads(_run("search", tiny.name, "--predictor", predictor, "--table", table, *budget))
    for found in (quick, slow):
        assert 0.8 * most < found["costs"]["latency_ms@phone"] <= most


def test_a_percentile_is_kept_and_reported(tiny: SearchSpace, predictor: Path, table: Path) -> None:
    budget = ("--budget", "latency_ms@phone<=2 p95", "--json")
    found = json.loads(_run("search", tiny.name, "--predictor", predictor, "--table", table, *budget))
    assert found["costs"]["latency_ms@phone"] < found["costs"]["latency_ms@phone:p95"] <= 2


def test_peak_memory_is_a_budget(tiny: SearchSpace, predictor: Path) -> None:
    from latency_tables import peak_memory_bytes
    from supernet import SubnetConfig

    budget = ("--budget", "peak_memory_bytes<=60kB", "--json")
    found = json.loads(_run("search", tiny.name, "--predictor", predictor, *budget))
    peak = peak_memory_bytes(tiny.layers(SubnetConfig.from_dict(found["config"])))
    assert found["costs"]["peak_memory_bytes"] == peak <= 60_000


def test_people_see_a_few_points_and_the_next_step(tiny: SearchSpace, predictor: Path, tmp_path: Path) -> None:
    text = _run("front", tiny.name, "--predictor", predictor, "--metric", "macs", "--out", tmp_path / "f.json", *FEW)
    assert "subnets on the front" in text
    assert "next: onceforall search mobilenet_v3_tiny --front" in text


def test_nsga2_finds_a_front_of_two_metrics(tiny: SearchSpace, predictor: Path, table: Path, tmp_path: Path) -> None:
    common = ("front", tiny.name, "--predictor", predictor, "--table", table, "--out", tmp_path / "f.json", "--json")
    few = ("--population", "300", "--generations", "40", "--check", "1")
    metrics = ("--metric", "latency_ms@phone", "--metric", "params")
    by_method = [json.loads(_run(*common, *metrics, *few, *more)) for more in ((), ("--method", "nsga2"))]
    assert [found["metrics"] for found in by_method] == [["latency_ms@phone", "params"]] * 2
    assert by_method[0]["details"]["scored"] != by_method[1]["details"]["scored"]
    assert by_method[1]["details"]["gaps"][0]["gap"] < 0.005


def test_interrupted_commands_go_on_from_their_checkpoints(
    tiny: SearchSpace, predictor: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.checkpoint.SECONDS", 0.0)
    few = ("--population", "50", "--generations", "20", "--json")
    front = ("front", tiny.name, "--predictor", predictor, "--metric", "macs", "--out", tmp_path / "f.json", *few)
    search = ("search", tiny.name, "--predictor", predictor, "--budget", "macs<=2M", *few)
    for command in ((*front, "--check", "0"), (*front, "--check", "0", "--method", "nsga2"), search):
        expected = _run(*command)
        kept = ("--checkpoint", tmp_path / "kept")
        with monkeypatch.context() as patched:
            patched.setattr(Checkpoint, "save", _save_and_fail)
            with pytest.raises(RuntimeError, match="cut off"):
                _run(*command, *kept)
        assert (tmp_path / "kept").exists()
        with pytest.raises(CheckpointError, match="seed is 0 there and 1 here"):
            _run(*command, *kept, "--seed", "1")
        assert _run(*command, *kept) == expected
        assert not (tmp_path / "kept").exists()


def _save_and_fail(self: Checkpoint, state: State, save: Callable[..., None] = Checkpoint.save) -> None:
    save(self, state)
    if state.generation == 7:
        raise RuntimeError("cut off")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("front", "nope", "--metric", "macs"), "'nope' is neither a run's folder nor a space; spaces: "),
        (("front", "mobilenet_v3_tiny", "--metric", "macs"), "no accuracy predictor of its own; name one with"),
        (("search", "mobilenet_v3_tiny", "--budget", "macs<=1M"), "no accuracy predictor of its own"),
    ],
)
def test_what_is_missing_is_named(arguments: tuple[str, ...], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        _run(*arguments, *(("--out", tmp_path / "f.json") if arguments[0] == "front" else ()))


def test_an_unknown_metric_names_the_known_ones(tiny: SearchSpace, predictor: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown metric 'latency_ms@phone'; allowed: macs, params"):
        _run(
            *("front", tiny.name, "--predictor", predictor, "--metric", "latency_ms@phone"),
            *("--out", tmp_path / "front.json"),
        )
    assert not (tmp_path / "front.json").exists()


@pytest.mark.parametrize(("picture", "error"), [("f.abc", ConfigError), ("/proc/none/f.svg", StorageError)])
def test_a_picture_that_cannot_be_drawn_is_refused_before_the_search(
    tiny: SearchSpace, predictor: Path, tmp_path: Path, picture: str, error: type[Exception]
) -> None:
    with pytest.raises(error):
        _run(
            *("front", tiny.name, "--predictor", predictor, "--metric", "macs"),
            *("--out", tmp_path / "f.json", "--picture", tmp_path / picture),
        )
    assert list(tmp_path.iterdir()) == []


def test_two_tables_of_one_device_are_refused(tiny: SearchSpace, predictor: Path, table: Path) -> None:
    tables = ("--table", table, "--table", table)
    with pytest.raises(ConfigError, match="is a second table of device 'phone'; give one table a device"):
        _run("search", tiny.name, "--predictor", predictor, *tables, "--budget", "latency_ms@phone<=2")


def test_a_front_of_another_space_or_another_file_is_refused(front: Path, predictor: Path) -> None:
    with pytest.raises(ConfigError, match="is of space 'mobilenet_v3_tiny' with 10 classes, not of 'resnet50' with"):
        _run("search", "resnet50", "--front", front, "--budget", "macs<=1M")
    with pytest.raises(CheckpointError, match=r"expected 'onceforall\.front/1'"):
        _run("search", "resnet50", "--front", predictor / "predictor.json", "--budget", "macs<=1M")


def test_the_saved_front_names_its_predictors_space(front: Path, predictor: Path) -> None:
    assert json.loads(front.read_text())["space"] == AccuracyPredictor.load(predictor).space.name
