"""How to find a subnet under a budget: accuracy predictors, the evaluations that they learn from, and searches."""

from __future__ import annotations

from search.active import propose_near_front
from search.candidate import Candidate, NoSubnetError, TightestLimit
from search.encoding import GenotypeEncoder
from search.evaluations import Evaluation, collect_evaluations, read_evaluations
from search.evolution import EvolutionarySearch
from search.front_search import FrontSearch
from search.nsga2 import NSGA2
from search.pareto import ParetoFront
from search.predictors import (
    AccuracyPredictor,
    PredictorComparison,
    PredictorScore,
    compare_predictors,
    fit_predictor,
    tau_with_truth,
)

__all__ = [
    "NSGA2",
    "AccuracyPredictor",
    "Candidate",
    "Evaluation",
    "EvolutionarySearch",
    "FrontSearch",
    "GenotypeEncoder",
    "NoSubnetError",
    "ParetoFront",
    "PredictorComparison",
    "PredictorScore",
    "TightestLimit",
    "collect_evaluations",
    "compare_predictors",
    "fit_predictor",
    "propose_near_front",
    "read_evaluations",
    "tau_with_truth",
]
