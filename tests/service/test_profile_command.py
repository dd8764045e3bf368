"""`onceforall profile --correct`: what it measures, writes, prints and refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from latency_tables import Corrected, LatencyTable, MeasuredSubnet, correct, read_measured
from service.cli import app
from supernet.errors import ConfigError
from supernet.spaces import SearchSpace, get_space


def profile(out: Path, *options: object, error: str = "") -> str:
    quick = ("--resolutions", "16,24", "--repeats", 1, "--warmup", 0, "--out", out)
    done = CliRunner().invoke(app, list(map(str, ("profile", "mobilenet_v3_tiny", *quick, *options))))
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    assert error in done.stderr
    return done.stdout


def half_as_fast(table: LatencyTable, space: SearchSpace, measured: list[MeasuredSubnet]) -> Corrected:
    """As if this machine had taken twice as long for whole subnets as for their layers."""
    return correct(table, space, [MeasuredSubnet(m.config, 2 * table.estimate_ms(space, m.config)) for m in measured])


def test_the_table_before_and_the_measured_subnets_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("latency_tables.correct", half_as_fast)
    out, space, threads = tmp_path / "here.csv", get_space("mobilenet_v3_tiny"), torch.get_num_threads()
    report = json.loads(profile(out, "--correct", 8, "--batch", 2, "--json"))
    table, before = LatencyTable.load(out), LatencyTable.load(tmp_path / "here.uncorrected.csv")
    assert {file.name for file in tmp_path.iterdir()} == {out.name, "here.uncorrected.csv", "here.measured.json"}
    assert torch.get_num_threads() == threads
    correction = table.provenance.correction
    assert correction is not None
    assert (correction.subnets, correction.uncorrected) == (8, before.digest)
    assert correction.scale == pytest.approx(2, rel=1e-3)
    assert (report["corrected"], report["subnets"], report["digest"]) == (True, 8, table.digest)
    assert report["correction"]["scale"] == correction.scale
    largest = replace(space.largest(), resolution=24)
    assert report["estimated_ms"]["largest"] == pytest.approx(2 * before.estimate_ms(space, largest), rel=1e-3)
    measured = read_measured(tmp_path / "here.measured.json")
    assert len({subnet.config for subnet in measured}) == 8
    assert {subnet.config.resolution for subnet in measured} <= {16, 24}
    assert all(subnet.latency_ms > 0 and subnet.spread_ms is not None for subnet in measured)


def test_people_read_the_error_before_and_after(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("latency_tables.correct", half_as_fast)
    profile(tmp_path / "b.json", error="18 subnets x 1 rounds x 3 passes: 54 passes in all\nabout ")
    text = profile(tmp_path / "a.json", "--correct", 8, error="these differ much: other programs were busy")
    assert "rows: times 2, " in text
    assert "median error of 8 whole subnets: 50.00 %\ncorrected, each left out of its fit: 0.00 %" in text


def test_a_table_that_is_right_stays_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def right(table: LatencyTable, space: SearchSpace, measured: list[MeasuredSubnet]) -> Corrected:
        return correct(table, space, [MeasuredSubnet(m.config, table.estimate_ms(space, m.config)) for m in measured])

    monkeypatch.setattr("latency_tables.correct", right)
    report = json.loads(profile(tmp_path / "a.json", "--correct", 8, "--json"))
    assert (report["corrected"], report["correction"], report["error_before"]) == (False, None, 0)
    assert {file.name for file in tmp_path.iterdir()} == {"a.json", "a.measured.json"}
    assert LatencyTable.load(tmp_path / "a.json").digest == report["digest"]


def test_onnxruntime_measures_whole_subnets_too(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    profile(tmp_path / "a.json", "--runtime", "onnxruntime", "--correct", 6, "--resolutions", "16")
    assert all(subnet.latency_ms > 0 for subnet in read_measured(tmp_path / "a.measured.json"))


def test_wrong_numbers_of_subnets_are_refused_before_anything_is_measured(tmp_path: Path) -> None:
    for count in (-1, 5, 501):
        with pytest.raises(ConfigError, match=f"--correct is {count}; allowed: 6 to 500 subnets, or 0 for none"):
            profile(tmp_path / "a.json", "--correct", count)
    with pytest.raises(ConfigError, match="--correct measures here, --bundle elsewhere"):
        profile(tmp_path / "a.json", "--correct", 6, "--bundle", tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("bundle", [False, True])
def test_what_cannot_be_measured_is_refused_before_a_folder_is_made(tmp_path: Path, bundle: bool) -> None:
    options = ("--bundle", tmp_path / "bundle") if bundle else ()
    with pytest.raises(ConfigError, match=r"device name 'Bad/Name'; .*threads is -5; .*repeats is 0; .*warmup is -1"):
        profile(
            *(tmp_path / "new" / "a.json", "--device", "Bad/Name", "--threads", -5, "--repeats", 0, "--warmup", -1),
            *options,
        )
    with pytest.raises(ConfigError, match="has no resolution 17"):
        profile(tmp_path / "new" / "a.json", "--resolutions", 17, *options)
    assert list(tmp_path.iterdir()) == []


def test_a_device_that_is_a_path_makes_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["profile", "mobilenet_v3_tiny", "--device", "newdir/x"])
    assert "device name 'newdir/x'; allowed: " in str(done.exception)
    assert list(tmp_path.iterdir()) == []
