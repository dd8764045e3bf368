from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from scipy.stats import kendalltau
from search_truth import measured_accuracy, true_accuracy

from search import AccuracyPredictor, compare_predictors, fit_predictor
from search.predictors import DenseStack
from supernet import SubnetConfig, get_space
from supernet.errors import CheckpointError, ConfigError
from supernet.files import sha256_file
from supernet.spaces import SearchSpace

IMAGES = 2000


def measured(space: SearchSpace, count: int, seed: int = 1) -> tuple[list[SubnetConfig], np.ndarray]:
    rng = np.random.default_rng(seed)
    rows = space.sample_genotypes(rng, count)
    return space.decode(rows), measured_accuracy(rng, true_accuracy(space, rows), IMAGES)


@pytest.fixture(scope="module")
def fitted() -> dict[str, AccuracyPredictor]:
    space = get_space("mobilenet_v3_tiny")
    configs, accuracies = measured(space, 150)
    return {
        kind: fit_predictor(space, configs, accuracies, kind=kind, details={"data": "x"}) for kind in ("mlp", "ridge")
    }


@pytest.mark.parametrize(("kind", "least_tau"), [("mlp", 0.75), ("ridge", 0.75)])
def test_a_predictor_ranks_subnets_that_it_has_not_seen(
    fitted: dict[str, AccuracyPredictor], tiny: SearchSpace, kind: str, least_tau: float
) -> None:
    rows = tiny.sample_genotypes(np.random.default_rng(99), 500)
    truth = true_accuracy(tiny, rows)
    guesses = fitted[kind].predict_genotypes(rows)
    assert kendalltau(guesses, truth).statistic > least_tau
    # better than always answering the mean
    assert np.sqrt(np.mean((guesses - truth) ** 2)) < 0.5 * truth.std()


@pytest.mark.parametrize("kind", ["mlp", "ridge"])
def test_numpy_inference_equals_scikit_learn_s(tiny: SearchSpace, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from sklearn.linear_model import RidgeCV
    from sklearn.neural_network import MLPRegressor

    models = []
    for cls in (RidgeCV, MLPRegressor):
        original = cls.fit
        monkeypatch.setattr(
            cls, "fit", lambda self, x, y, original=original: models.append((self, y)) or original(self, x, y)
        )
    configs, accuracies = measured(tiny, 60)
    predictor = fit_predictor(tiny, configs, accuracies, kind=kind)
    model, targets = models[0]
    features = predictor.encoder.features(tiny.encode(configs)).astype(np.float64)
    expected = model.predict(features)
    if kind == "mlp":
        assert targets.mean() == pytest.approx(0, abs=1e-9)
        assert targets.std() == pytest.approx(1)
        expected = expected * accuracies.std() + accuracies.mean()
    np.testing.assert_allclose(predictor.rank_genotypes(tiny.encode(configs)), expected, atol=2e-6)


def test_predictions_lie_in_0_to_1_but_ranks_are_not_cut_off(tiny: SearchSpace) -> None:
    features = 77
    stack = DenseStack((np.full((features, 1), 0.1, np.float32),), (np.zeros(1, np.float32),))
    predictor = AccuracyPredictor(tiny, "ridge", (stack,))
    configs = [tiny.smallest(), tiny.largest()]  # 13 and 25 features are on
    np.testing.assert_allclose(predictor.predict(configs), [1, 1])
    np.testing.assert_allclose(predictor.rank_genotypes(tiny.encode(configs)), [1.3, 2.5], rtol=1e-6)
    assert predictor.predict([]).shape == (0,)


def test_the_outputs_of_several_stacks_are_summed_whatever_the_number_of_rows(tiny: SearchSpace) -> None:
    rng = np.random.default_rng(0)
    stacks = tuple(
        DenseStack(
            (rng.normal(size=(77, 5)).astype(np.float32), rng.normal(size=(5, 1)).astype(np.float32)),
            (rng.normal(size=5).astype(np.float32), rng.normal(size=1).astype(np.float32)),
        )
        for _ in range(2)
    )
    predictor = AccuracyPredictor(tiny, "mlp", stacks)
    rows = tiny.sample_genotypes(rng, 9000)  # more than one slice
    x = predictor.encoder.features(rows).astype(np.float64)
    expected = sum(np.maximum(x @ s.weights[0] + s.biases[0], 0) @ s.weights[1] + s.biases[1] for s in stacks)
    np.testing.assert_allclose(predictor.rank_genotypes(rows), expected[:, 0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["mlp", "ridge"])
def test_a_saved_predictor_loads_to_equal_predictions(
    fitted: dict[str, AccuracyPredictor], tiny: SearchSpace, tmp_path: Path, kind: str
) -> None:
    fitted[kind].save(tmp_path / "predictor")
    loaded = AccuracyPredictor.load(tmp_path / "predictor", space=tiny)
    rows = tiny.sample_genotypes(np.random.default_rng(0), 50)
    np.testing.assert_array_equal(loaded.predict_genotypes(rows), fitted[kind].predict_genotypes(rows))
    assert loaded.kind == kind
    assert loaded.details == fitted[kind].details == {"data": "x", "subnets": 150, "seed": 0}
    assert sorted(path.name for path in (tmp_path / "predictor").iterdir()) == [
        "predictor.json",
        "predictor.safetensors",
    ]


def test_equal_seeds_fit_equal_predictors_and_others_do_not(tiny: SearchSpace) -> None:
    configs, accuracies = measured(tiny, 40)
    first, again, other = (fit_predictor(tiny, configs, accuracies, kind="mlp", seed=seed) for seed in (5, 5, 6))
    np.testing.assert_array_equal(first.predict(configs), again.predict(configs))
    assert not np.array_equal(first.predict(configs), other.predict(configs))


@pytest.mark.parametrize("kind", ["mlp", "ridge"])
def test_equal_accuracies_are_predicted_as_they_are(tiny: SearchSpace, kind: str) -> None:
    configs, _ = measured(tiny, 30)
    predictor = fit_predictor(tiny, configs, [0.5] * 30, kind=kind)
    np.testing.assert_allclose(predictor.predict(configs), 0.5, atol=1e-3)


def test_a_predictor_of_another_space_is_refused_by_both_names(
    fitted: dict[str, AccuracyPredictor], toy: SearchSpace, tmp_path: Path
) -> None:
    fitted["ridge"].save(tmp_path)
    with pytest.raises(ConfigError, match=r"fitted for 'mobilenet_v3_tiny', not for 'toy_for_search'; fit one"):
        AccuracyPredictor.load(tmp_path, space=toy)
    with pytest.raises(ConfigError, match=r"belongs to space 'toy_for_search', not to 'mobilenet_v3_tiny'"):
        fitted["ridge"].predict([toy.largest()])


def _change(folder: Path, **changes: object) -> None:
    path = folder / "predictor.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _swap_tensors(folder: Path, **tensors: np.ndarray) -> None:
    """Write other weights, with a digest that fits them."""
    path = folder / "predictor.safetensors"
    save_file({**load_file(path), **tensors}, path)
    _change(folder, weights={"file": path.name, "sha256": sha256_file(path)})


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda f: (f / "predictor.json").unlink(), "does not exist"),
        (lambda f: (f / "predictor.json").write_text("{"), "not readable JSON"),
        (lambda f: (f / "predictor.json").write_text("[]"), "has format 'list'; expected 'onceforall.predictor/1'"),
        (lambda f: _change(f, format="other/9"), "has format 'other/9'"),
        (lambda f: _change(f, weights=None), "lacks a field"),
        (lambda f: _change(f, layers=[1e9]), "is not a predictor"),
        (lambda f: _change(f, layers=[]), "is not a predictor"),
        (lambda f: _change(f, layers=[2]), r"tensors missing or unknown: 0.1.bias, 0.1.weight"),
        (lambda f: _change(f, encoding={"digest": "0"}), "another encoding of 'mobilenet_v3_tiny'"),
        (lambda f: (f / "predictor.safetensors").unlink(), "cannot read"),
        (lambda f: (f / "predictor.safetensors").write_bytes(b"x"), "has SHA-256"),
        (lambda f: _swap_tensors(f, more=np.zeros(1, np.float32)), "unknown: more"),
        (lambda f: _swap_tensors(f, **{"0.0.weight": np.full((77, 1), np.nan, np.float32)}), "not finite"),
        (lambda f: _swap_tensors(f, **{"0.0.weight": np.zeros((76, 1), np.float32)}), "takes 76 features; expected 77"),
        (lambda f: _swap_tensors(f, **{"0.0.weight": np.zeros((77, 1))}), "expected float32"),
        (lambda f: _swap_tensors(f, **{"0.0.weight": np.zeros(77, np.float32)}), "has shapes"),
    ],
)
def test_a_damaged_predictor_is_refused_with_the_reason(
    fitted: dict[str, AccuracyPredictor], tmp_path: Path, damage, text: str
) -> None:
    fitted["ridge"].save(tmp_path)
    damage(tmp_path)
    with pytest.raises(CheckpointError, match=text) as caught:
        AccuracyPredictor.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_weights_that_are_no_safetensors_file_are_refused(fitted: dict[str, AccuracyPredictor], tmp_path: Path) -> None:
    fitted["ridge"].save(tmp_path)
    path = tmp_path / "predictor.safetensors"
    path.write_bytes(b"\xff" * 100)
    _change(tmp_path, weights={"sha256": sha256_file(path)})
    with pytest.raises(CheckpointError, match="is not a safetensors file"):
        AccuracyPredictor.load(tmp_path)


@pytest.mark.parametrize(
    ("count", "accuracies", "kind", "text"),
    [
        (30, [0.5] * 29, "ridge", r"30 subnets came with accuracies of shape \(29,\)"),
        (30, [0.5] * 29 + [float("nan")], "ridge", "accuracy nan of subnet 29"),
        (30, [55.0] * 30, "ridge", r"accuracy 55.0 of subnet 0 \(and 29 more faults\); allowed: 0 to 1"),
        (19, [0.5] * 19, "ridge", "19 measured subnets are too few for a predictor; measure at least 20"),
        (30, [0.5] * 30, "forest", "unknown kind of predictor 'forest'; allowed: mlp, ridge"),
    ],
)
def test_evaluations_that_cannot_be_fitted_are_refused(
    tiny: SearchSpace, count: int, accuracies: list[float], kind: str, text: str
) -> None:
    with pytest.raises(ConfigError, match=text):
        fit_predictor(tiny, measured(tiny, count)[0], accuracies, kind=kind)


def test_the_comparison_reports_held_out_subnets_and_keeps_the_predictor_that_it_reports(tiny: SearchSpace) -> None:
    configs, accuracies = measured(tiny, 125)
    result = compare_predictors(tiny, configs, accuracies, images=IMAGES, seed=3)
    assert (result.fitted, result.held_out) == (100, 25)
    assert result.chosen == min(result.scores, key=lambda kind: result.scores[kind].cv_rmse)
    held_out = np.random.default_rng(3).permutation(125)[:25]
    guesses = result.predictor.predict([configs[i] for i in held_out])
    score = result.scores[result.chosen]
    assert score.rmse == pytest.approx(np.sqrt(np.mean((guesses - accuracies[held_out]) ** 2)))
    assert score.kendall_tau == pytest.approx(kendalltau(guesses, accuracies[held_out]).statistic)
    mean = accuracies[held_out].mean()
    assert result.standard_error == pytest.approx(np.sqrt(mean * (1 - mean) / IMAGES))
    assert result.predictor.details["comparison"] == result.to_dict()
    assert json.loads(json.dumps(result.to_dict())) == result.to_dict()


def test_the_choice_does_not_look_at_the_held_out_subnets(tiny: SearchSpace) -> None:
    configs, accuracies = measured(tiny, 25)
    held_out = np.random.default_rng(0).permutation(25)[:5]
    spoilt = accuracies.copy()
    spoilt[held_out] = 0.01
    honest, other = (compare_predictors(tiny, configs, values, images=IMAGES) for values in (accuracies, spoilt))
    assert honest.chosen == other.chosen
    for kind, score in honest.scores.items():
        assert score.cv_rmse == other.scores[kind].cv_rmse
        assert score.rmse < other.scores[kind].rmse
    np.testing.assert_array_equal(honest.predictor.predict(configs), other.predictor.predict(configs))


@pytest.mark.parametrize(
    ("count", "options", "text"),
    [
        (24, {"images": 10}, "24 measured subnets leave 19 to fit; at least 20 are needed"),
        (40, {"images": 0}, "images is 0"),
        (40, {"images": 10, "held_out_share": 1.0}, "held_out_share is 1.0; allowed: between 0 and 1"),
    ],
)
def test_a_comparison_that_cannot_be_made_is_refused(
    tiny: SearchSpace, count: int, options: dict[str, float], text: str
) -> None:
    with pytest.raises(ConfigError, match=text):
        compare_predictors(tiny, *measured(tiny, count), **options)


def test_importing_search_loads_neither_torch_nor_scikit_learn() -> None:
    code = "import sys, search; print([name for name in ('torch', 'sklearn', 'scipy') if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
