"""Fixtures for all packages: small real runs, trained for a few steps on real images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from search import Evaluation, collect_evaluations, fit_predictor
from supernet.arch import SubnetConfig
from supernet.evaluation import measure_subnet
from supernet.runs import RunFolder
from supernet.spaces import SearchSpace, get_space
from supernet.training.data import ImageData, load_data
from supernet.training.recipes import PROGRESSIVE_STAGES, SMALL_IMAGES, build_stages
from supernet.training.settings import TrainingSettings
from supernet.training.trainer import exclusive, start_run, train


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Many small operations: more threads only wait for each other."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny() -> SearchSpace:
    return get_space("mobilenet_v3_tiny")


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def digits() -> ImageData:
    return load_data("digits")


@pytest.fixture(scope="session")
def few_digits(digits: ImageData) -> ImageData:
    """The digits with a quarter of the training part, so that an epoch is four steps of 64."""
    return replace(digits, train_images=digits.train_images[:280], train_labels=digits.train_labels[:280], digest="few")


@pytest.fixture(scope="session")
def short_settings(tiny: SearchSpace) -> TrainingSettings:
    """Every stage for one epoch of four steps, so that all of the recipe runs in seconds."""
    stages = build_stages("progressive", tiny, SMALL_IMAGES, epochs=dict.fromkeys(PROGRESSIVE_STAGES, 1))
    return TrainingSettings(tiny.name, stages, seed=1, batch_size=64, calibration_images=64, threads=1)


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory, few_digits: ImageData, short_settings: TrainingSettings) -> Path:
    """A completed run with a predictor; its networks are real but barely trained."""
    path = tmp_path_factory.mktemp("runs") / "digits"
    with exclusive(path):
        start_run(path, short_settings, few_digits, {"root": None, "size": 32})
        run = train(path, few_digits)
    net, pack = run.load_supernet(), run.images()

    def evaluate(config: SubnetConfig) -> Evaluation:
        measured = measure_subnet(net, config, pack)
        return Evaluation(config, measured.correct, measured.total)

    found = collect_evaluations(path, evaluate, space=run.space, count=24)
    accuracies = [evaluation.accuracy for evaluation in found]
    predictor = fit_predictor(run.space, [evaluation.config for evaluation in found], accuracies, kind="ridge")
    predictor.save(run.predictor_path)
    return RunFolder(path).path
