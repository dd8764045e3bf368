"""Fit an accuracy predictor to measured subnets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from search.encoding import GenotypeEncoder
from search.predictors.base import AccuracyPredictor
from search.predictors.dense import Array, DenseStack
from search.predictors.mlp import fit_mlp
from search.predictors.pooled import fit_pooled
from search.predictors.ridge import fit_ridge
from search.threads import one_blas_thread
from supernet.arch import SubnetConfig
from supernet.errors import ConfigError, one_of
from supernet.spaces import SearchSpace

Accuracies = npt.NDArray[np.float64]
Fit = Callable[[GenotypeEncoder, Array, Accuracies, int], tuple[DenseStack, ...]]
KINDS: Mapping[str, Fit] = MappingProxyType({"mlp": fit_mlp, "ridge": fit_ridge, "pooled": fit_pooled})
"""The methods, by name: (encoder, features, accuracies, seed) -> fitted stacks, whose outputs are summed."""

FOLDS = 5
"""Parts that cross-validation leaves out in turn."""

FEWEST = 20
"""Subnets below which a fit is refused: less than one a gene of the smallest space says nothing about most genes."""


def fit_predictor(
    space: SearchSpace,
    configs: Sequence[SubnetConfig],
    accuracies: Sequence[float] | Accuracies,
    *,
    kind: str = "mlp",
    seed: int = 0,
    details: Mapping[str, Any] = MappingProxyType({}),
) -> AccuracyPredictor:
    """Fit one kind of predictor, and cross-validate it for its intervals.

    Args:
        space: the subnets' search space.
        configs: measured subnets, n.
        accuracies: their accuracies, (n,) in [0, 1].
        kind: a name in `KINDS`.
        seed: of the initial weights; equal seeds and data give equal predictors.
        details: plain JSON facts to store with the predictor (data, digests), beside what this function adds.

    Raises:
        ConfigError: unknown kind; fewer than `FEWEST` subnets; lengths that differ; an accuracy outside of [0, 1]; a
            subnet of another space.
    """
    return fit_and_validate(space, configs, accuracies, kind=kind, seed=seed, details=details)[0]


def fit_and_validate(
    space: SearchSpace,
    configs: Sequence[SubnetConfig],
    accuracies: Sequence[float] | Accuracies,
    *,
    kind: str,
    seed: int,
    details: Mapping[str, Any],
) -> tuple[AccuracyPredictor, Accuracies]:
    """As `fit_predictor`; also each subnet's accuracy as a fit without it (and others) predicts it, (n,)."""
    if kind not in KINDS:
        raise ConfigError(one_of("kind of predictor", kind, list(KINDS)))
    targets = check_accuracies(configs, accuracies)
    encoder = GenotypeEncoder(space)
    features = encoder.features(space.encode(configs))
    guesses = np.empty(len(targets))
    with one_blas_thread():
        stacks = KINDS[kind](encoder, features, targets, seed)
        for fold in np.array_split(np.random.default_rng(seed).permutation(len(targets)), FOLDS):
            others = KINDS[kind](encoder, np.delete(features, fold, axis=0), np.delete(targets, fold), seed)
            guesses[fold] = sum(stack(features[fold]) for stack in others)
    residuals = np.sort(np.abs(guesses - targets)).astype(np.float32)
    stored = {**details, "subnets": len(configs), "seed": seed}
    return AccuracyPredictor(space, kind, stacks, stored, residuals=residuals), guesses


def check_accuracies(configs: Sequence[SubnetConfig], accuracies: Sequence[float] | Accuracies) -> Accuracies:
    """The accuracies as float64 (n,), one a config; raises as `fit_predictor`."""
    targets = np.asarray(accuracies, dtype=np.float64)
    if targets.shape != (len(configs),):
        raise ConfigError(f"{len(configs)} subnets came with accuracies of shape {targets.shape}; give one a subnet")
    wrong = np.flatnonzero(~((targets >= 0) & (targets <= 1)))  # NaN is neither
    if len(wrong):
        raise ConfigError(
            f"accuracy {targets[wrong[0]]} of subnet {wrong[0]} (and {len(wrong) - 1} more faults); "
            "allowed: 0 to 1; measure these subnets again"
        )
    if len(configs) < FEWEST:
        raise ConfigError(f"{len(configs)} measured subnets are too few for a predictor; measure at least {FEWEST}")
    return targets
