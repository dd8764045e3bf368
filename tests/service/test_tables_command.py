"""`onceforall tables`: what a person reads at 80 columns, what a script gets, and the exit status."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from small_service import SPACE, make_table
from typer.testing import CliRunner

from latency_tables import LatencyTable, MeasuredSubnet, Row, compare, write_measured
from latency_tables.coverage import layers_by_resolution
from latency_tables.formats.ofa_yaml import ofa_key
from service.commands import table_words as words
from service.commands.tables import tables
from supernet.errors import ConfigError, TableError
from supernet.spaces import get_space


def run(*arguments: object, status: int = 0) -> str:
    """What the command prints; no line of it is longer than 80 columns."""
    done = CliRunner().invoke(tables, list(map(str, arguments)))
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == status, done.output
    assert max(map(len, done.output.splitlines())) <= 80 or "--json" in arguments
    return done.output


def run_json(*arguments: object, status: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run(*arguments, "--json", status=status))
    return found


def saved(folder: Path, table: LatencyTable, name: str = "table.json") -> Path:
    table.save(folder / name)
    return folder / name


@pytest.fixture
def ofa_folder(tmp_path: Path) -> Path:
    """Two resolutions of the `ofa` package."""
    folder = tmp_path / "phone"
    folder.mkdir()
    for resolution in (160, 176):
        layers = layers_by_resolution(get_space("mobilenet_v3_w1.2"))[resolution]
        rows = {ofa_key(spec): {"count": 9, "mean": 1.0 + resolution / 1000, "std": 0.1} for spec in layers}
        (folder / f"{resolution}_lookup_table.yaml").write_text(yaml.safe_dump(rows))
    return folder


# -- show ------------------------------------------------------------------------------------------------------


def test_show_prints_every_row_and_the_origin_in_words(tmp_path: Path) -> None:
    table = make_table()
    text = run("show", saved(tmp_path, table))
    lines = text.splitlines()
    assert lines[0] == f"bench: {len(table.rows)} layers of {SPACE.name}"
    assert lines[1].split() == ["layer", "median", "ms", "spread", "count"]
    for key, row in table.rows.items():
        assert next(line for line in lines if line.startswith(f"{key} ")).split()[-3:] == [
            f"{row.median_ms:.4f}",
            "0.0010",
            "9",
        ]
    assert "hardware       cpu none" in lines
    assert "runtime        formula (formula 1)" in lines
    assert "rounds         9, after 1 of warm-up" in lines
    assert "a latency is   the median of its timings" in lines
    assert "covered sizes  all 5" in lines
    assert lines[-3:] == ["missing: none", "unknown: none", "outliers: none"]
    assert "Provenance(" not in text


def test_rows_that_were_fitted_to_whole_subnets_are_not_called_their_own_timings(tmp_path: Path) -> None:
    table = make_table()
    provenance = replace(table.provenance, runtime="onnxruntime", runtime_versions={"bundle": "0" * 64})
    words = " ".join(run("show", saved(tmp_path, replace(table, provenance=provenance))).split())
    assert "a latency is fitted to the median of whole subnets' quickest passes; a spread, to single passes" in words


def test_what_is_not_known_is_called_unknown(ofa_folder: Path) -> None:
    lines = run("show", ofa_folder).splitlines()
    for fact in ("hardware", "runtime", "precision", "memory format", "threads", "batch", "date", "rounds"):
        assert f"{fact:<15}unknown" in lines
    assert "a latency is   the mean of its timings" in lines
    assert lines[1].split() == ["layer", "mean", "ms", "spread", "count"]
    assert "covered sizes  160, 176 (of 25)" in lines


def test_long_names_and_large_numbers_stay_within_80_columns(tmp_path: Path) -> None:
    """Names and values are up to 200 characters; `run` checks the width."""
    table = make_table()
    rows = {**table.rows, "x" * 200: Row(1e9, 1e9, 10**9), "conv " * 30: Row(12345.678, 0.1, 3)}
    provenance = replace(table.provenance, hardware={"cpu": "y" * 200, "board " * 20: "z " * 90}, runtime="r" * 200)
    path = saved(tmp_path, replace(table, rows=rows, provenance=provenance))
    assert "1e+09" in run("show", path)
    run("validate", path, status=1)
    numbered = enumerate(table.rows.items())
    slow = {key: replace(row, median_ms=10.0 ** (number % 12 - 4)) for number, (key, row) in numbered}
    other = saved(tmp_path, replace(table, rows=slow), "other.json")
    run("diff", path, other)
    run("diff", other, path)


def test_ratios_of_any_size_fit_their_column() -> None:
    keys, sizes = list(make_table().rows), (1e-11, 1.234e-3, 0.0123456, 0.5, 1.0034, 12.3456, 1234.56, 123456.0, 1e18)
    first = replace(make_table(), rows={key: Row(1.0, 0.1, 3) for key in keys[: len(sizes)]})
    second = replace(first, rows={key: Row(size, 0.1, 3) for key, size in zip(keys, sizes, strict=False)})
    lines = words.comparison_lines(compare(first, second), 10)
    found = [line.split()[-1] for line in lines if line.startswith(("conv", "linear", "mbconv", "pool"))]
    assert sorted(found) == sorted(["1e-11", "1e-03", "0.012", "0.500", "1.003", "12.3", "1235", "1e+05", "1e+18"])
    assert max(map(len, lines)) <= 80


def test_show_as_json_has_everything(tmp_path: Path) -> None:
    table = replace(make_table(drop=2), rows={**make_table(drop=2).rows, "conv of nothing": Row(1.0, 0.1, 3)})
    found = run_json("show", saved(tmp_path, table))
    assert found["digest"] == table.digest
    assert found["provenance"]["hardware"] == {"cpu": "none"}
    assert found["rows"] == {key: vars(row) for key, row in table.rows.items()}
    assert (len(found["missing"]), found["unknown"]) == (2, ["conv of nothing"])


# -- validate --------------------------------------------------------------------------------------------------


def test_a_sound_table_is_valid(tmp_path: Path) -> None:
    path = saved(tmp_path, make_table())
    assert run("validate", path).splitlines()[-1] == "valid"
    found = run_json("validate", path)
    assert found["valid"] is True
    assert (found["missing"], found["missing_by_resolution"], found["unknown"], found["outliers"]) == ([], {}, [], [])
    assert found["covered"] == found["resolutions"] == [16, 20, 24, 28, 32]


def without(table: LatencyTable, *keys: str) -> LatencyTable:
    return replace(table, rows={key: row for key, row in table.rows.items() if key not in keys})


def test_few_missing_rows_are_all_named_with_the_resolutions_that_need_them(tmp_path: Path) -> None:
    classifier, stem = "linear 1x1x256->1x1x10", "conv 24x24x3->24x24x16 k3 s1 h_swish"
    path = saved(tmp_path, without(make_table(), classifier, stem))
    lines = run("validate", path, status=1).splitlines()
    assert lines[1:5] == [
        "covered resolutions: none (of 5)",
        "missing: 2",
        f"  {classifier} (at all resolutions)",
        f"  {stem} (at 24)",
    ]
    assert lines[-1] == "not valid"
    found = run_json("validate", path, status=1)
    assert found["valid"] is False
    assert sorted(found["missing"]) == sorted([classifier, stem])
    assert found["missing_by_resolution"]["24"].count(stem) == 1
    assert found["missing_by_resolution"]["16"] == [classifier]


def test_very_many_missing_rows_do_not_flood_the_screen(tmp_path: Path) -> None:
    space = get_space("resnet50")
    spec = space.all_layers()[0]
    table = replace(make_table(), space=space.name, num_classes=1000, rows={spec.key: Row(1.0, 0.1, 3)})
    path = saved(tmp_path, table)
    missing = len(space.all_layers()) - 1
    assert missing > 2000
    text = run("validate", path, status=1)
    assert f"missing: {missing}, by resolution" in text
    assert text.count("  (all of them with --json)\n") == 1
    assert len(text.splitlines()) < 60
    assert len(run_json("validate", path, status=1)["missing"]) == missing


def test_unknown_rows_and_outliers_are_faults_each_of_its_own(tmp_path: Path) -> None:
    table = make_table()
    extra = replace(table, rows={**table.rows, "conv of nothing": Row(1.0, 0.1, 3)})
    many = replace(table, rows=table.rows | {f"conv of {number}": Row(1.0, 0.1, 3) for number in range(12)})
    assert "\n  and 2 more (all of them with --json)\n" in run("show", saved(tmp_path, many))
    text = run("validate", saved(tmp_path, extra), status=1)
    assert "missing: none\nunknown: 1\n  conv of nothing\noutliers: none\nnot valid\n" in text
    slow = next(spec.key for spec in SPACE.all_layers() if spec.op == "mbconv" and spec.kernel == 5 and spec.shortcut)
    odd = replace(table, rows=table.rows | {slow: replace(table.rows[slow], median_ms=100.0)})
    text = run("validate", saved(tmp_path, odd), status=1)
    assert f"unknown: none\noutliers: 1\n  {slow}: 100 ms is too slow;" in text
    assert run_json("validate", saved(tmp_path, odd), status=1)["outliers"][0].startswith(f"{slow}: 100 ms")


def test_validate_can_be_asked_for_some_resolutions_only(ofa_folder: Path) -> None:
    assert "128: 94 of 96: " in run("validate", ofa_folder, status=1)
    assert run("validate", ofa_folder, "--resolutions", "160, 176").splitlines()[-1] == "valid"
    found = run_json("validate", ofa_folder, "--resolutions", "160,192", status=1)
    assert found["resolutions"] == [160, 192]
    assert list(found["missing_by_resolution"]) == ["192"]
    with pytest.raises(ConfigError, match=r"--resolutions: unknown '165', ''; allowed: 128, 132, "):
        run("validate", ofa_folder, "--resolutions", "160,165,")


def test_a_table_of_an_unknown_space_is_named_with_its_file(tmp_path: Path) -> None:
    path = saved(tmp_path, replace(make_table(), space="nope"))
    write_measured(tmp_path / "measured.json", [MeasuredSubnet(SPACE.smallest(), 1.0)])
    for arguments in (
        ("show", path),
        ("validate", path),
        ("correct", path, tmp_path / "out.json", "--measured", tmp_path / "measured.json"),
    ):
        with pytest.raises(ConfigError, match=r"table.json': unknown search space 'nope'; allowed: "):
            run(*arguments)


# -- convert ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["json", "yaml", "csv"])
@pytest.mark.parametrize("target", ["json", "yml", "csv"])
def test_every_format_becomes_every_other(tmp_path: Path, source: str, target: str) -> None:
    table = make_table()
    path, out = saved(tmp_path, table, f"a.{source}"), tmp_path / f"b.{target}"
    assert f"bench: {len(table.rows)} layers of {SPACE.name} ->" in run("convert", path, out)
    assert LatencyTable.load(out) == table


def test_a_folder_of_the_ofa_package_becomes_one_file(ofa_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    found = run_json("convert", ofa_folder, out, "--device", "note9")
    assert (found["device"], found["rows"], found["file"]) == ("note9", 2 * 96 - 2, str(out))
    assert LatencyTable.load(out) == LatencyTable.load(ofa_folder, device="note9")


def test_convert_replaces_nothing_unasked(tmp_path: Path) -> None:
    path, out = saved(tmp_path, make_table()), tmp_path / "out.csv"
    out.write_text("mine")
    with pytest.raises(ConfigError, match=r"out.csv' exists; replace it with --force, or choose another name"):
        run("convert", path, out)
    assert out.read_text() == "mine"
    run("convert", path, out, "--force")
    assert LatencyTable.load(out) == make_table()


def test_convert_refuses_what_it_cannot_write_or_read_and_writes_nothing(tmp_path: Path) -> None:
    path = saved(tmp_path, make_table())
    with pytest.raises(TableError, match=r"names no table format; allowed: .json, .yaml, .yml, .csv"):
        run("convert", path, tmp_path / "out.txt")
    (tmp_path / "bad.csv").write_text("layer,median_ms\na,1\n")
    with pytest.raises(TableError, match=r"bad.csv': latency table: no line '# name: value'"):
        run("convert", tmp_path / "bad.csv", tmp_path / "out.json")
    with pytest.raises(TableError, match="cannot read latency table"):
        run("convert", tmp_path / "no.json", tmp_path / "out.json")
    assert {file.name for file in tmp_path.iterdir()} == {"table.json", "bad.csv"}


# -- correct ---------------------------------------------------------------------------------------------------


def measured(folder: Path, table: LatencyTable, scale: float) -> Path:
    """A file of twelve subnets that take `scale` times as long as the table says, and a millisecond."""
    space = get_space(table.space).with_num_classes(table.num_classes)
    configs = space.decode(space.sample_genotypes(np.random.default_rng(0), 12, within={"resolution": (20, 160)}))
    extra = float(scale != 1)
    subnets = [MeasuredSubnet(config, scale * table.estimate_ms(space, config) + extra) for config in configs]
    write_measured(folder / "measured.json", subnets)
    return folder / "measured.json"


def test_a_table_is_corrected_and_says_so(tmp_path: Path) -> None:
    table = make_table()
    path, out = saved(tmp_path, table), tmp_path / "out.csv"
    options = "--measured", measured(tmp_path, table, 1.5)
    lines = run("correct", path, out, *options).splitlines()
    assert lines[0].startswith(f"bench: {len(table.rows)} layers of {SPACE.name} ->")
    assert lines[-3].startswith("rows: times 1.5, ")
    assert lines[-2].startswith("median error of 12 whole subnets: ")
    assert lines[-1] == "corrected, each left out of its fit: 0.00 %"
    assert any(line.startswith("corrected ") for line in run("show", out).splitlines())
    assert "correction.scale " in run("diff", path, out)
    found = run_json("correct", path, out, *options, "--force", "--device", "other")
    corrected = LatencyTable.load(out)
    assert (found["corrected"], found["file"], found["subnets"]) == (True, str(out), 12)
    assert (found["digest"], found["device"]) == (corrected.digest, corrected.device) == (corrected.digest, "other")
    assert found["correction"] == run_json("show", out)["provenance"]["correction"]
    assert found["error_after"] < 1e-4 < found["error_before"]


def test_a_table_of_the_ofa_package_can_be_corrected(ofa_folder: Path, tmp_path: Path) -> None:
    options = "--measured", measured(tmp_path, LatencyTable.load(ofa_folder), 2.0)
    found = run_json("correct", ofa_folder, tmp_path / "out.json", *options)
    assert found["correction"]["uncorrected"] == LatencyTable.load(ofa_folder).digest
    assert LatencyTable.load(tmp_path / "out.json").provenance.statistic == "mean"


def test_a_table_that_is_right_is_not_written_again(tmp_path: Path) -> None:
    table, out = make_table(), tmp_path / "out.json"
    arguments = saved(tmp_path, table), out, "--measured", measured(tmp_path, table, 1.0)
    lines = run("correct", *arguments, status=1).splitlines()
    assert lines[0].endswith(", not corrected")
    assert lines[-1] == "that is hardly better, if at all, so the table is left as it is"
    found = run_json("correct", *arguments, status=1)
    assert (found["corrected"], found["file"], found["correction"]) == (False, None, None)
    assert not out.exists()


def test_correct_refuses_and_writes_nothing(tmp_path: Path) -> None:
    table, out = make_table(), tmp_path / "out.json"
    path, options = saved(tmp_path, table), ("--measured", measured(tmp_path, table, 1.5))
    with pytest.raises(TableError, match="names no table format"):
        run("correct", path, tmp_path / "out.txt", *options)
    with pytest.raises(TableError, match="cannot read measured subnets"):
        run("correct", path, out, "--measured", tmp_path / "no.json")
    with pytest.raises(TableError, match="measured subnets: expected a list of objects, got dict"):
        run("correct", path, out, "--measured", path)
    assert not out.exists()
    run("correct", path, out, *options)
    with pytest.raises(ConfigError, match="exists; replace it with --force"):
        run("correct", path, out, *options)
    with pytest.raises(TableError, match="is corrected already, with 12 subnets"):
        run("correct", out, tmp_path / "again.json", *options)


# -- diff ------------------------------------------------------------------------------------------------------


def test_diff_shows_what_is_alone_the_median_and_the_ten_largest_ratios(tmp_path: Path) -> None:
    first, keys = make_table(), list(make_table().rows)
    numbered = enumerate(first.rows.items())
    rows = {key: replace(row, median_ms=row.median_ms * (1.25 + number / 1e4)) for number, (key, row) in numbered}
    rows[keys[50]] = replace(rows[keys[50]], median_ms=first.rows[keys[50]].median_ms / 20)
    second = replace(first, device="other", rows={key: rows[key] for key in keys[1:]})
    paths = saved(tmp_path, first, "a.json"), saved(tmp_path, second, "b.csv")
    lines = run("diff", *paths).splitlines()
    assert "rows only in A: 1" in lines
    assert f"  {keys[0]}" in lines
    assert "rows only in B: none" in lines
    start = next(number for number, line in enumerate(lines) if line.startswith("those that differ most"))
    assert f"common rows: {len(keys) - 1}; B takes 1.262 times as long (median)" in lines
    assert lines[start + 1].startswith(keys[50])
    assert lines[start + 1].split()[-1] == "0.05"
    assert len(lines[start + 1 :]) == 10 + 1
    assert lines[-1] == "stated differently: nothing"
    found = run_json("diff", *paths)
    assert (found["only_first"], found["only_second"]) == ([keys[0]], [])
    assert len(found["ratios"]) == len(keys) - 1
    assert found["ratios"][0]["layer"] == keys[50]
    assert found["ratios"][0]["ratio"] == pytest.approx(0.05)


def test_diff_of_equal_tables_shows_no_rows_and_other_measurements_by_name(tmp_path: Path) -> None:
    table = make_table()
    other = replace(table, provenance=replace(table.provenance, threads=None, hardware={"cpu": "fast"}))
    text = run("diff", saved(tmp_path, table, "a.json"), saved(tmp_path, other, "b.json"))
    assert "those that differ" not in text
    assert "stated differently:\n  hardware.cpu  none | fast\n  threads       1 | unknown\n" in text


def test_diff_reads_the_ofa_package_and_refuses_other_spaces(ofa_folder: Path, tmp_path: Path) -> None:
    text = run("diff", ofa_folder, ofa_folder / "160_lookup_table.yaml")
    assert f"rows only in A: {96 - 2}" in text
    assert "common rows: 96" in text
    with pytest.raises(TableError, match="compare tables of one space"):
        run("diff", ofa_folder, saved(tmp_path, make_table()))


def test_wrapped_text_continues_under_its_begin() -> None:
    lines = words.wrapped("label: ", "word " * 40)
    assert lines[0].startswith("label: word")
    assert all(line.startswith("       word") for line in lines[1:])
    assert words.wrapped("label: ", "") == ["label:"]
