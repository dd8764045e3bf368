"""How to find a subnet under a budget: accuracy predictors, the evaluations that they learn from, and searches."""

from __future__ import annotations

from search.candidate import Candidate, NoSubnetError, TightestLimit
from search.encoding import GenotypeEncoder
from search.evaluations import Evaluation, collect_evaluations, read_evaluations
from search.evolution import EvolutionarySearch
from search.predictors import (
    AccuracyPredictor,
    PredictorComparison,
    PredictorScore,
    compare_predictors,
    fit_predictor,
)

__all__ = [
    "AccuracyPredictor",
    "Candidate",
    "Evaluation",
    "EvolutionarySearch",
    "GenotypeEncoder",
    "NoSubnetError",
    "PredictorComparison",
    "PredictorScore",
    "TightestLimit",
    "collect_evaluations",
    "compare_predictors",
    "fit_predictor",
    "read_evaluations",
]
