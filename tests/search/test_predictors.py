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

from search import AccuracyPredictor, GenotypeEncoder, compare_predictors, fit_predictor, tau_with_truth
from search.predictors import DenseStack
from search.predictors.fitting import KINDS
from search.predictors.pooled import shared_parts, stage_levels
from supernet import SubnetConfig, get_space
from supernet.errors import CheckpointError, ConfigError
from supernet.files import sha256_file
from supernet.spaces import SearchSpace

IMAGES = 2000
LATER_FIELDS = ("activations", "resolutions")


def measured(space: SearchSpace, count: int, seed: int = 1) -> tuple[list[SubnetConfig], np.ndarray]:
    rng = np.random.default_rng(seed)
    rows = space.sample_genotypes(rng, count)
    return space.decode(rows), measured_accuracy(rng, true_accuracy(space, rows), IMAGES)


@pytest.fixture(scope="module")
def fitted() -> dict[str, AccuracyPredictor]:
    space = get_space("mobilenet_v3_tiny")
    configs, accuracies = measured(space, 150)
    return {kind: fit_predictor(space, configs, accuracies, kind=kind, details={"data": "x"}) for kind in KINDS}


@pytest.mark.parametrize(("kind", "least_tau"), [("mlp", 0.75), ("ridge", 0.75), ("pooled", 0.88)])
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


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_predictor_loads_to_equal_predictions(
    fitted: dict[str, AccuracyPredictor], tiny: SearchSpace, tmp_path: Path, kind: str
) -> None:
    fitted[kind].save(tmp_path / "predictor")
    loaded = AccuracyPredictor.load(tmp_path / "predictor", space=tiny)
    rows = tiny.sample_genotypes(np.random.default_rng(0), 50)
    np.testing.assert_array_equal(loaded.predict_genotypes(rows), fitted[kind].predict_genotypes(rows))
    assert loaded.kind == kind
    configs = tiny.decode(rows)
    np.testing.assert_array_equal(loaded.interval(configs), fitted[kind].interval(configs))
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


@pytest.mark.parametrize("kind", KINDS)
def test_equal_accuracies_are_predicted_as_they_are(tiny: SearchSpace, kind: str) -> None:
    configs, _ = measured(tiny, 30)
    predictor = fit_predictor(tiny, configs, [0.5] * 30, kind=kind)
    np.testing.assert_allclose(predictor.predict(configs), 0.5, atol=1e-3)


def test_a_predictor_of_an_earlier_version_loads(
    fitted: dict[str, AccuracyPredictor], tiny: SearchSpace, tmp_path: Path
) -> None:
    fitted["mlp"].save(tmp_path)
    path = tmp_path / "predictor.json"
    document = {name: value for name, value in json.loads(path.read_text()).items() if name not in LATER_FIELDS}
    tensors = load_file(tmp_path / "predictor.safetensors")
    del tensors["residuals"]
    save_file(tensors, tmp_path / "predictor.safetensors")
    document["weights"]["sha256"] = sha256_file(tmp_path / "predictor.safetensors")
    path.write_text(json.dumps(document))
    loaded = AccuracyPredictor.load(tmp_path)
    configs = [tiny.smallest(), tiny.largest()]
    np.testing.assert_array_equal(loaded.predict(configs), fitted["mlp"].predict(configs))
    with pytest.raises(ConfigError, match=r"\('mlp' for 'mobilenet_v3_tiny'\) came without residuals.*; fit one to"):
        loaded.interval(configs)


def test_pooled_weights_rank_as_well_as_a_ridge_with_twice_the_evaluations(tiny: SearchSpace) -> None:
    rows = tiny.sample_genotypes(np.random.default_rng(98), 1000)
    truth = true_accuracy(tiny, rows)
    taus = {"pooled": [], "ridge": []}
    for seed in range(3):
        for kind, count in (("pooled", 100), ("ridge", 200)):
            predictor = fit_predictor(tiny, *measured(tiny, count, seed), kind=kind)
            taus[kind].append(kendalltau(predictor.predict_genotypes(rows), truth).statistic)
    assert np.mean(taus["pooled"]) > np.mean(taus["ridge"])


def test_pooled_weights_find_a_quadratic_truth_of_the_stages(tiny: SearchSpace) -> None:
    """Without noise, what the model can express exactly is found nearly exactly."""
    encoder, rng = GenotypeEncoder(tiny), np.random.default_rng(0)
    rows = tiny.sample_genotypes(rng, 600)
    features = encoder.features(rows).astype(np.float64)
    levels = features @ stage_levels(encoder)
    direction = rng.normal(size=levels.shape[1])
    truth = 0.5 + 0.05 * features @ rng.normal(size=features.shape[1]) / 5 - 0.01 * (levels @ direction) ** 2
    assert 0 < truth.min() < truth.max() < 1
    predictor = fit_predictor(tiny, tiny.decode(rows[:400]), truth[:400], kind="pooled")
    errors = predictor.predict_genotypes(rows[400:]) - truth[400:]
    assert np.sqrt(np.mean(errors**2)) < 0.05 * truth.std()


@pytest.mark.parametrize("name", ["mobilenet_v3_w1.2", "proxyless_w1.3", "resnet50", "mobilenet_v3_tiny"])
def test_blocks_share_weights_within_their_stage_alone(name: str) -> None:
    """The blocks' stages are guessed from which depth adds which block; the layer sites know them."""
    space = get_space(name)
    encoder = GenotypeEncoder(space)
    stage_of = {
        gene: site.name.rpartition("_block")[0]
        for site in space.sites
        if "_block" in site.name and site.name.startswith("stage")
        for gene in site.genes
        if space.dimensions[gene].kind in ("kernel", "expand")
    }
    level = stage_levels(encoder)
    for column in level.T:
        genes = {gene for gene in encoder.gene_of_feature[column != 0].tolist() if gene in stage_of}
        assert len({stage_of[gene] for gene in genes}) <= 1
    mean_levels = [column for column in level.T if {*encoder.gene_of_feature[column != 0]} & {*stage_of}]
    kinds = {space.dimensions[gene].kind for gene in stage_of}
    optional = {dim.needs_depth[0] for dim in space.dimensions if dim.needs_depth}
    assert len(mean_levels) == len(kinds) * len(set(stage_of.values())) + len(optional)
    assert all(part.shape[0] == len(encoder.names) for part in shared_parts(encoder))


def test_the_resnet_space_is_fitted_too() -> None:
    space = get_space("resnet50")
    rng = np.random.default_rng(0)
    rows = space.sample_genotypes(rng, 300)
    truth = true_accuracy(space, rows)
    noisy = measured_accuracy(rng, truth, IMAGES)
    predictor = fit_predictor(space, space.decode(rows[:100]), noisy[:100], kind="pooled")
    assert kendalltau(predictor.predict_genotypes(rows[100:]), truth[100:]).statistic > 0.8


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("coverage", [0.8, 0.9])
def test_intervals_cover_evaluations_of_unseen_subnets_as_often_as_asked(
    fitted: dict[str, AccuracyPredictor], tiny: SearchSpace, kind: str, coverage: float
) -> None:
    configs, accuracies = measured(tiny, 2000, seed=50)
    low, high = fitted[kind].interval(configs, coverage=coverage)
    share = np.mean((low <= accuracies) & (accuracies <= high))
    assert coverage - 0.05 <= share <= coverage + 0.06
    assert low.dtype == high.dtype == np.float32
    assert (high - low).max() < 0.15


def test_intervals_stay_in_0_to_1_and_are_all_of_it_where_residuals_are_too_few(tiny: SearchSpace) -> None:
    configs, accuracies = measured(tiny, 25)
    predictor = fit_predictor(tiny, configs, accuracies, kind="ridge")
    subnets = [tiny.smallest(), tiny.largest()]
    low, high = predictor.interval(subnets, coverage=0.97)  # ceil(26 * 0.97) = 26 of 25 residuals
    assert (low.tolist(), high.tolist()) == ([0, 0], [1, 1])
    low, high = predictor.interval(subnets, coverage=0.96)  # ceil(26 * 0.96) = 25: the largest
    assert predictor.residuals is not None
    np.testing.assert_allclose(high - low, 2 * predictor.residuals.max(), rtol=1e-5)


@pytest.mark.parametrize("coverage", [0, 1, -0.5, float("nan")])
def test_a_coverage_outside_of_0_to_1_is_refused(
    fitted: dict[str, AccuracyPredictor], tiny: SearchSpace, coverage: float
) -> None:
    with pytest.raises(ConfigError, match=r"coverage is .*; allowed: between 0 and 1"):
        fitted["ridge"].interval([tiny.smallest()], coverage=coverage)


def test_a_stack_of_squares_computes_them(tiny: SearchSpace) -> None:
    rng = np.random.default_rng(0)
    weights = (rng.normal(size=(77, 3)).astype(np.float32), rng.normal(size=(3, 1)).astype(np.float32))
    biases = (rng.normal(size=3).astype(np.float32), rng.normal(size=1).astype(np.float32))
    x = rng.integers(0, 2, size=(40, 77)).astype(np.float32)
    expected = (x @ weights[0] + biases[0]) ** 2 @ weights[1] + biases[1]
    np.testing.assert_allclose(DenseStack(weights, biases, "square")(x), expected[:, 0], rtol=1e-5, atol=1e-5)


def test_a_predictor_is_for_the_classes_that_it_was_fitted_for(tiny: SearchSpace, tmp_path: Path) -> None:
    wide = tiny.with_num_classes(100)
    fit_predictor(wide, *measured(tiny, 30), kind="ridge").save(tmp_path)
    assert AccuracyPredictor.load(tmp_path).space == AccuracyPredictor.load(tmp_path, space=wide).space == wide
    with pytest.raises(ConfigError, match="'mobilenet_v3_tiny' with 100 classes, not for 'mobilenet_v3_tiny' with 10 "):
        AccuracyPredictor.load(tmp_path, space=tiny)
    _change(tmp_path, num_classes=None)  # as from before it was written down
    assert AccuracyPredictor.load(tmp_path).space == AccuracyPredictor.load(tmp_path, space=tiny).space == tiny
    assert AccuracyPredictor.load(tmp_path, space=wide).space == wide
    _change(tmp_path, num_classes=1)
    with pytest.raises(CheckpointError, match="is not a predictor"):
        AccuracyPredictor.load(tmp_path)


def test_a_predictor_of_imagenet_is_refused_for_other_classes(tmp_path: Path) -> None:
    space = get_space("mobilenet_v3_w1.2").with_num_classes(10)
    with pytest.raises(ConfigError, match="for the 1000 classes of ImageNet, not for 10; fit one to your own run"):
        AccuracyPredictor.load_ofa(tmp_path / "acc_predictor.pth", space)


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
        (lambda f: _change(f, activations=["sine"]), "is not a predictor"),
        (
            lambda f: _swap_tensors(f, residuals=np.float32([0.2, 0.1])),
            r"residuals are float32 \[2\]; expected float32, asc",
        ),
        (lambda f: _swap_tensors(f, residuals=np.float32([-0.1])), "residuals are"),
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
        (30, [0.5] * 30, "forest", "unknown kind of predictor 'forest'; allowed: mlp, ridge, pooled"),
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


@pytest.mark.parametrize(("images", "least"), [(200, 0.5), (2000, 0.7)])
def test_the_tau_with_the_truth_follows_from_two_halves_of_the_images(
    tiny: SearchSpace, images: int, least: float
) -> None:
    rng = np.random.default_rng(6)
    truth = true_accuracy(tiny, tiny.sample_genotypes(rng, 3000))
    halves = np.stack([measured_accuracy(rng, truth, images // 2) for _ in range(2)], axis=1)
    found = tau_with_truth(halves)
    assert found is not None
    assert found == pytest.approx(kendalltau(truth, halves.mean(axis=1)).statistic, abs=0.03)
    assert least < found < 1


def test_a_predictor_can_score_more_than_the_truth_where_luck_follows_from_the_genes(tiny: SearchSpace) -> None:
    rng = np.random.default_rng(2)
    rows = tiny.sample_genotypes(rng, 100)
    features = GenotypeEncoder(tiny).features(rows)
    truth, *luck = (features @ rng.normal(0, 0.01, features.shape[1]) for _ in range(3))
    halves = 0.5 + np.stack([truth + one for one in luck], axis=1)
    found = compare_predictors(tiny, tiny.decode(rows), halves.mean(axis=1), images=IMAGES, halves=halves)
    assert found.tau_with_truth is not None
    assert found.tau_with_truth + 0.1 < found.scores[found.chosen].kendall_tau


def test_the_tau_with_the_truth_is_0_for_chance_and_none_where_nothing_can_be_told() -> None:
    rng = np.random.default_rng(0)
    chance = np.stack([np.arange(50), -np.arange(50)], axis=1) / 50
    assert tau_with_truth(chance) == 0
    assert tau_with_truth(np.repeat(rng.random((40, 1)), 2, axis=1)) == pytest.approx(1)
    assert tau_with_truth(rng.random((19, 2))) is None
    assert tau_with_truth(np.stack([np.ones(30), rng.random(30)], axis=1)) is None
    assert tau_with_truth(np.empty((0, 2))) is None


def test_the_comparison_reports_the_tau_with_the_truth_beside_the_scores(tiny: SearchSpace) -> None:
    configs, accuracies = measured(tiny, 30)
    halves = np.stack([accuracies, accuracies], axis=1)
    found = compare_predictors(tiny, configs, accuracies, images=IMAGES, halves=halves)
    assert found.to_dict()["tau_with_truth"] == pytest.approx(1)
    assert compare_predictors(tiny, configs, accuracies, images=IMAGES).tau_with_truth is None


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
