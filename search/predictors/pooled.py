"""Bayesian linear regression that lets blocks learn from each other: for a few hundred noisy evaluations or fewer.

A ridge shrinks every choice of every gene towards 0 alone, so that 100 evaluations say little about 145 choices. Here a
choice's weight is a sum of parts that it shares: with the same choice in all blocks, in its stage, with the other
choices of its gene (larger is better), and its own. How much each part may vary is learnt from the evaluations by
maximal evidence, in closed form, without random starts. Measured by benchmarks/predictor_quality.py: it ranks better
with 100 evaluations than the ridge with 200, with 200 than the ridge with 400, and no worse with 1,000.

A second fit adds the products of the stages' mean levels, which see diminishing returns and that more pixels make
larger kernels worth more; the answer is the blend of the two that predicts left-out evaluations best. What it comes to
is a linear stack and a stack of squares, so that scoring costs less than with any network.

Source: MacKay, "Bayesian Interpolation", Neural Computation 4, 1992, for the evidence; Wolpert, "Stacked
Generalization", Neural Networks 5, 1992, for the blend. Tried instead, and no better up to 4,000 evaluations: small
perceptrons, alone and in ensembles, on what is left of the linear fit (their best share was 0, or 0.08 of 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from search.encoding import GenotypeEncoder
from search.predictors.dense import Array, DenseStack
from supernet.spaces import Kind, SearchSpace

Matrix = npt.NDArray[np.float64]

_USUAL = -2.5  # log of a part's variance where the evaluations do not tell; accuracies have variance 1
_SPREAD = 4.0
_BOUNDS = (-12.0, 6.0)
_LEAST_NOISE = -9.0
_ITERATIONS = 60
_REACH = 0.3  # of the range of resolutions, over which neighbours are alike


def fit_pooled(encoder: GenotypeEncoder, features: Array, accuracies: Matrix, seed: int) -> tuple[DenseStack, ...]:
    """Fit the two models and blend them.

    Args:
        encoder: of the features.
        features: float32 (n, features).
        accuracies: (n,) in [0, 1].
        seed: not used, nothing is random; here because every kind of predictor is fitted by the same call.

    Returns:
        A linear stack and one of squares; their sum is the accuracy.
    """
    centre, spread = float(accuracies.mean()), float(accuracies.std()) or 1.0
    targets = (accuracies - centre) / spread
    mean = features.mean(axis=0, dtype=np.float64)
    linear = features - mean
    parts = shared_parts(encoder)
    summary = stage_levels(encoder)
    levels = linear @ summary
    summary = summary / np.where(levels.std(axis=0) > 1e-9, levels.std(axis=0), np.inf)
    first, second = np.triu_indices(summary.shape[1])
    # a product that stands twice in the square of a sum has twice the variance there
    twice = np.where(first == second, 1.0, np.sqrt(2.0))
    levels = linear @ summary
    products = levels[:, first] * levels[:, second] * twice
    usual = products.mean(axis=0)
    no_linear, no_products = np.zeros((linear.shape[1], 1)), np.zeros((len(first), 1))
    product_parts = [np.eye(len(first)), twice[:, None]]
    straight = _maximise_evidence(linear, targets, parts)
    curved = _maximise_evidence(
        np.concatenate([linear, products - usual], axis=1),
        targets,
        [np.concatenate([part, np.repeat(no_products, part.shape[1], axis=1)]) for part in parts]
        + [np.concatenate([np.repeat(no_linear, part.shape[1], axis=1), part]) for part in product_parts],
    )
    share = _best_share(straight.left_out, curved.left_out, targets)
    weights = (1 - share) * straight.weights + share * curved.weights[: linear.shape[1]]
    pairs = share * curved.weights[linear.shape[1] :]
    form = np.zeros((summary.shape[1], summary.shape[1]))
    np.add.at(form, (first, second), pairs * twice / 2)
    np.add.at(form, (second, first), pairs * twice / 2)
    scales, axes = np.linalg.eigh(form)
    towards = summary @ axes
    shift = centre - spread * float(mean @ weights + usual @ pairs)
    return (
        DenseStack(((spread * weights[:, None]).astype(np.float32),), (np.array([shift], dtype=np.float32),)),
        DenseStack(
            (towards.astype(np.float32), (spread * scales[:, None]).astype(np.float32)),
            ((-mean @ towards).astype(np.float32), np.zeros(1, dtype=np.float32)),
            activation="square",
        ),
    )


def shared_parts(encoder: GenotypeEncoder) -> list[Matrix]:
    """What weights are sums of: one matrix (features, columns) a part; the columns of a part vary alike.

    Kinds that come once (the resolution): each choice, and a smooth curve over the values. Others: each choice of each
    gene; a gene's level, 1 for its greatest choice; whether the gene is active; each choice in the whole network; each
    choice in a stage.
    """
    space, gene, index = encoder.space, encoder.gene_of_feature, encoder.index_of_feature
    every = np.eye(len(gene))
    parts = []
    for kind in dict.fromkeys(space.dimensions[number].kind for number in gene):
        mine = np.array([space.dimensions[number].kind == kind for number in gene])
        genes = list(dict.fromkeys(gene[mine].tolist()))
        parts.append(every[:, mine])
        if len(genes) == 1:
            values = np.array([float(space.dimensions[genes[0]].choices[choice]) for choice in index[mine]])
            apart = (values[:, None] - values) / max(float(np.ptp(values)), 1e-9) / _REACH
            parts.append(every[:, mine] @ np.exp(-(apart**2) / 2))
            continue
        active = (gene[:, None] == genes) * 1.0
        parts.append(active * _levels(encoder)[:, None])
        optional = [space.dimensions[number].needs_depth is not None for number in genes]
        if any(optional):
            parts.append(active[:, optional])
        choices = (index[:, None] == np.unique(index[mine])) * mine[:, None] * 1.0
        parts.append(choices)
        stages = _stages(space, kind, genes)
        if 1 < len(stages) < len(genes):
            parts.append(np.concatenate([choices * np.isin(gene, stage)[:, None] for stage in stages], axis=1))
    return parts


def stage_levels(encoder: GenotypeEncoder) -> Matrix:
    """A short summary of a subnet, (features, columns): stage by stage the mean level of each kind, and the depth."""
    space, gene = encoder.space, encoder.gene_of_feature
    columns: list[Matrix] = []
    deep: list[Matrix] = []
    levels = _levels(encoder)
    for kind in dict.fromkeys(space.dimensions[number].kind for number in gene):
        genes = sorted({number for number in gene.tolist() if space.dimensions[number].kind == kind})
        stages = _stages(space, kind, genes)
        columns += [np.where(np.isin(gene, stage), levels / len(stage), 0.0) for stage in stages]
        if not deep:
            optional = [[one for one in stage if space.dimensions[one].needs_depth is not None] for stage in stages]
            deep = [np.where(np.isin(gene, stage), 1.0, 0.0) for stage in optional if stage]
    return np.stack([*columns, *deep], axis=1)


def _levels(encoder: GenotypeEncoder) -> Matrix:
    """Of each feature: its choice's place among the choices of its gene, in (0, 1]."""
    levels: Matrix = (encoder.index_of_feature + 1.0) / encoder.choices[encoder.gene_of_feature].astype(np.float64)
    return levels


def _stages(space: SearchSpace, kind: Kind, genes: Sequence[int]) -> list[list[int]]:
    """Genes of one kind by stage: blocks that are always there stand before those that the stage's depth adds.

    Where no depth says so, every gene is a stage. A wrong guess would cost accuracy of the fit, not its validity.
    """
    found: list[list[int]] = []
    stage: int | None = None
    for number in reversed(genes):
        needs = space.dimensions[number].needs_depth
        here = stage if needs is None else needs[0]
        if here is None or here != stage:
            found.append([])
        found[-1].append(number)
        stage = here
    return [stage[::-1] for stage in found[::-1]]


@dataclass(frozen=True)
class _Fit:
    weights: Matrix  # (features,)
    left_out: Matrix  # (n,): each target as the fit to all others predicts it


def _maximise_evidence(features: Matrix, targets: Matrix, parts: Sequence[Matrix]) -> _Fit:
    """Fit `targets` ~ `features` @ w, w a sum over parts of part @ N(0, variance of the part), plus noise.

    All is done in the space that the features span, whose dimension is at most that of either side, so that one
    evaluation of the evidence costs the same for 400 rows and 16,000.

    Args:
        features: (n, m), centred.
        targets: (n,), centred, variance about 1.
        parts: (m, columns) each.
    """
    from scipy.linalg import cho_factor, cho_solve
    from scipy.optimize import minimize

    u, s, vt = np.linalg.svd(features, full_matrices=False)
    spanned = s > 1e-9 * max(float(s.max(initial=0)), 1e-9)
    u, s, vt = u[:, spanned], s[spanned], vt[spanned]
    n, rank = len(targets), len(s)
    reached = [(s[:, None] * vt) @ part for part in parts]
    # each part's variance is counted in units of what it adds to the targets' variance
    sizes = [max(float((one**2).sum()) / n, 1e-12) for one in reached]
    kernels = np.stack([one @ one.T / size for one, size in zip(reached, sizes, strict=True)])
    seen = u.T @ targets
    unseen = float(targets @ targets - seen @ seen)  # what no weights can explain

    def solve(logs: Matrix) -> tuple[Matrix, Matrix, Matrix]:
        covariance = np.tensordot(np.exp(logs[:-1]), kernels, axes=1) + np.exp(logs[-1]) * np.eye(rank)
        factor = cho_factor(covariance, lower=True)
        return np.diag(factor[0]), cho_solve(factor, np.eye(rank)), cho_solve(factor, seen)

    def cost(logs: Matrix) -> tuple[float, Matrix]:
        diagonal, inverse, pull = solve(logs)
        noise = float(np.exp(logs[-1]))
        value = seen @ pull / 2 + np.log(diagonal).sum() + (n - rank) * logs[-1] / 2 + unseen / noise / 2
        slopes = np.exp(logs[:-1]) * (
            np.tensordot(kernels, inverse, axes=2) - np.einsum("i,pij,j->p", pull, kernels, pull, optimize=True)
        )
        noise_slope = noise * (np.trace(inverse) - pull @ pull) + (n - rank) - unseen / noise
        prior = (logs - _USUAL) / _SPREAD
        return float(value + prior @ prior / 2), np.append(slopes, noise_slope) / 2 + prior / _SPREAD

    found = minimize(
        cost,
        np.append(np.full(len(parts), -2.0), -1.5),
        jac=True,
        method="L-BFGS-B",
        bounds=[_BOUNDS] * len(parts) + [(_LEAST_NOISE, _BOUNDS[1])],
        options={"maxiter": _ITERATIONS},
    )
    _, inverse, pull = solve(found.x)
    shares = np.exp(found.x[:-1]) / sizes
    weights = sum(
        (share * (part @ (one.T @ pull)) for share, part, one in zip(shares, parts, reached, strict=True)),
        np.zeros(features.shape[1]),
    )
    # the hat matrix is u (1 - noise / covariance) u^T; the mean, taken off before, is one weight more
    leverage = ((u @ (np.eye(rank) - np.exp(found.x[-1]) * inverse)) * u).sum(axis=1) + 1 / n
    residuals = targets - features @ weights
    return _Fit(weights, targets - residuals / np.maximum(1 - leverage, 1e-6))


def _best_share(first: Matrix, second: Matrix, targets: Matrix) -> float:
    """How much of the second to take, in [0, 1], for the least squared error."""
    step = second - first
    length = float(step @ step)
    return float(np.clip(step @ (targets - first) / length, 0, 1)) if length > 0 else 0.0
