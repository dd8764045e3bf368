from __future__ import annotations

import ast
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
from scipy.optimize import nnls

from latency_tables import measure
from latency_tables.measure import VOUCHED, MeasureError, fit_rows, load_bundle, non_negative_least_squares

Noise = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]
PRICES = np.array([0.01, 0.02, 0.0, 0.05])


def _layers_of_subnets(
    rng: np.random.Generator, subnets: int = 120, layers: int = 60, each: int = 12
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which layers subnets have, layers' properties, and true costs that the properties explain but for 20 %."""
    held = np.zeros((subnets, layers))
    for row in held:
        row[rng.choice(layers, each, replace=False)] = 1
    features = np.column_stack([np.ones(layers), rng.gamma(2, size=(layers, 3))])
    costs = features @ PRICES * rng.uniform(0.8, 1.2, layers)
    return held, features, costs


def test_the_rows_of_additive_latencies_are_found(rng: np.random.Generator) -> None:
    held, features, costs = _layers_of_subnets(rng)
    rows, spreads, error = fit_rows(held, features, np.tile((held @ costs)[:, None], (5, 1, 4)))
    np.testing.assert_allclose(rows, costs, rtol=0.02)
    np.testing.assert_allclose(spreads, 0, atol=1e-9)
    assert error < 0.01


def test_rows_predict_unseen_subnets_from_noisy_rounds(rng: np.random.Generator) -> None:
    held, features, costs = _layers_of_subnets(rng, subnets=200)
    seen, unseen = held[:60], held[60:]
    visits = seen @ costs * rng.lognormal(0, 0.03, (9, 60))
    visits[2] *= 4  # another program, for all of a round
    rows, spreads, error = fit_rows(seen, features, np.repeat(visits[:, :, None], 4, axis=2))
    errors = np.abs(unseen @ rows / (unseen @ costs) - 1)
    assert np.median(errors) < 0.03
    assert np.median(errors) < np.median(
        np.abs(unseen @ features @ np.array([0.01, 0.02, 0.0, 0.05]) / (unseen @ costs) - 1)
    )
    assert 0.5 < error / np.median(errors) < 2  # what the fit says of itself
    assert (spreads > 0).all()


def _visits(costs: np.ndarray, noise: Noise, rng: np.random.Generator, rounds: int) -> np.ndarray:
    """(rounds, subnets, passes): each pass takes its subnet's cost times 1 + noise."""
    return costs[:, None] * (1 + noise(rng, (rounds, len(costs), measure.PASSES)))


def _quiet(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return 0.02 * rng.standard_normal(shape)


def _busy(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Another program takes the core in a fifth of the passes, for about as long as a subnet takes."""
    return 0.02 * rng.standard_normal(shape) + (rng.random(shape) < 0.2) * rng.exponential(size=shape)


@pytest.mark.parametrize("noise", [_quiet, _busy])
def test_percentiles_are_kept_by_single_passes_of_unseen_subnets(noise: Noise, rng: np.random.Generator) -> None:
    """They were of the quickest passes once: 81 % of busy ones were within p95, real ones even less."""
    held, features, costs = _layers_of_subnets(rng, subnets=160)
    seen, unseen = held[:120], held[120:]
    rows, spreads, _ = fit_rows(seen, features, _visits(seen @ costs, noise, rng, 30))
    passes = _visits(unseen @ costs, noise, rng, 300)
    for share in (0.75, 0.95):
        far = NormalDist().inv_cdf(share) / NormalDist().inv_cdf(0.75)  # as a table's cost model has it
        assert np.mean(passes <= (unseen @ (rows + far * spreads))[:, None]) > share - 0.03


def test_the_spread_of_a_network_reaches_its_passes_percentiles_and_the_figure_is_the_quickest() -> None:
    visits = np.array([[1.0, 3.0], [2.0, 9.0], [4.0, 5.0]])
    middle, spread = measure.typical_ms(visits)
    upper, far = np.quantile(visits, (0.75, 0.95))
    assert middle == 2
    assert spread == max(upper - 2, (far - 2) / 2.4387)
    assert VOUCHED[1][1] == pytest.approx(NormalDist().inv_cdf(0.95) / NormalDist().inv_cdf(0.75), abs=1e-4)
    assert [part.tolist() for part in measure.typical_ms(visits[:, None])] == [[middle], [spread]]


def test_no_row_is_below_its_least_share(rng: np.random.Generator) -> None:
    held, features, costs = _layers_of_subnets(rng)
    costs[:20] = 0
    rows, _, _ = fit_rows(held, features, np.tile((held @ costs)[:, None], (3, 1, 4)))
    assert rows.min() > 0
    np.testing.assert_allclose(held @ rows, held @ costs, rtol=0.25)


def test_non_negative_least_squares_equals_scipys(rng: np.random.Generator) -> None:
    for _ in range(5):
        matrix, target = rng.normal(size=(30, 6)), rng.normal(size=30)
        np.testing.assert_allclose(non_negative_least_squares(matrix, target), nnls(matrix, target)[0], atol=1e-7)


def test_a_visit_times_every_run_but_the_first() -> None:
    class Session:
        """Sleeps as told."""

        def __init__(self, seconds: list[float]) -> None:
            self.seconds = seconds

        def get_inputs(self) -> list[Session]:
            return [self]

        name = "images"

        def run(self, _: None, feed: dict[str, object]) -> None:
            assert list(feed) == ["images"]
            time.sleep(self.seconds.pop(0))

    times = measure.visit_ms(Session([0.3, 0.03, 0.01, 0.03, 0.03]), np.zeros(1))
    assert len(times) == 4
    assert 10 <= min(times) < 29
    assert max(times) < 290


def test_few_subnets_are_one_group_and_many_share_the_memory(
    monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    assert sorted(measure._groups([1000] * 10, rng)[0]) == list(range(10))
    monkeypatch.setattr(measure, "WEIGHT_BYTES_AT_ONCE", 2500)
    groups = measure._groups([1000] * 9 + [9999], rng)
    assert sorted(number for group in groups for number in group) == list(range(10))
    assert max(map(len, groups)) == 2
    assert [9] in groups


def test_the_script_is_python_of_3_8_and_needs_numpy_and_onnxruntime_only() -> None:
    tree = ast.parse(Path(measure.__file__).read_text(encoding="utf-8"), feature_version=(3, 8))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import)]
    names = {alias.name for node in imports for alias in node.names}
    names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    standard = {"__future__", "argparse", "datetime", "hashlib", "json", "os", "pathlib", "platform", "re", "sys"}
    assert names - standard - {"time", "typing"} == {"numpy", "onnxruntime"}


def test_the_work_and_its_duration_are_told_in_round_numbers() -> None:
    assert measure.work_words(1602, 33, 5) == "1602 subnets x 33 rounds x 5 passes: 264330 passes in all"
    told = [measure.duration_words(seconds) for seconds in (0.2, 100, 130, 7100, 7300)]
    assert told == [f"about {time} in all, by the first round" for time in ("1 s", "100 s", "2 min", "118 min", "2 h")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"cannot read '.*bundle.json': No such file or directory; is the bundle complete\?"),
        (b"{", "is no bundle's description"),
        (b"[]", "is no bundle's description"),
        (b'{"version": 1}', "is no bundle's description"),
        (
            b'{"format": "onceforall-latency-bundle", "version": 2}',
            "of version 2; expected 'onceforall-latency-bundle'",
        ),
    ],
)
def test_what_is_no_bundle_is_refused(tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "bundle.json").write_bytes(content)
    with pytest.raises(MeasureError, match=message):
        load_bundle(str(tmp_path))


def _description() -> dict[str, Any]:
    """That of a bundle of one subnet with one layer."""
    return {
        **{"format": "onceforall-latency-bundle", "version": 1, "onceforall": "0.1.0", "space": "one"},
        **{"num_classes": 10, "batch": 1, "files": {"0000.onnx": "0" * 64}},
        "layers": [{"layer": "a", "features": [1.0]}],
        "subnets": [{"file": "0000.onnx", "resolution": 16, "weight_bytes": 4, "layers": [0]}],
    }


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        *((name, ..., f"no '{name}'") for name in ("subnets", "layers", "files", "batch", "space", "num_classes")),
        ("onceforall", ..., "no 'onceforall'"),
        ("subnets.0.file", ..., "no 'file'"),
        ("layers.0.features", ..., "no 'features'"),
        ("batch", "1", "'batch' is no int"),
        ("subnets", {}, "'subnets' is no list"),
        ("subnets", [], "it has no layers or no subnets"),
        ("subnets", [7], "'int' object is not subscriptable"),
        ("subnets.0.resolution", "16", "'resolution' is no int"),
        ("subnets.0.weight_bytes", None, "'weight_bytes' is no int"),
        ("subnets.0.file", "../other.onnx", "'../other.onnx' is not among its 'files'"),
        ("layers.0.features", [[1.0]], "'features' are no numbers"),
        ("subnets.0.layers", [1], "'layers' of a subnet are not among its 'layers'"),
    ],
)
def test_a_description_without_what_is_used_of_it_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], path: str, value: object, message: str
) -> None:
    description = _description()
    *parents, last = path.split(".")
    place: Any = description
    for name in parents:
        place = place[int(name) if name.isdigit() else name]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    file = tmp_path / "bundle.json"
    file.write_text(json.dumps(description))
    assert measure.main(["--device", "a", "--bundle", str(tmp_path)]) == 2
    assert capsys.readouterr().err == (
        f"error: {str(file)!r} is no bundle's description ({message}); copy the bundle again\n"
    )


def test_a_damaged_or_incomplete_bundle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bundle.json").write_text(json.dumps(_description()))
    with pytest.raises(MeasureError, match=r"cannot read '.*0000.onnx'"):
        load_bundle(str(tmp_path))
    (tmp_path / "0000.onnx").write_bytes(b"x")
    with pytest.raises(MeasureError, match=r"0000.onnx' is damaged; copy the bundle to this device again"):
        load_bundle(str(tmp_path))


def test_wrong_arguments_are_told_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "--device",
        "My Phone",
        "--threads",
        "0",
        "--repeats",
        "0",
        "--warmup",
        "-1",
        "--bundle",
        str(tmp_path),
    ]
    assert measure.main(arguments) == 2
    text = capsys.readouterr().err
    assert text.startswith("error: cannot profile: device name 'My Phone'; allowed: ")
    for part in ("threads is 0; allowed: 1", "repeats is 0", "warmup is -1; allowed: 0 or more"):
        assert part in text
    assert len(text.splitlines()) == 1
