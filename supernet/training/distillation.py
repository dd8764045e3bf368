"""The loss of one subnet: cross entropy to the labels, and to the largest network's outputs."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def subnet_loss(
    logits: Tensor, labels: Tensor, teacher_logits: Tensor | None, *, label_smoothing: float, kd_ratio: float
) -> Tensor:
    """Mean loss of a batch.

    Source: Cai et al., ICLR 2020, section 3.3: labels plus `kd_ratio` times soft labels of the largest network.

    Args:
        logits: (n, classes) of the subnet.
        labels: int64 (n,).
        teacher_logits: (n, classes) of the largest network, without gradient; None: labels only.
        label_smoothing: share of probability spread over all classes, in [0, 1).
        kd_ratio: weight of the teacher's term.

    Returns:
        Scalar.
    """
    loss = F.cross_entropy(logits, labels, label_smoothing=label_smoothing)
    if teacher_logits is not None:
        loss = loss + kd_ratio * F.cross_entropy(logits, teacher_logits.softmax(1))
    return loss
