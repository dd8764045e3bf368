"""Networks to prune: a subnet in a folder, or a classifier of torchvision by its name."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from supernet.errors import ConfigError, one_of
from supernet.images import Normalisation
from supernet.subnet_file import load_normalisation, load_subnet
from supernet.tensors import load_into, load_tensors


def open_subnet(folder: Path, classes: int | None) -> tuple[nn.Module, Normalisation]:
    """A subnet and the normalisation of its input.

    Args:
        folder: as `supernet.subnet_file` writes it.
        classes: outputs that it must have; None: whatever it has.

    Raises:
        ConfigError: another number of classes.
        CheckpointError: the folder is damaged.
    """
    subnet = load_subnet(folder)
    if classes not in (None, subnet.num_classes):
        raise ConfigError(
            f"{classes} classes, but the subnet in {str(folder)!r} has {subnet.num_classes}; choose the "
            "data set that it was trained on"
        )
    return subnet, load_normalisation(folder)


def architectures() -> list[str]:
    """Names of the classifiers that torchvision has."""
    from torchvision import models

    return list(models.list_models(module=models))


def published_params(name: str) -> int:
    """Parameters of a classifier of torchvision with the classes that it was published with, without making it.

    Raises:
        ConfigError: an unknown name.
    """
    from torchvision import models

    _require_known(name)
    return int(next(iter(models.get_model_weights(name))).meta["num_params"])


def open_architecture(name: str, classes: int, *, weights: Path | None, seed: int) -> nn.Module:
    """A classifier of torchvision.

    Args:
        name: of the classifier there.
        classes: outputs.
        weights: safetensors file; None: random ones.
        seed: of random weights.

    Raises:
        ConfigError: an unknown name.
        CheckpointError: the weights are damaged, or of another network.
    """
    from torchvision import models

    _require_known(name)
    # Heads that only help to train have outputs of their own, which neither this loop nor a compact network needs.
    plain = {"aux_logits": False} if name in ("googlenet", "inception_v3") else {}
    torch.manual_seed(seed)
    net: nn.Module = models.get_model(name, weights=None, num_classes=classes, **plain)
    if weights is not None:
        load_into(net, load_tensors(weights), repr(str(weights)))
    return net


def _require_known(name: str) -> None:
    known = architectures()
    if name not in known:
        raise ConfigError(one_of("architecture", name, known))
