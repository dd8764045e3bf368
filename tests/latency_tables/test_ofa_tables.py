"""Tables of the `ofa` package: made-up ones for the rules, the published ones of the Note10 for the figures."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from latency_tables import LatencyTable, outliers
from latency_tables.coverage import layers_by_resolution
from latency_tables.formats.ofa_yaml import ofa_key
from supernet import get_space
from supernet.arch import LayerSpec
from supernet.errors import TableError
from supernet.import_ofa import read_net_config
from supernet.spaces import SearchSpace

SHARED = Path(__file__).parents[3] / "shared" / "data" / "ofa"
NOTE10 = SHARED / "note10"
needs_published = pytest.mark.skipif(not NOTE10.is_dir(), reason=f"the published tables are absent: {NOTE10}")

Rows = dict[str, dict[str, Any]]
STEM = "Conv-input:160x160x3-output:80x80x24"
BLOCK = "expanded_conv-input:10x10x136-output:5x5x192-expand:544-kernel:7-stride:2-idskip:0-se:1-hs:1"


@pytest.fixture(scope="module")
def w1_2() -> SearchSpace:
    return get_space("mobilenet_v3_w1.2")


def rows_of(resolution: int, *, scale: float = 1.0) -> Rows:
    """A complete file's rows, each mean and std different from all others."""
    layers = layers_by_resolution(get_space("mobilenet_v3_w1.2"))[resolution]
    return {
        ofa_key(spec): {"count": 100 + number, "mean": scale * (1 + number / 1000), "std": 0.01 * (1 + number)}
        for number, spec in enumerate(layers)
    }


def write(folder: Path, name: str, rows: Rows) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(yaml.safe_dump(rows, sort_keys=False))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two resolutions that share the head only, beside something else."""
    for resolution in (160, 224):
        write(tmp_path / "phone", f"{resolution}_lookup_table.yaml", rows_of(resolution))
    (tmp_path / "phone" / "README.md").write_text("not a table")
    return tmp_path / "phone"


def refusal(path: Path, **options: str) -> str:
    with pytest.raises(TableError) as caught:
        LatencyTable.load(path, **options)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1500
    return str(caught.value)


# -- what is read ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (STEM, "conv 160x160x3->80x80x24 k3 s2 h_swish"),
        (
            "expanded_conv-input:80x80x24-output:80x80x24-expand:24-kernel:3-stride:1-idskip:1-se:0-hs:0",
            "mbconv 80x80x24->80x80x24 mid24 k3 s1 relu skip",
        ),
        (
            "expanded_conv-input:80x80x24-output:40x40x32-expand:96-kernel:5-stride:2-idskip:0-se:0-hs:0",
            "mbconv 80x80x24->40x40x32 mid96 k5 s2 relu",
        ),
        (BLOCK, "mbconv 10x10x136->5x5x192 mid544 k7 s2 se136 h_swish"),
        (
            "expanded_conv-input:20x20x48-output:20x20x48-expand:288-kernel:3-stride:1-idskip:1-se:1-hs:0",
            "mbconv 20x20x48->20x20x48 mid288 k3 s1 se72 relu skip",
        ),
        ("Conv_1-input:5x5x192-output:5x5x1152", "conv 5x5x192->5x5x1152 k1 s1 h_swish"),
        ("AvgPool2D-input:5x5x1152-output:1x1x1152", "pool 5x5x1152->1x1x1152"),
        ("Conv_2-input:1x1x1152-output:1x1x1536", "conv 1x1x1152->1x1x1536 k1 s1 h_swish nobn"),
        ("Logits-input:1x1x1536-output:1000", "linear 1x1x1536->1x1x1000"),
    ],
)
def test_names_are_those_of_the_same_layers(theirs: str, ours: str) -> None:
    """Written by hand from both sides' rules."""
    specs = {spec.key: spec for spec in layers_by_resolution(get_space("mobilenet_v3_w1.2"))[160]}
    assert ofa_key(specs[ours]) == theirs


def test_every_layer_of_a_resolution_has_a_name_of_its_own(w1_2: SearchSpace) -> None:
    for layers in layers_by_resolution(w1_2).values():
        assert len({ofa_key(spec) for spec in layers}) == len(layers) == 96


def test_a_file_is_a_table_of_its_resolution(folder: Path, w1_2: SearchSpace) -> None:
    table = LatencyTable.load(folder / "160_lookup_table.yaml")
    assert (table.device, table.space, table.num_classes, len(table.rows)) == ("phone", w1_2.name, 1000, 96)
    assert table.covered_resolutions(w1_2) == (160,)


def test_the_mean_is_the_figure_and_the_std_becomes_half_the_distance_of_the_quartiles(folder: Path) -> None:
    table = LatencyTable.load(folder / "160_lookup_table.yaml")
    given = rows_of(160)[BLOCK]
    row = table.rows["mbconv 10x10x136->5x5x192 mid544 k7 s2 se136 h_swish"]
    timings = np.random.default_rng(0).normal(given["mean"], given["std"], 200_000)
    low, high = np.quantile(timings, (0.25, 0.75))
    assert (row.median_ms, row.count) == (given["mean"], given["count"])
    assert row.spread_ms == pytest.approx((high - low) / 2, rel=0.01)


def test_what_the_files_do_not_say_is_unknown(folder: Path) -> None:
    provenance = LatencyTable.load(folder).provenance
    assert provenance.statistic == "mean"
    known = {name: value for name, value in vars(provenance).items() if value not in (None, {})}
    assert known == {"statistic": "mean"}


def test_a_folder_is_one_table_of_all_its_resolutions(folder: Path, w1_2: SearchSpace) -> None:
    table = LatencyTable.load(folder)
    assert table.device == "phone"
    assert table.covered_resolutions(w1_2) == (160, 224)
    assert len(table.rows) == 2 * 96 - 2


def test_a_layer_of_several_files_has_the_row_of_the_greatest_resolution(folder: Path) -> None:
    files = {resolution: rows_of(resolution) for resolution in (160, 224)}
    files[224]["Logits-input:1x1x1536-output:1000"]["mean"] = 1.9
    write(folder, "224_lookup_table.yaml", files[224])
    assert LatencyTable.load(folder).rows["linear 1x1x1536->1x1x1000"].median_ms == 1.9


def test_the_folder_names_the_device_unless_another_name_is_given(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert LatencyTable.load(folder, device="note9").device == "note9"
    monkeypatch.chdir(folder)
    assert LatencyTable.load(".").device == LatencyTable.load("160_lookup_table.yaml").device == "phone"


@pytest.mark.parametrize("format", ["json", "yaml", "csv"])
def test_it_is_written_in_every_format_of_ours(folder: Path, tmp_path: Path, format: str) -> None:
    table = LatencyTable.load(folder)
    table.save(tmp_path / f"copy.{format}")
    assert LatencyTable.load(tmp_path / f"copy.{format}") == table
    assert LatencyTable.load(tmp_path / f"copy.{format}", device="other") == replace(table, device="other")
    assert "device name 'Other Phone'" in refusal(tmp_path / f"copy.{format}", device="Other Phone")


def test_a_missing_row_is_told_by_coverage(folder: Path, w1_2: SearchSpace) -> None:
    rows = rows_of(160)
    del rows[BLOCK]
    write(folder, "160_lookup_table.yaml", rows)
    coverage = LatencyTable.load(folder).coverage(w1_2)
    assert coverage.covered == (224,)
    assert coverage.resolutions[160].missing == ["mbconv 10x10x136->5x5x192 mid544 k7 s2 se136 h_swish"]


# -- what is refused ---------------------------------------------------------------------------------------------


def change(key: str, **values: Any) -> Callable[[Rows], object]:
    return lambda rows: rows[key].update(values)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (change(BLOCK, mean=-1.0), f"{BLOCK}, mean is -1.0: input should be greater than 0"),
        (change(BLOCK, mean=0), f"{BLOCK}, mean is 0: input should be greater than 0"),
        (change(BLOCK, mean=float("nan")), f"{BLOCK}, mean is nan: input should be a finite number"),
        (change(BLOCK, mean=float("inf")), f"{BLOCK}, mean is inf: input should be"),
        (change(BLOCK, mean="1"), f"{BLOCK}, mean is '1': input should be a valid number"),
        (change(BLOCK, std=-0.1), f"{BLOCK}, std is -0.1: input should be greater than or equal to 0"),
        (change(BLOCK, std=float("nan")), f"{BLOCK}, std is nan: input should be a finite number"),
        (change(BLOCK, count=0), f"{BLOCK}, count is 0: input should be greater than 0"),
        (change(BLOCK, count=1.5), f"{BLOCK}, count is 1.5: input should be a valid integer"),
        (change(BLOCK, unit="us"), f"{BLOCK}, unit is not a known field"),
        (lambda rows: rows[BLOCK].pop("std"), f"{BLOCK}, std is missing"),
        (lambda rows: rows.update({BLOCK: 1.0}), f"{BLOCK} is 1.0: input should be a valid dictionary"),
        (
            lambda rows: rows.update({"Conv_9": dict(rows[STEM])}),
            "'Conv_9' is no layer of mobilenet_v3_w1.2 at 160 pixels",
        ),
        (lambda rows: rows.update({7: dict(rows[STEM])}), "'7' is no layer of mobilenet_v3_w1.2 at 160 pixels"),
        (lambda rows: rows.update(rows_of(176)), "'Conv_1-input:6x6x192-output:6x6x1152' is no layer"),
        (lambda rows: rows.update({BLOCK + "!": 1}), f"'{BLOCK}!' is no layer of mobilenet_v3_w1.2 at 160 pixels"),
        (lambda rows: rows.clear(), "expected rows by name of the layer, got none"),
    ],
)
def test_a_wrong_file_is_refused_with_its_name_the_row_and_the_value(
    folder: Path, spoil: Callable[[Rows], object], message: str
) -> None:
    rows = rows_of(160)
    spoil(rows)
    path = write(folder, "160_lookup_table.yaml", rows)
    for given in (folder, path):
        assert f"{str(given)!r}: 160_lookup_table.yaml: {message}" in refusal(given)


def test_five_faults_are_told_and_the_rest_counted(folder: Path) -> None:
    rows = {key: row | {"mean": -1.0} for key, row in rows_of(160).items()}
    message = refusal(write(folder, "160_lookup_table.yaml", rows))
    assert message.count("input should be") == 5
    assert message.endswith("; and 91 more; mend them and load it again")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "expected rows by name of the layer, got NoneType"),
        ("[1]", "expected rows by name of the layer, got list"),
        ("a: [", "not readable as YAML"),
        (f"{STEM}: 1\n{STEM}: 2", f"key '{STEM}' stands twice, again in line 2"),
        (f"{STEM}: {{count: 1, mean: 1, mean: 2, std: 0}}", "key 'mean' stands twice, again in line 1"),
        ("a: &x [1]\nb: [*x, *x]", "an alias (*) in line 2"),
        ("a: !!python/object/apply:os.system [ls]", "a tag (tag:yaml.org,2002:python/object/apply:os.system)"),
        ("[" * 20_000, "YAML nested too deeply"),
        ("a: 1\n" * 10**6, "5000000 bytes; allowed: at most 1048576"),
    ],
)
def test_what_is_not_plain_yaml_of_rows_is_refused(folder: Path, content: str, message: str) -> None:
    (folder / "160_lookup_table.yaml").write_text(content)
    text = refusal(folder)
    assert "160_lookup_table.yaml: " in text
    assert message in text


def test_a_folder_without_tables_is_refused_with_what_it_holds(tmp_path: Path) -> None:
    assert "the folder holds no file named like 160_lookup_table.yaml, but nothing;" in refusal(tmp_path)
    for name in ("a.json", "b.yaml", "c", "d"):
        (tmp_path / name).write_text("")
    (tmp_path / "176_lookup_table.yaml").mkdir()
    message = refusal(tmp_path)
    assert "cannot read latency table: the folder holds no file" in message
    assert "but '176_lookup_table.yaml', 'a.json', 'b.yaml' and 2 more; give a folder of the ofa package" in message


@pytest.mark.parametrize("name", ["160_lookup_table.yml", "0160_lookup_table.yaml", "160_Lookup_Table.YAML"])
def test_two_tables_of_one_resolution_are_refused(folder: Path, name: str) -> None:
    write(folder, name, rows_of(160))
    message = refusal(folder)
    assert "the folder holds two tables of resolution 160, " in message
    assert name in message


def test_a_resolution_that_the_space_lacks_is_refused(folder: Path) -> None:
    write(folder, "165_lookup_table.yaml", rows_of(160))
    assert "165_lookup_table.yaml: 165 is no resolution of mobilenet_v3_w1.2; allowed: 128, 132, " in refusal(folder)


def test_files_of_different_devices_are_refused(folder: Path) -> None:
    write(folder, "160_lookup_table.yaml", rows_of(160, scale=3.0))
    message = refusal(folder)
    assert "ms in 160_lookup_table.yaml and " in message
    assert "tables of one device differ by less than 2 times; load them apart" in message


def test_a_folder_whose_name_is_no_device_is_refused_unless_a_name_is_given(folder: Path) -> None:
    moved = folder.rename(folder.parent / "My Phone")
    assert "device name 'My Phone'; allowed: 1 to 64 lower-case letters" in refusal(moved)
    assert "give another with device= (--device), or rename the folder" in refusal(moved)
    assert LatencyTable.load(moved, device="my-phone").device == "my-phone"


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    assert "cannot read latency table '" in refusal(tmp_path / "160_lookup_table.yaml")


def test_a_renamed_file_is_told_from_a_table_of_ours(folder: Path, tmp_path: Path) -> None:
    renamed = (folder / "160_lookup_table.yaml").rename(tmp_path / "phone-160.yaml")
    assert "this is a table of the ofa package under another name; name it like 160_lookup_table" in refusal(renamed)


def test_no_table_of_ours_is_written_under_a_name_of_the_package(table: LatencyTable, tmp_path: Path) -> None:
    """It could not be loaded again."""
    with pytest.raises(TableError, match="is that of a table of the ofa package; choose another name"):
        table.save(tmp_path / "160_lookup_table.yaml")


# -- the published tables ----------------------------------------------------------------------------------------


def their_sum(layers: list[LayerSpec], rows: Rows) -> float:
    return float(sum(rows[ofa_key(spec)]["mean"] for spec in layers))


@needs_published
def test_the_published_tables_cover_their_resolutions_without_a_doubtful_row(w1_2: SearchSpace) -> None:
    table = LatencyTable.load(NOTE10)
    assert table.device == "note10"
    coverage = table.coverage(w1_2)
    assert coverage.covered == tuple(range(160, 225, 16))
    assert coverage.unknown == []
    assert len(table.rows) == 450
    assert outliers(table) == []


@needs_published
def test_the_published_30_ms_architecture_takes_what_was_published(w1_2: SearchSpace) -> None:
    (folder,) = (SHARED / "specialized").glob("*note10*30ms*")
    config = read_net_config(folder / "net.config", folder / "run.config").config
    assert config is not None
    assert round(LatencyTable.load(NOTE10).estimate_ms(w1_2, config), 2) == 29.97
    assert round(LatencyTable.load(NOTE10 / "224_lookup_table.yaml").estimate_ms(w1_2, config), 2) == 29.97


@needs_published
def test_the_published_range_is_found_again(w1_2: SearchSpace) -> None:
    least, most = replace(w1_2.smallest(), resolution=160), w1_2.largest()
    table = LatencyTable.load(NOTE10)
    assert round(LatencyTable.load(NOTE10 / "160_lookup_table.yaml").estimate_ms(w1_2, least), 2) == 9.89
    assert table.estimate_ms(w1_2, least) == pytest.approx(9.89, rel=3e-3)
    assert round(table.estimate_ms(w1_2, most), 1) == 92.4


@needs_published
@pytest.mark.parametrize(
    ("resolution", "tolerance"), [(160, 3e-3), (176, 3e-3), (192, 1e-3), (208, 1e-3), (224, 1e-12)]
)
def test_one_table_of_all_resolutions_agrees_with_each_file(
    w1_2: SearchSpace, resolution: int, tolerance: float
) -> None:
    table = LatencyTable.load(NOTE10)
    rows: Rows = yaml.safe_load((NOTE10 / f"{resolution}_lookup_table.yaml").read_text())
    genotypes = w1_2.sample_genotypes(np.random.default_rng(0), 200, within={"resolution": (resolution,)})
    for config in w1_2.decode(genotypes):
        expected = their_sum(w1_2.layers(config), rows)
        assert table.estimate_ms(w1_2, config) == pytest.approx(expected, rel=tolerance)


@needs_published
def test_the_published_tables_stay_the_same_through_every_format(tmp_path: Path) -> None:
    table = LatencyTable.load(NOTE10)
    for format in ("json", "yaml", "csv"):
        assert LatencyTable.parse(table.render(format), format) == table
    assert json.loads(table.render("json"))["provenance"]["threads"] is None
