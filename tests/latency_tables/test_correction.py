"""Corrections recover what a formula did to whole subnets, and change nothing without need."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latency_tables import (
    Correction,
    LatencyTable,
    MeasuredSubnet,
    Row,
    SpaceCosts,
    compare,
    correct,
    read_measured,
    write_measured,
)
from latency_tables.correction import LEAST_SHARE, LEAST_SUBNETS, _once
from latency_tables.formats import FORMATS
from latency_tables.measured import MAX_SUBNETS
from supernet import get_space
from supernet.arch import SubnetConfig
from supernet.errors import TableError
from supernet.spaces import SearchSpace

SPACES = ("mobilenet_v3_tiny", "mobilenet_v3_w1.2", "proxyless_w1.3", "resnet50")


def draw(space: SearchSpace, count: int, seed: int = 0) -> list[SubnetConfig]:
    return space.decode(space.sample_genotypes(np.random.default_rng(seed), count))


def measured(
    table: LatencyTable,
    space: SearchSpace,
    count: int,
    scale: float = 1.0,
    per_layer: float = 0.0,
    constant: float = 0.0,
    *,
    noise: float = 0.0,
) -> list[MeasuredSubnet]:
    """Subnets that take what these parameters say."""
    rng = np.random.default_rng(1)
    found = []
    for config in draw(space, count):
        ms = scale * table.estimate_ms(space, config) + per_layer * len(space.layers(config)) + constant
        found.append(MeasuredSubnet(config, ms * math.exp(noise * rng.standard_normal())))
    return found


def parameters(table: LatencyTable) -> tuple[float, float, float]:
    correction = table.provenance.correction
    assert correction is not None
    return correction.scale, correction.per_layer_ms, correction.constant_ms


def errors(table: LatencyTable, space: SearchSpace, subnets: Sequence[MeasuredSubnet]) -> list[float]:
    return [abs(table.estimate_ms(space, subnet.config) / subnet.latency_ms - 1) for subnet in subnets]


@pytest.mark.parametrize(
    "truth", [(1.3, 0.0, 0.0), (0.8, 0.02, 0.0), (1.1, 0.0, 1.5), (0.9, 0.01, 0.7), (3, -0.005, 2)]
)
def test_the_parameters_that_made_exact_data_are_recovered(
    table: LatencyTable, space: SearchSpace, truth: tuple[float, float, float]
) -> None:
    found = correct(table, space, measured(table, space, 20, *truth))
    assert found.changed
    assert found.error_after < 1e-5 < found.error_before
    assert parameters(found.table) == pytest.approx(truth, rel=1e-4, abs=1e-4)
    unseen = measured(table, space, 50, *truth)[20:]
    assert max(errors(found.table, space, unseen)) < 1e-4


@pytest.mark.parametrize("factor", [0.3, 1.5, 10.0])
def test_a_fifth_of_wrong_measurements_does_not_spoil_it(
    table: LatencyTable, space: SearchSpace, factor: float
) -> None:
    subnets = measured(table, space, 20, 0.9, 0.01, 0.7, noise=0.01)
    clean = correct(table, space, subnets).table
    wrong = [replace(subnet, latency_ms=factor * subnet.latency_ms) for subnet in subnets[:4]]
    found = correct(table, space, wrong + subnets[4:])
    truth = measured(table, space, 60, 0.9, 0.01, 0.7)[20:]
    assert found.changed
    assert np.median(errors(found.table, space, truth)) < 0.02
    assert np.median(errors(clean, space, truth)) < 0.01


def test_noise_does_not_keep_it_from_predicting_unseen_subnets_better(table: LatencyTable, space: SearchSpace) -> None:
    subnets = measured(table, space, 50, 0.9, 0.01, 0.7, noise=0.03)
    found = correct(table, space, subnets[:12])
    truth = measured(table, space, 50, 0.9, 0.01, 0.7)[12:]
    assert found.changed
    assert np.median(errors(found.table, space, truth)) < 0.03 < np.median(errors(table, space, truth))


@pytest.mark.parametrize("noise", [0.0, 0.03])
def test_a_table_that_is_right_is_left_as_it_is(table: LatencyTable, space: SearchSpace, noise: float) -> None:
    found = correct(table, space, measured(table, space, 20, noise=noise))
    assert not found.changed
    assert found.table is table
    assert (found.subnets, found.error_before == 0) == (20, noise == 0)


def test_few_subnets_allow_few_parameters(table: LatencyTable, space: SearchSpace) -> None:
    found = correct(table, space, measured(table, space, LEAST_SUBNETS, 1.2, 0.02, 0.5))
    scale, per_layer, constant = parameters(found.table)
    assert scale > 1.2
    assert per_layer == constant == 0


def test_no_row_becomes_negative(table: LatencyTable, space: SearchSpace) -> None:
    """The pool takes 0.01 ms; without the least share it would take -0.01."""
    found = correct(table, space, measured(table, space, 20, 1.2, -0.025, 0.0)).table
    assert found.provenance.correction is not None
    assert min(row.median_ms for row in found.rows.values()) > 0
    for key, row in found.rows.items():
        assert row.median_ms >= LEAST_SHARE * table.rows[key].median_ms * (1 - 1e-6)


def test_rows_are_scaled_added_to_and_the_constant_goes_to_the_classifier(
    table: LatencyTable, space: SearchSpace
) -> None:
    found = correct(table, space, measured(table, space, 20, 0.9, 0.01, 0.7)).table
    scale, per_layer, constant = parameters(found)
    for key, row in table.rows.items():
        expected = scale * row.median_ms + per_layer + (constant if key.startswith("linear") else 0)
        assert found.rows[key].median_ms == pytest.approx(expected, rel=1e-6)
        assert found.rows[key].spread_ms == pytest.approx(scale * row.spread_ms, rel=1e-6)
        assert found.rows[key].count == row.count


@pytest.mark.parametrize("name", SPACES)
def test_every_subnet_passes_the_constants_place_exactly_once(name: str) -> None:
    space = get_space(name)
    keys = _once(space)
    assert keys
    for config in [space.smallest(), space.largest(), *draw(space, 20)]:
        assert sum(spec.key in keys for spec in space.layers(config)) == 1


def test_without_such_a_place_there_is_no_constant(table: LatencyTable, space: SearchSpace) -> None:
    """A network that passes every layer twice; it is equal to the space, so that configs and table belong to it."""
    twice = replace(space, build_sites=lambda classes: 2 * space.build_sites(classes))
    assert _once(twice) == []
    subnets = [replace(subnet, latency_ms=subnet.latency_ms + 0.7) for subnet in measured(table, twice, 20)]
    found = correct(table, twice, subnets)
    assert found.changed
    assert parameters(found.table)[2] == 0


def test_the_corrected_table_is_an_ordinary_one(table: LatencyTable, space: SearchSpace) -> None:
    found = correct(table, space, measured(table, space, 20, 0.9, 0.01, 0.7)).table
    genotypes = space.sample_genotypes(np.random.default_rng(5), 50)
    costs = SpaceCosts(space, {"ms": found.cost_model()}).of(genotypes)[:, 0]
    assert costs.tolist() == pytest.approx([found.estimate_ms(space, config) for config in space.decode(genotypes)])
    assert found.coverage(space).complete


def test_the_provenance_says_how_it_was_corrected_in_every_format(table: LatencyTable, space: SearchSpace) -> None:
    found = correct(table, space, measured(table, space, 20, 0.9, 0.01, 0.7, noise=0.01))
    correction = found.table.provenance.correction
    assert correction == Correction(
        20, *parameters(found.table), found.error_before, found.error_after, uncorrected=table.digest
    )
    assert replace(found.table.provenance, correction=None) == table.provenance
    for format in FORMATS:
        again = LatencyTable.parse(found.table.render(format), format)
        assert again == found.table
        assert again.digest == found.table.digest
    differences = compare(table, found.table).differences
    assert differences["correction.subnets"] == (None, 20)
    assert "correction" not in differences


def test_tables_without_a_correction_keep_their_digests(table: LatencyTable) -> None:
    """The digest of this table, as it was before there were corrections."""
    assert table.digest == "0d26812272cb401a5c4f0d28798f3e1647bfa53019d4e569a657366ef9c56694"
    assert b"correction" not in table.render("json")


@pytest.mark.parametrize(
    ("name", "value"),
    [("scale", 0.0), ("scale", math.inf), ("subnets", 0), ("uncorrected", "abc"), ("error_after", -0.1), ("more", 1)],
)
def test_a_wrong_correction_in_a_file_is_refused(
    table: LatencyTable, space: SearchSpace, name: str, value: Any
) -> None:
    document = json.loads(correct(table, space, measured(table, space, 20, 1.3)).table.render("json"))
    document["provenance"]["correction"][name] = value
    with pytest.raises(TableError, match=rf"provenance.correction.{name} is "):
        LatencyTable.parse(json.dumps(document).encode(), "json")


def test_a_corrected_table_is_not_corrected_again(table: LatencyTable, space: SearchSpace) -> None:
    found = correct(table, space, measured(table, space, 20, 1.3)).table
    with pytest.raises(TableError, match=r"'pixel6' is corrected already, with 20 subnets; correct the table that .*"):
        correct(found, space, measured(table, space, 20, 1.3))


def test_impossible_measurements_are_refused_together(table: LatencyTable, space: SearchSpace) -> None:
    subnets = measured(table, space, 9, 1.3)
    subnets[1] = replace(subnets[1], config=get_space("resnet50").largest())
    subnets[2] = replace(subnets[2], latency_ms=math.nan)
    subnets[3] = replace(subnets[3], latency_ms=0.0)
    subnets[5] = subnets[4]
    with pytest.raises(TableError) as caught:
        correct(table, space, subnets)
    assert str(caught.value) == (
        "cannot correct the latency table of 'pixel6': subnet 1 is of space 'resnet50'; allowed: 'mobilenet_v3_tiny'; "
        "subnet 2, latency_ms is nan; allowed: finite and above 0; subnet 3, latency_ms is 0.0; allowed: finite and "
        "above 0; subnet 5 repeats subnet 4; measure further subnets, or leave wrong ones out"
    )


def test_too_few_or_too_many_subnets_are_refused(table: LatencyTable, space: SearchSpace) -> None:
    with pytest.raises(TableError, match=rf"5 subnets; allowed: {LEAST_SUBNETS} to {MAX_SUBNETS}; measure further"):
        correct(table, space, measured(table, space, 5))
    with pytest.raises(TableError, match=r"0 subnets; allowed: 6"):
        correct(table, space, [])


def test_missing_rows_are_named(table: LatencyTable, space: SearchSpace) -> None:
    classifier = next(key for key in table.rows if key.startswith("linear"))
    partial = replace(table, rows={key: row for key, row in table.rows.items() if key != classifier})
    with pytest.raises(TableError, match=rf"subnet 0 needs {classifier}, which the table lacks; subnet 1 "):
        correct(partial, space, measured(table, space, 8))


def test_another_space_is_refused(table: LatencyTable) -> None:
    with pytest.raises(TableError, match="is for space 'mobilenet_v3_tiny', not for 'resnet50'"):
        correct(table, get_space("resnet50"), [])


# -- files of measured subnets ---------------------------------------------------------------------------------


def test_measured_subnets_are_read_as_they_were_written(
    table: LatencyTable, space: SearchSpace, tmp_path: Path
) -> None:
    subnets = measured(table, space, 8, 1.3)
    subnets[2] = replace(subnets[2], spread_ms=0.25)
    write_measured(tmp_path / "a.json", subnets)
    assert read_measured(tmp_path / "a.json") == subnets
    entry = json.loads((tmp_path / "a.json").read_bytes())[0]
    assert entry == {"config": subnets[0].config.to_dict(), "latency_ms": subnets[0].latency_ms}


def entries(space: SearchSpace) -> list[dict[str, Any]]:
    return [{"config": config.to_dict(), "latency_ms": 1.5} for config in draw(space, 4)]


def refusal(path: Path, data: Any) -> str:
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    with pytest.raises(TableError) as caught:
        read_measured(path)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 2500
    assert message.startswith(f"{str(path)!r}: measured subnets: ")
    return message.partition(": ")[2]


def test_all_faults_of_a_file_are_told_together(space: SearchSpace, tmp_path: Path) -> None:
    data = entries(space)
    data[0]["latency_ms"] = -1
    data[1]["config"]["resolution"] = 17
    data[2]["latency"] = data[2].pop("latency_ms")
    message = refusal(tmp_path / "a.json", data)
    for part in (
        "subnet 0, latency_ms is -1: input should be greater than 0",
        "subnet 2, latency_ms is missing",
        "subnet 2, latency is not a known field",
        "subnet 1, config: not a subnet of mobilenet_v3_tiny: resolution is 17; allowed: 16, 20, 24, 28, 32",
        "; mend them and load it again",
    ):
        assert part in message


def test_what_is_no_list_of_measured_subnets_is_refused(space: SearchSpace, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    changes: list[tuple[Callable[[dict[str, Any]], Any], str]] = [
        (lambda entry: entry.update(latency_ms="1"), "subnet 0, latency_ms is '1': input should be a valid number"),
        (lambda entry: entry.update(latency_ms=math.nan), "subnet 0, latency_ms is nan: input should be"),
        (lambda entry: entry.update(config=[]), "subnet 0, config is list of 0: input should be a valid dictionary"),
        (lambda entry: entry["config"].update(space="vgg"), "subnet 0, config: unknown search space 'vgg'"),
        (lambda entry: entry["config"].update(space=["vgg"]), "subnet 0, config: unknown search space ['vgg']"),
        (
            lambda entry: entry["config"].update(depths="2"),
            "subnet 0, config: not a subnet of mobilenet_v3_tiny: depths",
        ),
        (lambda entry: entry["config"].pop("depths"), "field 'depths' is missing"),
        (lambda entry: entry["config"].update(speed=1), "unknown field 'speed'"),
    ]
    for change, expected in changes:
        data = entries(space)
        change(data[0])
        assert expected in refusal(path, data)
    assert "expected a list of objects, got dict" in refusal(path, {})
    assert "measured subnets: the list is empty; at least one is needed" in refusal(path, [])
    assert "subnet 0 is 1: input should be" in refusal(path, [1])
    assert f"{MAX_SUBNETS + 1}; allowed: at most {MAX_SUBNETS}; leave some out" in refusal(
        path, [1] * (MAX_SUBNETS + 1)
    )
    assert "not JSON" in refusal(path, "{")
    assert "key 'a' stands twice" in refusal(path, '[{"a": 1, "a": 2}]')
    assert "nested too deeply" in refusal(path, "[" * 100_000)
    assert "allowed: at most 4194304" in refusal(path, " " * (4 * 2**20 + 1))
    with pytest.raises(TableError, match=r"cannot read measured subnets .*No such file.*onceforall profile --correct"):
        read_measured(tmp_path / "no.json")


def test_a_correction_is_plain_data(table: LatencyTable, space: SearchSpace) -> None:
    """The service stores a table's provenance as JSON."""
    found = correct(table, space, measured(table, space, 20, 1.3)).table
    assert json.loads(json.dumps(asdict(found.provenance)["correction"]))["subnets"] == 20


def test_rows_that_no_subnet_needs_are_corrected_too(table: LatencyTable, space: SearchSpace) -> None:
    extra = replace(table, rows={**table.rows, "conv of nothing": Row(1.0, 0.1, 3)})
    found = correct(extra, space, measured(table, space, 20, 1.3)).table
    assert found.rows["conv of nothing"].median_ms == pytest.approx(1.3, rel=1e-3)
