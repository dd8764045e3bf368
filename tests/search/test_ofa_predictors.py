"""The reference's predictors, read by us, against the reference's own code."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from reference import MISSING, reference

from search import AccuracyPredictor, fit_predictor
from supernet import SubnetConfig, get_space
from supernet.errors import CheckpointError, ConfigError
from supernet.spaces import SearchSpace

pytest.importorskip("ofa", reason=MISSING)

PUBLISHED = Path(__file__).parents[3] / "shared" / "data" / "ofa" / "acc_predictor.pth"
SIDES = (128, 144, 160, 176, 192, 224, 240, 256)
KNOWN = {"mobilenet_v3_w1.2": (160, 176, 192, 208, 224), "resnet50": SIDES[:6]}


@pytest.fixture
def mobile() -> SearchSpace:
    return get_space("mobilenet_v3_w1.2")


def their_mobile() -> Any:
    return reference("tutorial.accuracy_predictor").AccuracyPredictor(pretrained=False, device="cpu")


def their_resnet() -> Any:
    module = reference("nas.accuracy_predictor")
    return module.AccuracyPredictor(module.ResNetArchEncoder(image_size_list=list(SIDES)), device="cpu")


def answers_for_mobile(theirs: Any, configs: list[SubnetConfig]) -> np.ndarray:
    population = [
        {
            # the reference takes values for blocks that are switched off, and ignores them
            "ks": [kernel or 7 for kernel in config.kernels],
            "e": [expand or 6 for expand in config.expands],
            "d": list(config.depths),
            "r": [config.resolution],
        }
        for config in configs
    ]
    return theirs.predict_accuracy(copy.deepcopy(population)).numpy()[:, 0]


def answers_for_resnet(theirs: Any, configs: list[SubnetConfig]) -> np.ndarray:
    settings = [
        {
            "d": list(config.depths),
            "e": [expand or 0.35 for expand in config.expands],
            "w": [(0.65, 0.8, 1.0).index(width) for width in config.widths],
            "image_size": config.resolution,
        }
        for config in configs
    ]
    with torch.no_grad():
        return theirs.predict_acc(settings).numpy()


def random_weights(theirs: Any, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    state = theirs.state_dict() if isinstance(theirs, torch.nn.Module) else theirs.model.state_dict()
    for tensor in state.values():
        scale = 0.3 if tensor.ndim == 1 else (2 / tensor.shape[1]) ** 0.5
        scale *= 0.1 if len(tensor) == 1 else 1  # the output: differences of the size that accuracies have
        tensor.copy_(scale * torch.randn(tensor.shape, generator=generator))
    return state


def known_subnets(space: SearchSpace, count: int = 1000) -> list[SubnetConfig]:
    rng = np.random.default_rng(7)
    return space.decode(space.sample_genotypes(rng, count, within={"resolution": KNOWN[space.name]}))


@pytest.mark.skipif(not PUBLISHED.exists(), reason="the published predictor is not beside this checkout")
def test_the_published_predictor_answers_as_in_the_reference_s_own_code(mobile: SearchSpace, tmp_path: Path) -> None:
    theirs = their_mobile()
    theirs.model.load_state_dict(torch.load(PUBLISHED, map_location="cpu", weights_only=True))
    configs = known_subnets(mobile)
    ours = AccuracyPredictor.load_ofa(PUBLISHED, mobile)
    expected = answers_for_mobile(theirs, configs)
    np.testing.assert_allclose(ours.predict(configs), expected, rtol=0, atol=1e-6)
    assert 0.6 < expected.min() < expected.max() < 0.9
    ours.save(tmp_path)
    loaded = AccuracyPredictor.load(tmp_path, space=mobile)
    np.testing.assert_array_equal(loaded.predict(configs), ours.predict(configs))
    assert loaded.resolutions == (160, 176, 192, 208, 224)


@pytest.mark.skipif(not PUBLISHED.exists(), reason="the published predictor is not beside this checkout")
def test_intervals_hold_where_the_published_predictor_is_the_truth(mobile: SearchSpace) -> None:
    oracle = AccuracyPredictor.load_ofa(PUBLISHED, mobile)
    with pytest.raises(ConfigError, match="came without residuals"):
        oracle.interval([mobile.largest()])
    configs, rng = known_subnets(mobile, 1200), np.random.default_rng(1)
    evaluated = oracle.predict(configs) + rng.normal(0, 0.0025, size=1200)  # 0.25 points
    fitted = fit_predictor(mobile, configs[:200], evaluated[:200], kind="pooled")
    low, high = fitted.interval(configs[200:])
    assert 0.85 <= np.mean((low <= evaluated[200:]) & (evaluated[200:] <= high)) <= 0.95
    assert (high - low).mean() < 0.02


@pytest.mark.parametrize(
    ("name", "build", "answers"),
    [
        ("mobilenet_v3_w1.2", their_mobile, answers_for_mobile),
        ("resnet50", their_resnet, answers_for_resnet),
    ],
)
@pytest.mark.parametrize("wrapped", [False, True])
def test_random_weights_answer_as_in_the_reference_s_own_code(
    tmp_path: Path, name: str, build: Callable[[], Any], answers: Callable[..., np.ndarray], wrapped: bool
) -> None:
    theirs = build()
    state = random_weights(theirs)
    torch.save({"state_dict": state} if wrapped else state, tmp_path / "theirs.pth")
    space = get_space(name)
    ours, configs = AccuracyPredictor.load_ofa(tmp_path / "theirs.pth", space), known_subnets(space)
    expected = answers(theirs, configs)
    assert expected.std() > 0.01  # else a forgotten input would not be seen
    np.testing.assert_allclose(ours.rank_genotypes(space.encode(configs)), expected, rtol=1e-6, atol=1e-6)
    ours.save(tmp_path)
    loaded = AccuracyPredictor.load(tmp_path, space=space)
    np.testing.assert_array_equal(loaded.predict(configs), ours.predict(configs))
    assert loaded.resolutions == ours.resolutions == KNOWN[name]
    assert loaded.details["imported"]["file"] == "theirs.pth"


def _saved(tmp_path: Path, **changes: Any) -> Path:
    """A mobile predictor's file with some tensors changed; None leaves one out."""
    state = random_weights(their_mobile()) | changes
    path = tmp_path / "changed.pth"
    torch.save({name: value for name, value in state.items() if value is not None}, path)
    return path


def test_a_resolution_that_the_predictor_does_not_know_is_refused_by_name(mobile: SearchSpace, tmp_path: Path) -> None:
    ours = AccuracyPredictor.load_ofa(_saved(tmp_path), mobile)
    subnets = mobile.decode(mobile.sample_genotypes(np.random.default_rng(0), 3, within={"resolution": (164,)}))
    known = known_subnets(mobile, 2)
    text = r"does not know resolution 128, 164; it knows: 160, 176, 192, 208, 224; choose one of these"
    with pytest.raises(ConfigError, match=text):
        ours.predict([*known, *subnets, mobile.smallest()])
    with pytest.raises(ConfigError, match=r"does not know resolution 164; it knows"):
        ours.predict_genotypes(mobile.encode(subnets))
    assert ours.predict(known).shape == (2,)
    assert ours.predict([]).shape == (0,)
    assert ours.rank_genotypes(mobile.encode(subnets)).shape == (3,)  # a search asks for what it keeps to itself


def test_a_file_with_faults_is_refused_with_all_of_them(mobile: SearchSpace, tmp_path: Path) -> None:
    path = _saved(
        tmp_path,
        **{
            "0.weight": torch.zeros(400, 127),
            "2.bias": torch.full((400,), float("nan")),
            "4.bias": None,
            "6.bias": torch.zeros(1, dtype=torch.int64),
            "8.bias": torch.zeros(1),
        },
    )
    with pytest.raises(CheckpointError, match=r"not the reference's .* 'mobilenet_v3_w1.2', 5 fault\(s\)") as caught:
        AccuracyPredictor.load_ofa(path, mobile)
    for text in (
        "0.weight is [400, 127], expected [400, 128]",
        "2.bias holds values that are not finite",
        "4.bias is missing",
        "6.bias is torch.int64",
        "8.bias is unknown",
        "fetch the file that the authors published",
    ):
        assert text in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_file_of_another_space_is_named(mobile: SearchSpace, tmp_path: Path) -> None:
    path = tmp_path / "theirs.pth"
    torch.save(random_weights(their_resnet()), path)
    with pytest.raises(CheckpointError, match=r"predictor for 'resnet50', not for 'mobilenet_v3_w1.2'; load it for"):
        AccuracyPredictor.load_ofa(path, mobile)
    text = r"no accuracy predictor for 'mobilenet_v3_w1.0'; it has some for: mobilenet_v3_w1.2, resnet50; fit one"
    with pytest.raises(ConfigError, match=text):
        AccuracyPredictor.load_ofa(path, get_space("mobilenet_v3_w1.0"))


class _Runs:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def test_a_pickle_with_code_is_refused_and_not_run(mobile: SearchSpace, tmp_path: Path) -> None:
    torch.save({"0.weight": _Runs(tmp_path / "mark")}, tmp_path / "bad.pth")
    with pytest.raises(CheckpointError, match="reading that could run code: refused"):
        AccuracyPredictor.load_ofa(tmp_path / "bad.pth", mobile)
    assert not (tmp_path / "mark").exists()
    with pytest.raises(CheckpointError, match="does not exist"):
        AccuracyPredictor.load_ofa(tmp_path / "absent.pth", mobile)


@pytest.mark.parametrize(
    ("resolutions", "text"),
    [
        ([], "is not a predictor"),
        (160, "is not a predictor"),
        ([165], r"knows resolutions \[165\]; expected some of 128, 132"),
        ([176, 160], r"knows resolutions \[176, 160\]"),
        ([[160]], r"knows resolutions \[\[160\]\]"),
    ],
)
def test_damaged_resolutions_are_refused(mobile: SearchSpace, tmp_path: Path, resolutions: object, text: str) -> None:
    AccuracyPredictor.load_ofa(_saved(tmp_path), mobile).save(tmp_path)
    path = tmp_path / "predictor.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"resolutions": resolutions}))
    with pytest.raises(CheckpointError, match=text):
        AccuracyPredictor.load(tmp_path)
