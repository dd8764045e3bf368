from __future__ import annotations

import numpy as np
import pytest

from latency_tables import LatencyTable, measure_onnx_ms, profile_space
from latency_tables.covering import layers_within
from supernet import Subnet, get_space
from supernet.errors import ConfigError

onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra onnx")

RESOLUTIONS = (16, 32)


@pytest.fixture(scope="module")
def profiled() -> LatencyTable:
    return profile_space(
        get_space("mobilenet_v3_tiny"),
        device="this-cpu",
        runtime="onnxruntime",
        repeats=3,
        warmup=1,
        resolutions=RESOLUTIONS,
    )


def test_every_layer_of_the_resolutions_has_a_row(profiled: LatencyTable) -> None:
    space = get_space("mobilenet_v3_tiny")
    assert set(profiled.rows) == {spec.key for spec in layers_within(space, RESOLUTIONS)}
    assert all(0 < row.median_ms < 100 and row.spread_ms >= 0 and row.count >= 3 for row in profiled.rows.values())
    assert profiled.estimate_ms(space, space.largest()) > profiled.estimate_ms(space, space.smallest())


def test_the_provenance_says_how_it_was_measured(profiled: LatencyTable) -> None:
    provenance = profiled.provenance
    assert (provenance.runtime, provenance.precision, provenance.threads) == ("onnxruntime", "fp32", 1)
    assert (provenance.repeats, provenance.warmup, provenance.batch) == (3, 1, 1)
    assert provenance.runtime_versions["onnxruntime"] == onnxruntime.__version__
    assert len(str(provenance.runtime_versions["bundle"])) == 64
    assert set(provenance.hardware) == {"cpu", "machine", "cores", "system"}
    for format in ("json", "yaml"):
        assert LatencyTable.parse(profiled.render(format), format) == profiled


@pytest.mark.slow
def test_the_sum_of_the_rows_predicts_whole_subnets() -> None:
    """Quiet, the median error is 2 to 4 %; other processes may disturb a try, so there are three."""
    space = get_space("mobilenet_v3_tiny")
    genotypes = space.sample_genotypes(np.random.default_rng(7), 8, within={"resolution": (32,)})
    medians: list[float] = []
    while len(medians) < 3 and not (medians and 0.75 < medians[-1] < 1.33):
        table = profile_space(
            space, device="a", runtime="onnxruntime", repeats=3, warmup=1, resolutions=(32,), seed=len(medians)
        )
        ratios = [
            table.estimate_ms(space, config) / measure_onnx_ms(Subnet(space, config).eval(), repeats=5).median_ms
            for config in space.decode(genotypes)
        ]
        medians.append(float(np.median(ratios)))
    assert 0.75 < medians[-1] < 1.33, medians


def test_a_whole_network_is_measured_for_any_batch_and_threads() -> None:
    space = get_space("mobilenet_v3_tiny")
    network = Subnet(space, space.largest()).eval()
    one, many = measure_onnx_ms(network, repeats=5), measure_onnx_ms(network, batch=8, threads=2, repeats=5)
    assert one.count == 5
    assert 0 < one.median_ms < many.median_ms


def test_wrong_arguments_are_told_together() -> None:
    space = get_space("mobilenet_v3_tiny")
    with pytest.raises(ConfigError, match=r"device name 'X'.*threads is 0.*repeats is 0"):
        profile_space(space, device="X", runtime="onnxruntime", threads=0, repeats=0)
    with pytest.raises(ConfigError, match="cannot profile: repeats is 0; allowed: 1 or more"):
        measure_onnx_ms(Subnet(space, space.smallest()), repeats=0)
