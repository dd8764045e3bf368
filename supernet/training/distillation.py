"""The loss of one subnet: from the labels, from a teacher's outputs, or from both."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from supernet.training.schedule import Divergence

ALPHAS = (-1.0, 1.0)
RATIO_LIMIT = 5.0
"""AlphaNet's published choices: the two orders, and the bound on (p / q)^alpha at orders other than 1."""


def label_loss(logits: Tensor, labels: Tensor, *, label_smoothing: float) -> Tensor:
    """Mean cross entropy to the labels.

    Args:
        logits: (n, classes).
        labels: int64 (n,).
        label_smoothing: share of probability spread over all classes, in [0, 1).

    Returns:
        Scalar.
    """
    return F.cross_entropy(logits, labels, label_smoothing=label_smoothing)


def teacher_loss(logits: Tensor, teacher_logits: Tensor, divergence: Divergence = "cross-entropy") -> Tensor:
    """Mean distance of a subnet's outputs from its teacher's.

    Args:
        logits: (n, classes) of the subnet.
        teacher_logits: (n, classes), without gradient.
        divergence: "cross-entropy" to the teacher's probabilities (Cai et al., ICLR 2020, section 3.3), or "alpha":
            the greater of two alpha-divergences an image (Wang et al., "AlphaNet", ICML 2021, equations 3 to 7).

    Returns:
        Scalar.
    """
    if divergence == "alpha":
        return alpha_divergence(logits, teacher_logits).mean()
    return F.cross_entropy(logits, teacher_logits.softmax(1))


def alpha_divergence(
    logits: Tensor,
    teacher_logits: Tensor,
    alphas: tuple[float, ...] = ALPHAS,
    ratio_limit: float = RATIO_LIMIT,
) -> Tensor:
    """The greatest of several alpha-divergences of the teacher's distribution p from the subnet's q.

    D_alpha = (sum q (p / q)^alpha - 1) / (alpha (alpha - 1)); at alpha = 1 the Kullback-Leibler divergence. A negative
    alpha punishes probability that the subnet gives where the teacher gives little, a positive one probability that it
    withholds where the teacher gives much. At alpha other than 1, (p / q)^alpha is cut at `ratio_limit` in value and in
    gradient, so that rare large ratios do not rule the step; at 1 the gradient q - p is bounded by itself, and a cut
    would take it away from a subnet that is surely wrong.

    Args:
        logits: (n, classes) of the subnet.
        teacher_logits: (n, classes), without gradient.
        alphas: orders to choose from, an image each; not 0.
        ratio_limit: greatest value of (p / q)^alpha at alpha other than 1; infinity for none.

    Returns:
        (n,), with the gradient -1/alpha sum q (p / q)^alpha grad log q.
    """
    log_q, log_p = logits.log_softmax(1), teacher_logits.log_softmax(1)
    q = log_q.detach().exp()
    values, surrogates = [], []
    for alpha in alphas:
        log_ratio = log_p - log_q.detach()
        if alpha == 1:
            weighted = log_p.exp()
            values.append((weighted * log_ratio).sum(1))
        else:
            ratio = (alpha * log_ratio).exp().clamp(max=ratio_limit)
            weighted = q * ratio
            values.append((weighted - q).sum(1) / (alpha * (alpha - 1)))
        surrogates.append(-(weighted * log_q).sum(1) / alpha)
    value, chosen = torch.stack(values).max(0)
    surrogate = torch.stack(surrogates).gather(0, chosen[None])[0]
    return value + surrogate - surrogate.detach()
