"""Ridge regression on the one-hot features: few parameters, hard to beat with a few hundred evaluations."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from search.encoding import GenotypeEncoder
from search.predictors.dense import Array, DenseStack

ALPHAS = tuple(float(alpha) for alpha in np.logspace(-3, 3, 13))
"""Penalties that are tried; the one with the least leave-one-out error is taken."""


def fit_ridge(
    encoder: GenotypeEncoder, features: Array, accuracies: npt.NDArray[np.float64], seed: int
) -> tuple[DenseStack, ...]:
    """Fit a linear model.

    Args:
        encoder: of the features; not used.
        features: float32 (n, features).
        accuracies: (n,) in [0, 1].
        seed: not used, the solution is exact; here, as `encoder`, because every kind is fitted by the same call.
    """
    from sklearn.linear_model import RidgeCV

    model = RidgeCV(ALPHAS).fit(features.astype(np.float64), accuracies)
    weight = model.coef_.astype(np.float32).reshape(-1, 1)
    return (DenseStack((weight,), (np.array([model.intercept_], dtype=np.float32),)),)
