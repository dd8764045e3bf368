"""The reference's two published accuracy predictors, in the order of our features.

Source: Cai et al., "Once-for-All", ICLR 2020; the authors' package `ofa`: `tutorial/accuracy_predictor.py` (MobileNetV3
of width 1.2) and `nas/accuracy_predictor` with the settings of the tutorial on ResNet50. Where we differ: a resolution
that the predictor never saw is refused; the reference rounds it down, or wraps to the last slot.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from search.encoding import GenotypeEncoder
from search.predictors.dense import DenseStack
from supernet.errors import CheckpointError, ConfigError
from supernet.spaces import SearchSpace

if TYPE_CHECKING:
    from torch import Tensor

_HIDDEN = (400, 400, 400)
_CLASSES = 1000  # ImageNet's; accuracies on other classes are others


@dataclass(frozen=True)
class OfaLayout:
    """How one of the files is laid out.

    Attributes:
        inputs: what each input stands for, named as our features are; "" for one that no subnet of ours can set.
        layers: the state dict's prefix of each layer, in order; every layer has a weight.
        biases: the state dict's name of each layer's bias.
        resolutions: those that it was trained on and that our space has, pixels.
    """

    inputs: tuple[str, ...]
    layers: tuple[str, ...]
    biases: tuple[str, ...]
    resolutions: tuple[int, ...]

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name of every tensor -> its shape."""
        widths = (len(self.inputs), *_HIDDEN, 1)
        found: dict[str, tuple[int, ...]] = {}
        for number, (layer, bias) in enumerate(zip(self.layers, self.biases, strict=True)):
            found[f"{layer}.weight"] = (widths[number + 1], widths[number])
            found[bias] = (widths[number + 1],)
        return found


def _one_hot(kind: str, count: int, choices: tuple[float, ...]) -> tuple[str, ...]:
    return tuple(f"{kind}[{index}]={choice}" for index in range(count) for choice in choices)


OFA_LAYOUTS: Mapping[str, OfaLayout] = MappingProxyType(
    {
        "mobilenet_v3_w1.2": OfaLayout(
            inputs=(
                *_one_hot("kernels", 20, (3, 5, 7)),
                *_one_hot("expands", 20, (3, 4, 6)),
                # slot (r - 112) // 16; those below 160 exist but were not trained
                *("", "", "", "resolution=160", "resolution=176", "resolution=192", "resolution=208", "resolution=224"),
            ),
            layers=("0", "2", "4", "6"),
            biases=("0.bias", "2.bias", "4.bias", "6.bias"),
            resolutions=(160, 176, 192, 208, 224),
        ),
        "resnet50": OfaLayout(
            inputs=(
                *(f"resolution={side}" for side in (128, 144, 160, 176, 192, 224)),
                *("", ""),  # 240 and 256, beyond our space
                *_one_hot("depths", 1, (0, 2)),
                *_one_hot("widths", 6, (0.65, 0.8, 1.0)),
                *_one_hot("expands", 18, (0.2, 0.25, 0.35)),
            ),
            layers=("layers.0.0", "layers.1.0", "layers.2.0", "layers.3"),
            biases=("layers.0.0.bias", "layers.1.0.bias", "layers.2.0.bias", "base_acc"),
            resolutions=(128, 144, 160, 176, 192, 224),
        ),
    }
)
"""Search space -> the file that the authors published for it."""


def read_ofa_predictor(path: Path, space: SearchSpace) -> tuple[DenseStack, OfaLayout]:
    """Read a file and bring its first layer to our features.

    A width multiplier that gives the same network as a smaller one (an alias in our space) has an input of its own in
    the reference; here the smaller one's stands for both. The features of resolutions that the predictor does not know
    get weight 0.

    Args:
        path: a `.pth` file of the reference.
        space: which of the two it must be for.

    Returns:
        The network on the features of `GenotypeEncoder(space)`, accuracy in [0, 1]; and the file's layout.

    Raises:
        ConfigError: the reference published no predictor for this space, or not for this number of classes.
        CheckpointError: the file is absent, damaged, could run code, or holds something else (all faults are named).
    """
    from supernet.import_ofa.files import read_state_dict

    if space.name not in OFA_LAYOUTS:
        raise ConfigError(
            f"the reference has no accuracy predictor for {space.name!r}; it has some for: {', '.join(OFA_LAYOUTS)}; "
            "fit one to your own run with: onceforall predictor"
        )
    if space.num_classes != _CLASSES:
        raise ConfigError(
            f"the reference's accuracy predictors are for the {_CLASSES} classes of ImageNet, not for "
            f"{space.num_classes}; fit one to your own run with: onceforall predictor"
        )
    content = read_state_dict(path)
    inner = content.get("state_dict")
    given = inner if isinstance(inner, Mapping) else content
    tensors, faults = _match(OFA_LAYOUTS[space.name], given)
    if faults:
        other = next((name for name, layout in OFA_LAYOUTS.items() if not _match(layout, given)[1]), None)
        raise CheckpointError(
            f"{str(path)!r} is the reference's accuracy predictor for {other!r}, not for {space.name!r}; "
            "load it for that space"
            if other
            else f"{str(path)!r} is not the reference's accuracy predictor for {space.name!r}, {len(faults)} fault(s): "
            f"{'; '.join(faults)}; fetch the file that the authors published"
        )
    layout = OFA_LAYOUTS[space.name]
    weights = [tensors[f"{layer}.weight"].numpy().T.copy() for layer in layout.layers]
    rows = {name: row for row, name in enumerate(layout.inputs) if name}
    features = GenotypeEncoder(space).names
    first = np.zeros((len(features), _HIDDEN[0]), dtype=np.float32)
    for number, name in enumerate(features):
        if name in rows:
            first[number] = weights[0][rows[name]]
        else:
            assert name.startswith("resolution="), name  # every other feature of the two spaces has an input
    return DenseStack((first, *weights[1:]), tuple(tensors[name].numpy() for name in layout.biases)), layout


def _match(layout: OfaLayout, given: Mapping[str, Any]) -> tuple[dict[str, Tensor], list[str]]:
    """The file's tensors, float32, and all that is wrong with them."""
    import torch

    from supernet.import_ofa.state import Given, fit

    expected = {name: torch.empty(shape, device="meta") for name, shape in layout.shapes().items()}
    return fit(expected, {name: name for name in expected}, {str(key): Given(str(key), given[key]) for key in given})
