"""Which kind of predictor to trust, and how far: chosen by cross-validation, reported on held-out subnets."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from search.predictors.base import AccuracyPredictor
from search.predictors.fitting import FEWEST, KINDS, check_accuracies, fit_and_validate
from supernet.arch import SubnetConfig
from supernet.errors import ConfigError
from supernet.spaces import SearchSpace

HELD_OUT_SHARE = 0.2


@dataclass(frozen=True)
class PredictorScore:
    """How well one kind of predictor does.

    Attributes:
        cv_rmse, cv_kendall_tau: by cross-validation inside the fitted part; the choice is made by these.
        rmse: root mean squared error on the held-out subnets, in accuracy (0.01 is one percentage point).
        kendall_tau: rank correlation on the held-out subnets, in [-1, 1]; 0 where all values are equal.
    """

    cv_rmse: float
    cv_kendall_tau: float
    rmse: float
    kendall_tau: float


@dataclass(frozen=True)
class PredictorComparison:
    """What `compare_predictors` found.

    Attributes:
        chosen: the kind with the least cross-validated RMSE.
        scores: by kind.
        fitted, held_out: number of subnets in each part.
        standard_error: binomial standard error of one evaluation, as an estimate for new images, at the held-out
            subnets' mean accuracy. Subnets are measured on the same images, so their differences are surer than
            that, and an RMSE may be below it.
        tau_with_truth: what a predictor that knows the true accuracies would score, no bound, by the function of that
            name; None: not known.
        predictor: the chosen kind, fitted to the fitted part only: the one that `scores` are about.
    """

    chosen: str
    scores: Mapping[str, PredictorScore]
    fitted: int
    held_out: int
    standard_error: float
    tau_with_truth: float | None
    predictor: AccuracyPredictor

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, without the predictor itself."""
        return {
            "chosen": self.chosen,
            "scores": {kind: asdict(score) for kind, score in self.scores.items()},
            "fitted": self.fitted,
            "held_out": self.held_out,
            "standard_error": self.standard_error,
            "tau_with_truth": self.tau_with_truth,
        }


def compare_predictors(
    space: SearchSpace,
    configs: Sequence[SubnetConfig],
    accuracies: Sequence[float] | npt.NDArray[np.float64],
    *,
    images: int,
    halves: npt.NDArray[np.float64] | None = None,
    held_out_share: float = HELD_OUT_SHARE,
    seed: int = 0,
    details: Mapping[str, Any] | None = None,
) -> PredictorComparison:
    """Fit every kind of predictor and pick one.

    Args:
        space: the subnets' search space.
        configs: measured subnets, n.
        accuracies: their accuracies, (n,) in [0, 1].
        images: on how many images each was measured.
        halves: accuracies of subnets of this kind on two halves of the images, (any number, 2); None: not known.
        held_out_share: share of the subnets that no fit and no choice sees.
        seed: of the split and the fits.
        details: plain JSON facts to store with the predictor; the comparison is added to them.

    Raises:
        ConfigError: too few subnets for the split and the folds, or as `fit_predictor`.
    """
    targets = check_accuracies(configs, accuracies)
    if images < 1:
        raise ConfigError(f"images is {images}; give the number of images behind each accuracy, at least 1")
    if not 0 < held_out_share < 1:
        raise ConfigError(f"held_out_share is {held_out_share}; allowed: between 0 and 1, for example 0.2")
    order = np.random.default_rng(seed).permutation(len(configs))
    held_out, fitted = np.split(order, [require_enough(len(configs), held_out_share=held_out_share)])
    fitted_configs, held_out_configs = ([configs[i] for i in part] for part in (fitted, held_out))
    predictors: dict[str, AccuracyPredictor] = {}
    scores: dict[str, PredictorScore] = {}
    for kind in KINDS:
        predictors[kind], guesses = fit_and_validate(
            space, fitted_configs, targets[fitted], kind=kind, seed=seed, details={}
        )
        scores[kind] = PredictorScore(
            *_score(guesses, targets[fitted]),
            *_score(predictors[kind].predict(held_out_configs), targets[held_out]),
        )
    chosen = min(scores, key=lambda kind: scores[kind].cv_rmse)
    mean = float(targets[held_out].mean())
    found = PredictorComparison(
        chosen,
        scores,
        len(fitted),
        len(held_out),
        (mean * (1 - mean) / images) ** 0.5,
        None if halves is None else tau_with_truth(halves),
        predictors[chosen],
    )
    stored = {**(details or {}), **found.predictor.details, "comparison": found.to_dict()}
    return replace(found, predictor=replace(found.predictor, details=stored))


def tau_with_truth(halves: npt.NDArray[np.float64]) -> float | None:
    """The Kendall's tau between the subnets' evaluations and their true accuracies: what knowing the truth would score.

    No bound: a predictor is judged on the images that it was fitted to, and learns the part of the luck with them that
    follows from the genes, as where subnets with a gene in common fail on the same images.

    It follows from how well two halves of the images agree: tau of the halves -> their correlation r = sin(pi/2 tau)
    (as for a normal distribution) -> reliability of all images 2r / (1 + r) (Spearman, Brown) -> its square root is the
    correlation with the truth -> tau. The truth is what infinitely many such images would give.

    Args:
        halves: accuracies of n subnets, each on the same two halves, (n, 2).

    Returns:
        In [0, 1]; None with fewer than 20 subnets, or where a half does not tell any of them apart.
    """
    from scipy.stats import kendalltau

    if len(halves) < FEWEST or (np.ptp(halves, axis=0) == 0).any():
        return None
    agreement = float(np.sin(np.pi / 2 * kendalltau(halves[:, 0], halves[:, 1]).statistic))
    if agreement <= 0:
        return 0.0
    return float(2 / np.pi * np.arcsin(np.sqrt(2 * agreement / (1 + agreement))))


def require_enough(count: int, *, held_out_share: float = HELD_OUT_SHARE) -> int:
    """How many of `count` measured subnets are held out.

    Raises:
        ConfigError: too few would be left to fit.
    """
    held_out = max(2, round(held_out_share * count))
    if count - held_out < FEWEST:
        raise ConfigError(
            f"{count} measured subnets leave {count - held_out} to fit; at least {FEWEST} are needed; "
            f"measure {math.ceil(FEWEST / (1 - held_out_share))} subnets or more"
        )
    return held_out


def _score(guesses: npt.NDArray[Any], targets: npt.NDArray[np.float64]) -> tuple[float, float]:
    """RMSE and Kendall's tau."""
    from scipy.stats import kendalltau

    rmse = float(np.sqrt(np.mean((guesses - targets) ** 2)))
    if np.ptp(guesses) == 0 or np.ptp(targets) == 0:
        return rmse, 0.0
    return rmse, float(kendalltau(guesses, targets).statistic)
