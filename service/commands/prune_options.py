"""What the commands below `onceforall prune` share: options, and the network that is to be pruned."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from supernet.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn

    from supernet.images import Normalisation

CARD = "card.json"
Model = Annotated[str, typer.Argument(help="Folder of a subnet, or a torchvision classifier such as resnet18.")]
Size = Annotated[int | None, typer.Option(min=8, help="Side of the input, pixels.  [default: the subnet's, or 32]")]
LatencyFile = Annotated[
    Path | None, typer.Option(help="Table by `prune latencies`, for a target latency_ms@DEVICE<=MS.")
]
Keep = Annotated[list[str] | None, typer.Option(help="Module whose channels stay; may be repeated.")]
Programs = Annotated[list[str] | None, typer.Option(help="Program to write: torch-export, onnx; may be repeated.")]


def input_side(model: str, size: int | None) -> int:
    """Side of the network's input: the subnet's own, or as asked, or 32."""
    if not Path(model).is_dir():
        return size or 32
    from supernet.subnet_file import load_subnet

    own = load_subnet(model).resolution
    if size not in (None, own):
        raise ConfigError(f"--size is {size}, the subnet in {model!r} takes {own}; leave --size out")
    return own


def open_network(
    model: str, weights: Path | None, classes: int | None, seed: int
) -> tuple[nn.Module, Normalisation | None]:
    """The network to prune, and of a subnet the normalisation of its input.

    Args:
        model: a subnet's folder, or a name of torchvision.
        weights: of a network of torchvision; None: random ones.
        classes: outputs that it must have; None: a subnet's own, else 10.
        seed: of random weights.
    """
    from service.networks import architectures, open_architecture, open_subnet

    if Path(model).is_dir():
        if weights is not None:
            raise ConfigError(f"the subnet in {model!r} has its own weights; leave --weights out")
        return open_subnet(Path(model), classes)
    if model not in (known := architectures()):
        raise ConfigError(
            f"{model!r} is neither a folder of a subnet nor a classifier of torchvision; allowed: {', '.join(known)}"
        )
    return open_architecture(model, classes or 10, weights=weights, seed=seed), None
