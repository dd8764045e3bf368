from __future__ import annotations

import itertools
import time

import numpy as np
import pytest

from latency_tables import (
    MACS,
    PARAMS,
    PEAK_MEMORY_BYTES,
    SIZE_BYTES,
    LatencyTable,
    SpaceCosts,
    macs,
    params,
    peak_memory_bytes,
    size_bytes,
)
from supernet import LayerSpec
from supernet.errors import ConfigError, TableError
from supernet.spaces import ElasticDimension, LayerSite, SearchSpace

COUNTS = {"macs": MACS, "params": PARAMS, "size_bytes": SIZE_BYTES}


def conv(size: int, inputs: int, outputs: int, kernel: int = 1) -> LayerSpec:
    return LayerSpec("conv", size, size, inputs, outputs, kernel=kernel)


def shared_width_space(seed: int) -> SearchSpace:
    """Two widths that neighbouring sites share, kernels that trade against them, a block that depth may leave out."""
    rng = np.random.default_rng(seed)
    odd = {key: int(rng.integers(1, 40)) for key in itertools.product(range(3), range(3), range(2))}
    dimensions = (
        ElasticDimension("resolution", 0, (8, 12)),
        ElasticDimension("depth", 0, (1, 2)),
        ElasticDimension("kernel", 0, (1, 3, 5)),
        ElasticDimension("kernel", 1, (1, 3), needs_depth=(1, 2)),
        ElasticDimension("width", 0, (4, 8, 12)),
        ElasticDimension("width", 1, (4, 6, 8)),
    )

    def sites(classes: int) -> tuple[LayerSite, ...]:
        return (
            LayerSite("a", (2, 0, 4), lambda kernel, size, width: conv(size, 3, width, kernel)),
            LayerSite(  # no order in it: the cheapest width depends on the other one
                "b", (5, 4, 0), lambda w1, w0, size: conv(size, w0, odd[w1 // 2 - 2, w0 // 4 - 1, size // 12])
            ),
            LayerSite(
                "c", (1, 3, 5), lambda depth, kernel, width: conv(8, width, width, kernel) if depth == 2 else None
            ),
            LayerSite("d", (5,), lambda width: LayerSpec("linear", 1, 1, 80 // width, classes)),
            LayerSite("e", (), lambda: conv(1, 5, 7)),
        )

    return SearchSpace("shared_widths", 10, dimensions, sites)


def all_genotypes(space: SearchSpace) -> np.ndarray:
    return np.array(list(itertools.product(*(range(len(d.choices)) for d in space.dimensions))), dtype=np.int8)


def layers_of(space: SearchSpace, genotype: np.ndarray) -> list[LayerSpec]:
    values = [dim.choices[index] for dim, index in zip(space.dimensions, genotype, strict=True)]
    found = [site.lower(*(values[gene] for gene in site.genes)) for site in space.sites]
    return [spec for spec in found if spec is not None]


def test_population_costs_equal_the_sums_over_each_subnets_layers(space: SearchSpace) -> None:
    genotypes = space.sample_genotypes(np.random.default_rng(0), 200)
    result = SpaceCosts(space, COUNTS).of(genotypes)
    assert result.dtype == np.float64
    for row, config in zip(result, space.decode(genotypes), strict=True):
        layers = space.layers(config)
        assert row.tolist() == [macs(layers), params(layers), size_bytes(layers)]


def test_population_costs_hold_where_sites_share_widths() -> None:
    space = shared_width_space(0)
    genotypes = all_genotypes(space)
    result = SpaceCosts(space, COUNTS).of(genotypes)
    expected = [[f(layers_of(space, g)) for f in (macs, params, size_bytes)] for g in genotypes]
    np.testing.assert_array_equal(result, expected)


def test_inactive_genes_cost_nothing(space: SearchSpace) -> None:
    rng = np.random.default_rng(1)
    raw = np.stack([rng.integers(0, len(d.choices), 50, dtype=np.int8) for d in space.dimensions], axis=1)
    costs = SpaceCosts(space, COUNTS)
    np.testing.assert_array_equal(costs.of(raw), costs.of(space.canonical_genotypes(raw)))


def test_latency_of_a_population_equals_the_tables_estimates(space: SearchSpace, table: LatencyTable) -> None:
    genotypes = space.sample_genotypes(np.random.default_rng(2), 50)
    model = table.cost_model()
    result = SpaceCosts(space, {"macs": MACS, model.name: model}).of(genotypes)
    expected = [table.estimate_ms(space, config) for config in space.decode(genotypes)]
    np.testing.assert_allclose(result[:, 1], expected, rtol=1e-12)


def test_costs_of_one_config_are_named(space: SearchSpace) -> None:
    config = space.largest()
    layers = space.layers(config)
    assert SpaceCosts(space, COUNTS).of_config(config) == {
        "macs": macs(layers),
        "params": params(layers),
        "size_bytes": size_bytes(layers),
    }


def test_an_empty_population_has_no_costs(space: SearchSpace) -> None:
    assert SpaceCosts(space, COUNTS).of(np.zeros((0, len(space.dimensions)), dtype=np.int8)).shape == (0, 3)


def test_classes_are_counted_in(space: SearchSpace) -> None:
    wide = space.with_num_classes(100)
    smaller, larger = (SpaceCosts(s, {"params": PARAMS}).of_config(s.largest())["params"] for s in (space, wide))
    assert larger - smaller == 90 * (256 + 1)


def test_hundred_subnets_are_priced_in_well_under_a_millisecond(space: SearchSpace) -> None:
    costs = SpaceCosts(space, COUNTS)
    genotypes = space.sample_genotypes(np.random.default_rng(0), 100)
    seconds = []
    for _ in range(50):
        start = time.perf_counter()
        costs.of(genotypes)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.5e-3  # measured: 0.016e-3


@pytest.mark.parametrize("seed", range(8))
def test_minimum_is_the_cheapest_of_all_subnets(seed: int) -> None:
    space = shared_width_space(seed)
    costs = SpaceCosts(space, COUNTS)
    everything = costs.of(all_genotypes(space))
    for column, metric in enumerate(COUNTS):
        value, genotype = costs.minimum(metric)
        assert value == everything[:, column].min()
        assert genotype.dtype == np.int8
        assert macs(layers_of(space, genotype)) == costs.of(genotype[None])[0, 0]
        assert costs.of(genotype[None])[0, column] == value
        np.testing.assert_array_equal(genotype, space.canonical_genotypes(genotype[None])[0])


def test_smallest_subnet_is_the_minimum_of_a_monotone_space(space: SearchSpace) -> None:
    costs = SpaceCosts(space, COUNTS)
    for metric in COUNTS:
        value, genotype = costs.minimum(metric)
        assert value == costs.of_config(space.smallest())[metric]
        assert (genotype == 0).all()


@pytest.mark.parametrize("seed", range(3))
def test_the_peak_of_a_population_is_that_of_the_worst_layer_and_its_minimum_exact(seed: int) -> None:
    space = shared_width_space(seed)
    costs = SpaceCosts(space, {"peak_memory_bytes": PEAK_MEMORY_BYTES, "macs": MACS})
    genotypes = all_genotypes(space)
    peaks = [peak_memory_bytes(layers_of(space, genotype)) for genotype in genotypes]
    assert costs.of(genotypes)[:, 0].tolist() == peaks
    assert costs.minimum("peak_memory_bytes")[0] == min(peaks)
    assert costs.of_largest("peak_memory_bytes") == peaks[-1]


@pytest.mark.parametrize("within", [{"resolution": (12,)}, {"depth": (1,)}, {"kernel": (3,)}, {"width": (8,)}], ids=str)
def test_what_is_not_within_costs_infinitely_much_and_is_no_minimum(within: dict) -> None:
    space = shared_width_space(1)
    genotypes = all_genotypes(space)
    models = {"macs": MACS, "peak_memory_bytes": PEAK_MEMORY_BYTES}
    some, whole = SpaceCosts(space, models, within=within), SpaceCosts(space, models)
    ((kind, values),) = within.items()
    active = space.active_genes(genotypes)
    inside = np.ones(len(genotypes), dtype=bool)
    for gene, dim in enumerate(space.dimensions):
        if dim.kind == kind:
            allowed = np.isin(np.array(dim.choices)[genotypes[:, gene]], values)
            inside &= allowed | ~active[:, gene]
    assert 0 < inside.sum() < len(inside)
    found = some.of(genotypes)
    np.testing.assert_array_equal(found[inside], whole.of(genotypes)[inside])
    assert np.isinf(found[~inside]).all()
    for column, metric in enumerate(some.metrics):
        assert some.minimum(metric)[0] == found[inside, column].min()


def test_a_part_without_values_is_refused(space: SearchSpace) -> None:
    with pytest.raises(ConfigError, match=r"resolution: none of \(17,\) is allowed; allowed: "):
        SpaceCosts(space, COUNTS, within={"resolution": (17,)})


def test_chosen_metrics_come_in_the_order_asked_for(space: SearchSpace) -> None:
    costs = SpaceCosts(space, COUNTS)
    genotypes = space.sample_genotypes(np.random.default_rng(0), 5)
    np.testing.assert_array_equal(costs.of(genotypes, ["size_bytes", "macs"]), costs.of(genotypes)[:, [2, 0]])
    with pytest.raises(ConfigError, match="unknown metric 'flops'"):
        costs.of(genotypes, ["flops"])


def test_joined_costs_are_those_of_both(space: SearchSpace, table: LatencyTable) -> None:
    model = table.cost_model(0.95)
    joined = SpaceCosts(space, COUNTS).with_metrics(SpaceCosts(space, {model.name: model}))
    genotypes = space.sample_genotypes(np.random.default_rng(0), 50)
    np.testing.assert_array_equal(joined.of(genotypes)[:, :3], SpaceCosts(space, COUNTS).of(genotypes))
    np.testing.assert_array_equal(joined.of(genotypes)[:, 3:], SpaceCosts(space, {model.name: model}).of(genotypes))
    assert joined.minimum(model.name)[0] == SpaceCosts(space, {model.name: model}).minimum(model.name)[0]
    with pytest.raises(ConfigError, match="cannot be joined"):
        joined.with_metrics(SpaceCosts(space.with_num_classes(3), COUNTS))


def test_minimum_of_an_unknown_metric_names_the_known_ones(space: SearchSpace) -> None:
    with pytest.raises(ConfigError, match=r"unknown metric 'flops'; allowed: macs, params, size_bytes"):
        SpaceCosts(space, COUNTS).minimum("flops")


def test_genotypes_outside_of_the_space_are_refused(space: SearchSpace) -> None:
    costs = SpaceCosts(space, COUNTS)
    good = space.sample_genotypes(np.random.default_rng(0), 3)
    for value in (-1, 5):
        bad = good.copy()
        bad[1, 0] = value
        with pytest.raises(ConfigError, match=rf"genotype 1 has index {value} for resolution; allowed: 0 to 4"):
            costs.of(bad)
    with pytest.raises(ConfigError, match=r"genotypes are int64 \(3, 28\); space 'mobilenet_v3_tiny' needs int8"):
        costs.of(good.astype(np.int64))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"int8 \(3, 27\)"):
        costs.of(good[:, 1:])
    with pytest.raises(ConfigError, match=r"int8 \(28,\)"):
        costs.of(good[0])


def test_costs_without_a_model_are_refused(space: SearchSpace) -> None:
    with pytest.raises(ConfigError, match="name at least one metric"):
        SpaceCosts(space, {})


def test_a_table_for_another_space_is_refused_by_name(table: LatencyTable) -> None:
    with pytest.raises(TableError, match="made for space 'mobilenet_v3_tiny', not for 'shared_widths'"):
        SpaceCosts(shared_width_space(0), {"latency_ms@pixel6": table.cost_model()})


def test_a_table_that_lacks_rows_is_refused_before_any_search(space: SearchSpace, table: LatencyTable) -> None:
    rows = dict(list(table.rows.items())[3:])
    partial = LatencyTable(table.device, table.space, table.num_classes, rows, table.provenance)
    with pytest.raises(TableError, match="on 'pixel6'; 3 of 234 rows missing"):
        SpaceCosts(space, {"latency_ms@pixel6": partial.cost_model()})
