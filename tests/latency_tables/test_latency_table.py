from __future__ import annotations

import os
import pickle
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import numpy as np
import pytest

from latency_tables import LatencyTable, Row
from latency_tables.formats.capped import read_capped
from supernet.errors import ConfigError, StorageError, TableError
from supernet.spaces import ElasticDimension, LayerSite, SearchSpace


def without(table: LatencyTable, *keys: str) -> LatencyTable:
    return replace(table, rows={key: row for key, row in table.rows.items() if key not in keys})


@pytest.fixture
def other_space() -> SearchSpace:
    dimensions = (ElasticDimension("resolution", 0, (8,)),)
    return SearchSpace("other", 10, dimensions, lambda classes: (LayerSite("a", (), lambda: None),))


def test_latency_of_a_subnet_is_the_sum_of_its_layers_medians(space: SearchSpace, table: LatencyTable) -> None:
    config = space.sample(np.random.default_rng(0))
    expected = sum(table.rows[spec.key].median_ms for spec in space.layers(config))
    assert table.estimate_ms(space, config) == pytest.approx(expected, rel=1e-12)


def test_a_larger_subnet_takes_longer(space: SearchSpace, table: LatencyTable) -> None:
    assert table.estimate_ms(space, space.largest()) > table.estimate_ms(space, space.smallest())


def test_a_missing_row_is_named_with_the_count_and_the_next_step(space: SearchSpace, table: LatencyTable) -> None:
    config = space.largest()
    keys = sorted({spec.key for spec in space.layers(config)})
    with pytest.raises(TableError) as caught:
        without(table, *keys[:3]).estimate_ms(space, config)
    assert str(caught.value) == (
        f"no latency for {keys[0]} on 'pixel6'; 3 of {len(keys)} rows missing; "
        "measure them with: onceforall profile RUN_FOLDER --device pixel6"
    )


def test_rows_of_other_subnets_may_be_missing(space: SearchSpace, table: LatencyTable) -> None:
    needed = {spec.key for spec in space.layers(space.smallest())}
    partial = without(table, *(set(table.rows) - needed))
    assert partial.estimate_ms(space, space.smallest()) == table.estimate_ms(space, space.smallest())


@pytest.mark.parametrize(("labelled", "asked"), [(10, 100), (1000, 10)])
def test_another_number_of_classes_is_refused_by_that_name(
    space: SearchSpace, table: LatencyTable, labelled: int, asked: int
) -> None:
    """A wrong label lacks no row, and a wrong classifier should not be told as one row of many that are missing."""
    table, space = replace(table, num_classes=labelled), space.with_num_classes(asked)
    for action in (table.coverage, lambda space: table.estimate_ms(space, space.smallest())):
        with pytest.raises(TableError) as caught:
            action(space)
        assert str(caught.value) == (
            f"the latency table of 'pixel6' is for {labelled} classes, not for the {asked} of 'mobilenet_v3_tiny' here"
            "; measure one with: onceforall profile RUN_FOLDER --device pixel6"
        )


def test_coverage_counts_present_missing_and_unknown_rows(space: SearchSpace, table: LatencyTable) -> None:
    assert table.coverage(space).complete
    assert table.coverage(space).present == len(space.all_layers()) == 234
    keys = list(table.rows)
    changed = without(table, *keys[:5])
    changed = replace(changed, rows={**changed.rows, "conv of nothing": Row(1.0, 0.1, 3)})
    coverage = changed.coverage(space)
    assert not coverage.complete
    assert (coverage.present, sorted(coverage.missing), coverage.unknown) == (229, keys[:5], ["conv of nothing"])


def test_a_table_for_another_space_is_refused_by_name(table: LatencyTable, other_space: SearchSpace) -> None:
    message = (
        "table of 'pixel6' is for space 'mobilenet_v3_tiny', not for 'other'; measure one with: onceforall profile"
    )
    with pytest.raises(TableError, match=message):
        table.coverage(other_space)
    with pytest.raises(TableError, match=message):
        table.estimate_ms(other_space, None)  # type: ignore[arg-type]


def test_a_config_of_another_space_is_refused(space: SearchSpace, table: LatencyTable) -> None:
    config = space.largest()
    object.__setattr__(config, "space", "other")
    with pytest.raises(ConfigError, match="belongs to space 'other'"):
        table.estimate_ms(space, config)


def test_the_cost_model_is_named_after_the_device(space: SearchSpace, table: LatencyTable) -> None:
    model = table.cost_model()
    layers = space.layers(space.largest())
    assert model.name == "latency_ms@pixel6"
    assert model.space == space.name
    assert model.of_layers(layers) == table.estimate_ms(space, space.largest())
    assert model.of_layer(layers[0]) == table.rows[layers[0].key].median_ms


def test_a_quantile_adds_each_layers_own(space: SearchSpace, table: LatencyTable) -> None:
    layers = space.layers(space.largest())
    rows = [table.rows[spec.key] for spec in layers]
    sigmas = [row.spread_ms / 0.674490 for row in rows]  # from the half distance of a normal's quartiles
    expected = sum(row.median_ms for row in rows) + 1.644854 * sum(sigmas)
    model = table.cost_model(0.95)
    assert model.name == f"latency_ms@{table.device}:p95"
    assert model.of_layers(layers) == pytest.approx(expected, rel=1e-6)
    assert table.cost_model(0.5).of_layers(layers) == pytest.approx(table.cost_model().of_layers(layers))


def test_a_quantile_of_a_table_without_spreads_is_refused(table: LatencyTable) -> None:
    bare = replace(table, rows={key: Row(row.median_ms, 0.0, row.count) for key, row in table.rows.items()})
    with pytest.raises(TableError, match="has no spread, so it knows no p95; leave the percentile out"):
        bare.cost_model(0.95)


@pytest.mark.parametrize("name", ["table.json", "table.yaml", "table.YML", "table.csv"])
def test_a_saved_table_loads_equal(table: LatencyTable, tmp_path: Path, name: str) -> None:
    table.save(tmp_path / "deep" / name)
    loaded = LatencyTable.load(str(tmp_path / "deep" / name))
    assert loaded == table
    assert loaded.digest == table.digest
    assert hash(loaded) == hash(table)
    assert list(loaded.rows) == sorted(table.rows)


def test_the_digest_changes_with_any_figure_and_not_with_order(table: LatencyTable) -> None:
    backwards = replace(table, rows=dict(reversed(table.rows.items())))
    assert backwards.digest == table.digest
    key = next(iter(table.rows))
    changed = [
        replace(table, rows={**table.rows, key: replace(table.rows[key], median_ms=9.0)}),
        replace(table, device="pixel7"),
        replace(table, provenance=replace(table.provenance, threads=2)),
        without(table, key),
    ]
    assert len({table.digest, *(other.digest for other in changed)}) == 5


def test_a_table_is_frozen_and_travels_between_processes(table: LatencyTable) -> None:
    with pytest.raises(FrozenInstanceError):
        table.device = "x"  # type: ignore[misc]
    with pytest.raises(TypeError):
        table.rows["x"] = Row(1, 1, 1)  # type: ignore[index]
    assert pickle.loads(pickle.dumps(table)) == table


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"cannot read latency table '.*/no.json': No such file.*; check the path"):
        LatencyTable.load(tmp_path / "no.json")
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(TableError, match="cannot read latency table"):
        LatencyTable.load(tmp_path / "folder.json")


def test_a_file_without_an_end_is_refused_unread(tmp_path: Path) -> None:
    """Its size is 0; reading it would fill the memory."""
    endless, pipe = tmp_path / "endless.json", tmp_path / "pipe.json"
    endless.symlink_to("/dev/zero")
    os.mkfifo(pipe)
    for path in (endless, pipe):
        with pytest.raises(TableError, match=rf"{path.name}': latency table: a pipe or a device; give a regular file"):
            LatencyTable.load(path)


def test_no_more_of_a_file_is_read_than_may_be(tmp_path: Path) -> None:
    """Files of /proc say that they have no bytes."""
    file = tmp_path / "large.json"
    file.write_bytes(b" " * (4 * 2**20 + 9))
    with pytest.raises(TableError, match=r"large.json': latency table: 4194313 bytes; allowed: at most 4194304"):
        LatencyTable.load(file)
    with pytest.raises(TableError, match="latency table: 4 bytes; allowed: at most 3"):
        read_capped(Path("/proc/self/maps"), 3)


def test_a_malformed_file_is_named_with_its_fault(tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(TableError, match=r"bad.json': latency table: not JSON"):
        LatencyTable.load(tmp_path / "bad.json")


def test_an_unknown_ending_lists_the_known_ones(table: LatencyTable, tmp_path: Path) -> None:
    for action in (LatencyTable.load, table.save):
        with pytest.raises(TableError, match=r"names no table format; allowed: .json, .yaml, .yml, .csv"):
            action(tmp_path / "table.txt")


def test_a_table_that_could_not_be_loaded_again_is_not_saved(table: LatencyTable, tmp_path: Path) -> None:
    key = next(iter(table.rows))
    for bad in (replace(table, device="Pixel 6"), replace(table, rows={key: Row(float("nan"), 0.1, 3)})):
        with pytest.raises(TableError, match="latency table: "):
            bad.save(tmp_path / "table.json")
    assert not list(tmp_path.iterdir())


def test_an_unwritable_path_is_a_storage_error(table: LatencyTable, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write"):
        table.save(tmp_path / "file" / "table.json")
