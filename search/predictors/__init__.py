"""Accuracy predictors: what they compute, how they are fitted, which to trust."""

from search.predictors.base import AccuracyPredictor
from search.predictors.compare import PredictorComparison, PredictorScore, compare_predictors, tau_with_truth
from search.predictors.dense import DenseStack
from search.predictors.fitting import fit_predictor

__all__ = [
    "AccuracyPredictor",
    "DenseStack",
    "PredictorComparison",
    "PredictorScore",
    "compare_predictors",
    "fit_predictor",
    "tau_with_truth",
]
