"""What every subnet's card says, wherever the subnet was made: what it is, what it was cut from, what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from latency_tables.counter import counted_macs
from supernet.arch import SubnetConfig
from supernet.evaluation import MeasuredSubnet, confidence_interval

FORMAT = 1


def describe(config: SubnetConfig, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Which subnet, and of which run, as plain JSON.

    Args:
        config: the subnet.
        manifest: of the run that it was cut from.
    """
    return {
        "format": FORMAT,
        "config": config.to_dict(),
        "config_digest": config.digest,
        "space": config.space,
        "num_classes": manifest["num_classes"],
        "digests": {
            "weights": manifest["weights"]["sha256"],
            "images": manifest["images"]["sha256"],
            "data": manifest["data"].get("digest"),
        },
    }


def measured_part(measured: MeasuredSubnet) -> dict[str, Any]:
    """What was measured on the real network, as plain JSON: accuracies in [0, 1], MACs and parameters counted on it.

    `accuracy_before_calibration` is None where it was not measured. `accuracy_interval` holds the ends of the 95 %
    confidence interval of `accuracy` for new images.
    """
    return {
        "accuracy": measured.accuracy,
        "accuracy_before_calibration": measured.accuracy_before_calibration,
        "correct": measured.correct,
        "total": measured.total,
        "images": "holdout",
        "standard_error": measured.standard_error,
        "accuracy_interval": list(confidence_interval(measured.correct, measured.total)),
        "macs": counted_macs(measured.subnet, measured.config.resolution),
        "params": count_params(measured.subnet),
    }


def count_params(network: nn.Module) -> int:
    """Trainable numbers of a network."""
    return sum(parameter.numel() for parameter in network.parameters())
