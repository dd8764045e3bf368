"""A small multi-layer perceptron on the one-hot features: sees interactions, if there are evaluations enough."""

from __future__ import annotations

import warnings

import numpy as np
import numpy.typing as npt

from search.encoding import GenotypeEncoder
from search.predictors.dense import Array, DenseStack

HIDDEN = (64, 64, 64)
PENALTY_PER_SUBNET = 0.025
"""L2 penalty over the number of subnets. A constant collapses to the mean with few subnets, or overfits with many."""


def fit_mlp(
    encoder: GenotypeEncoder, features: Array, accuracies: npt.NDArray[np.float64], seed: int
) -> tuple[DenseStack, ...]:
    """Fit three hidden layers by L-BFGS to standardised targets.

    The published predictor (3 x 400, Adam, 16,000 subnets) overfits with 100 to 1,000; L-BFGS on smaller layers with
    a strong penalty did as well as the best Adam settings tried, in a fraction of the time. Fitting the residual of a
    ridge instead did not beat the ridge: what is left of a few hundred noisy evaluations is mostly noise.

    Args:
        encoder: of the features; not used, here because every kind of predictor is fitted by the same call.
        features: float32 (n, features).
        accuracies: (n,) in [0, 1].
        seed: of the initial weights.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPRegressor

    mean, spread = float(accuracies.mean()), float(accuracies.std()) or 1.0
    model = MLPRegressor(
        hidden_layer_sizes=HIDDEN,
        solver="lbfgs",
        alpha=PENALTY_PER_SUBNET * len(accuracies),
        max_iter=300,
        random_state=seed,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # stopping early is part of the recipe
        model.fit(features.astype(np.float64), (accuracies - mean) / spread)
    stack = DenseStack(
        tuple(weight.astype(np.float32) for weight in model.coefs_),
        tuple(bias.astype(np.float32) for bias in model.intercepts_),
    )
    return (stack.rescaled(scale=spread, shift=mean),)
