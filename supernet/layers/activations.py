"""The activation functions that a `LayerSpec` can name."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from supernet.arch import Activation

_MODULES: dict[Activation, type[nn.Module]] = {
    "none": nn.Identity,
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "h_swish": nn.Hardswish,
}


def activation_module(name: Activation) -> nn.Module:
    """A module for an extracted network."""
    return _MODULES[name]()


def activation_name(module: nn.Module) -> Activation:
    """The inverse of `activation_module`; "none" for any other module."""
    return next((name for name, kind in _MODULES.items() if type(module) is kind), "none")


def activate(x: Tensor, name: Activation) -> Tensor:
    """Apply the activation; the values equal those of `activation_module(name)`."""
    if name == "relu":
        return F.relu(x)
    if name == "relu6":
        return F.relu6(x)
    if name == "h_swish":
        return F.hardswish(x)
    return x
