from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from latency_tables import LatencyTable, measure, write_bundle
from latency_tables.bundle import describe_bundle, layer_features
from latency_tables.covering import layers_within, resolutions_of
from supernet import get_space
from supernet.errors import ConfigError
from supernet.files import sha256_file
from supernet.spaces import SearchSpace

onnx = pytest.importorskip("onnx", reason="needs the extra onnx")
pytest.importorskip("onnxruntime", reason="needs the extra onnx")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two resolutions of the tiny space, for five classes."""
    folder = tmp_path_factory.mktemp("bundles") / "small"
    space = get_space("mobilenet_v3_tiny").with_num_classes(5)
    write_bundle(space, folder, resolutions=resolutions_of(space)[:2])
    return folder


def _script(folder: Path, *arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The script as a device runs it: none of our packages can be imported."""
    blocked = (
        "import sys, runpy\n"
        "for name in ('torch', 'onnx', 'scipy', 'supernet', 'latency_tables', 'service', 'search'):\n"
        "    sys.modules[name] = None\n"
        "sys.argv = sys.argv[1:]\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-W", "error", "-c", blocked, str(folder / "measure.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=200, cwd=cwd, env=environment)


@pytest.mark.slow
def test_a_device_with_onnxruntime_alone_makes_a_table(small: Path, tmp_path: Path) -> None:
    moved = small.rename(small.with_name("elsewhere"))
    try:
        done = _script(moved, "--device", "pixel6", "--repeats", 2, "--warmup", 1, "--threads", 2, cwd=tmp_path)
        digest = sha256_file(moved / "bundle.json")
    finally:
        moved.rename(small)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["pixel6.json"]
    table = LatencyTable.load(tmp_path / "pixel6.json")
    space = get_space("mobilenet_v3_tiny").with_num_classes(5)
    expected = layers_within(space, resolutions_of(space)[:2])
    assert set(table.rows) == {spec.key for spec in expected}
    assert f"{len(expected)} layers of mobilenet_v3_tiny on 'pixel6' -> pixel6.json" in done.stdout
    assert "left-out subnets: median error" in done.stdout
    lines = done.stderr.splitlines()
    assert lines[0].endswith(f" subnets x 3 rounds x 5 passes: {15 * int(lines[0].split()[0])} passes in all")
    assert re.fullmatch(r"about \d+ (s|min) in all, by the first round", lines[1])
    assert "1 of 3 rounds" in lines[2:]
    assert (table.device, table.space, table.num_classes) == ("pixel6", "mobilenet_v3_tiny", 5)
    provenance = table.provenance
    assert (provenance.runtime, provenance.threads, provenance.batch) == ("onnxruntime", 2, 1)
    assert (provenance.repeats, provenance.warmup) == (2, 1)
    assert provenance.runtime_versions["bundle"] == digest
    assert all(row.median_ms > 0 and row.count >= 2 for row in table.rows.values())
    assert table.estimate_ms(space, space.smallest()) > 0


def test_the_script_refuses_a_damaged_bundle_in_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    write_bundle(get_space("mobilenet_v3_tiny"), folder, resolutions=(16,))
    (folder / "0003.onnx").write_bytes(b"x")
    done = _script(folder, "--device", "a", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        f"error: {str(folder / '0003.onnx')!r} is damaged; copy the bundle to this device again"
    ]


def test_a_bundle_has_every_layer_in_subnets_of_the_space(small: Path, space: SearchSpace) -> None:
    space = space.with_num_classes(5)
    description, digest = measure.load_bundle(str(small))
    layers = layers_within(space, resolutions_of(space)[:2])
    assert [layer["layer"] for layer in description["layers"]] == [spec.key for spec in layers]
    seen = {number for subnet in description["subnets"] for number in subnet["layers"]}
    assert seen == set(range(len(layers)))
    report = describe_bundle(small)
    assert (report["layers"], report["subnets"]) == (len(layers), len(description["subnets"]))
    assert report["digest"] == digest
    assert {path.name for path in small.iterdir()} == {*description["files"], "bundle.json", "measure.py"}
    assert (small / "measure.py").read_bytes() == Path(measure.__file__).read_bytes()


def test_the_weights_of_one_graph_share_no_memory(small: Path) -> None:
    model = onnx.load(small / "0000.onnx", load_external_data=False)
    places: dict[str, list[tuple[int, int]]] = {}
    for weight in model.graph.initializer:
        entries = {entry.key: entry.value for entry in weight.external_data}
        start, size = int(entries["offset"]), int(entries["length"])
        assert size == 4 * int(np.prod(weight.dims))
        assert (small / entries["location"]).stat().st_size >= start + size
        places.setdefault(entries["location"], []).append((start, start + size))
    for ranges in places.values():
        assert all(end <= start for (_, end), (start, _) in zip(sorted(ranges), sorted(ranges)[1:], strict=False))
    sizes = [path.stat().st_size for path in small.glob("*.onnx")]
    assert max(sizes) < 100_000  # no weights of their own


def test_equal_arguments_give_an_equal_bundle(small: Path, tmp_path: Path) -> None:
    space = get_space("mobilenet_v3_tiny").with_num_classes(5)
    digest = write_bundle(space, tmp_path / "again", resolutions=resolutions_of(space)[:2])
    assert digest == sha256_file(small / "bundle.json")
    assert write_bundle(space, tmp_path / "other", resolutions=resolutions_of(space)[:2], batch=2) != digest


def test_the_properties_of_a_layer_are_counted_by_hand() -> None:
    space = get_space("mobilenet_v3_tiny")
    spec = next(spec for spec in space.all_layers() if spec.op == "mbconv" and spec.se_channels and spec.stride == 2)
    mid, before, after = spec.mid_channels, spec.in_size**2, spec.out_size**2
    outer = spec.in_channels * before + spec.out_channels * after
    assert layer_features(spec, batch=2) == pytest.approx(
        [
            1,
            5,
            1,
            2 * mid * outer / 1e6,
            0,
            2 * mid * after * spec.kernel**2 / 1e6,
            2 * 2 * mid * spec.se_channels / 1e6,
            2 * (mid * before + mid * after + spec.se_channels + mid + spec.out_channels * after) / 1e6,
            mid * (spec.in_channels + spec.kernel**2 + 2 * spec.se_channels + spec.out_channels) / 1e6,
        ]
    )


def test_what_cannot_be_written_is_refused(tmp_path: Path, space: SearchSpace) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(ConfigError, match="is not an empty folder; choose another, or remove it"):
        write_bundle(space, tmp_path)
    with pytest.raises(ConfigError, match="batch is 0; allowed: 1 or more"):
        write_bundle(space, tmp_path / "new", batch=0)
    with pytest.raises(ConfigError, match="has no resolution 17"):
        write_bundle(space, tmp_path / "new", resolutions=(17,))
    assert json.dumps([path.name for path in tmp_path.iterdir()]) == '["mine.txt"]'
