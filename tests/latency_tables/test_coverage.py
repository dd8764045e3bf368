from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from latency_tables import LatencyTable
from latency_tables.coverage import layers_by_resolution
from supernet import get_space
from supernet.errors import TableError
from supernet.spaces import SearchSpace


def of_resolutions(table: LatencyTable, space: SearchSpace, *resolutions: int) -> LatencyTable:
    """The table with the rows that these resolutions need."""
    layers = layers_by_resolution(space)
    wanted = {spec.key for resolution in resolutions for spec in layers[resolution]}
    return replace(table, rows={key: row for key, row in table.rows.items() if key in wanted})


@pytest.mark.parametrize("name", ["mobilenet_v3_tiny", "mobilenet_v3_w1.2", "proxyless_w1.3", "resnet50"])
def test_resolutions_share_out_all_layers_of_a_space(name: str) -> None:
    space = get_space(name)
    parts = layers_by_resolution(space)
    assert tuple(parts) == space.dimensions[0].choices
    assert sorted({spec for layers in parts.values() for spec in layers}) == space.all_layers()
    for config in space.decode(space.sample_genotypes(np.random.default_rng(0), 50)):
        assert set(space.layers(config)) <= set(parts[config.resolution])


def test_every_layer_of_a_resolution_is_needed_by_some_subnet_of_it(space: SearchSpace) -> None:
    rng = np.random.default_rng(0)
    for resolution, layers in layers_by_resolution(space).items():
        genotypes = space.sample_genotypes(rng, 400, within={"resolution": (resolution,)})
        assert {spec for config in space.decode(genotypes) for spec in space.layers(config)} == set(layers)


def test_a_whole_table_covers_all_resolutions(space: SearchSpace, table: LatencyTable) -> None:
    assert table.covered_resolutions(space) == (16, 20, 24, 28, 32)


def test_a_partial_table_covers_what_was_measured_and_says_what_the_rest_lacks(
    space: SearchSpace, table: LatencyTable
) -> None:
    coverage = of_resolutions(table, space, 20, 32).coverage(space)
    assert coverage.covered == (20, 32)
    assert not coverage.complete
    needed = layers_by_resolution(space)
    for resolution, part in coverage.resolutions.items():
        assert part.needed == len(needed[resolution])
        assert part.complete == (not part.missing) == (resolution in (20, 32))
        assert set(part.missing) <= {spec.key for spec in needed[resolution]} & set(coverage.missing)
    assert {key for part in coverage.resolutions.values() for key in part.missing} == set(coverage.missing)


def test_one_missing_row_uncovers_just_the_resolutions_that_need_it(space: SearchSpace, table: LatencyTable) -> None:
    for key in list(table.rows)[::20]:
        rows = {other: row for other, row in table.rows.items() if other != key}
        needing = [r for r, layers in layers_by_resolution(space).items() if key in {spec.key for spec in layers}]
        covered = replace(table, rows=rows).covered_resolutions(space)
        assert covered == tuple(r for r in (16, 20, 24, 28, 32) if r not in needing)


def test_without_the_classifier_nothing_is_covered(space: SearchSpace, table: LatencyTable) -> None:
    rows = {key: row for key, row in table.rows.items() if not key.startswith("linear")}
    coverage = replace(table, rows=rows).coverage(space)
    assert coverage.covered == ()


def test_covered_resolutions_can_be_estimated_and_the_others_name_them(space: SearchSpace, table: LatencyTable) -> None:
    partial = of_resolutions(table, space, 20, 32)
    rng = np.random.default_rng(0)
    for config in space.decode(space.sample_genotypes(rng, 50, within={"resolution": (20, 32)})):
        assert partial.estimate_ms(space, config) == table.estimate_ms(space, config)
    with pytest.raises(TableError) as caught:
        partial.estimate_ms(space, replace(space.smallest(), resolution=24))
    message = str(caught.value)
    assert message.startswith("no latency for conv 24x24x3->24x24x16 k3 s1 h_swish on 'pixel6'; ")
    assert message.endswith(
        " rows missing; choose one of the covered resolutions 20, 32 (not 24), or measure them with: "
        "onceforall profile RUN_FOLDER --device pixel6"
    )


def test_coverage_of_another_space_is_refused(table: LatencyTable) -> None:
    with pytest.raises(TableError, match="is for space 'mobilenet_v3_tiny', not for 'resnet50'"):
        table.covered_resolutions(get_space("resnet50"))
