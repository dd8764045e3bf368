"""Fixed layers from given weights, without drawing random ones first.

Building a subnet's 200 modules the ordinary way takes longer than copying its weights. So each kind of layer is built
once, without memory for its weights, and its modules' attributes are copied from then on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from supernet.arch import LayerSpec
from supernet.layers.fixed import BN_EPS, build_layer


def layer_with_weights(spec: LayerSpec, weights: Mapping[str, Tensor], *, bn_eps: float = BN_EPS) -> nn.Module:
    """`build_layer(spec)` with these weights, in evaluation mode.

    Args:
        spec: the layer.
        weights: its whole state dict; the layer gets copies, contiguous in memory.
        bn_eps: epsilon of its batch norms.
    """
    remaining = dict(weights)
    layer = _prototype(replace(spec, in_size=0, out_size=0), bn_eps).copy_with(remaining)
    assert not remaining, f"{spec.key} has no {sorted(remaining)}"
    return layer


@lru_cache(maxsize=1024)
def _prototype(spec: LayerSpec, bn_eps: float) -> _Prototype:
    """The layer on the meta device; its size on the feature map does not matter."""
    with torch.device("meta"):
        return _Prototype.of(build_layer(spec, bn_eps=bn_eps).eval(), "")


@dataclass(frozen=True)
class _Prototype:
    """A module taken apart into what copies share and what each has of its own.

    Attributes:
        kind: the module's class.
        shared: attributes with plain values.
        containers: types of the attributes that are empty dictionaries (those of hooks), sets or lists: each copy has
            its own.
        parameters, buffers: (attribute, key in the state dict, shape).
        children: (attribute, its prototype, or None).
    """

    kind: type[nn.Module]
    shared: dict[str, Any]
    containers: dict[str, type]
    parameters: list[tuple[str, str, torch.Size | None]]
    buffers: list[tuple[str, str, torch.Size | None]]
    children: list[tuple[str, _Prototype | None]]

    @classmethod
    def of(cls, module: nn.Module, prefix: str) -> _Prototype:
        """Take a module apart; its keys in the state dict begin with `prefix`."""
        own = {"_parameters", "_buffers", "_modules"}
        rest = {name: value for name, value in vars(module).items() if name not in own}
        containers = {name: type(value) for name, value in rest.items() if isinstance(value, (dict, set, list))}
        assert not any(rest[name] for name in containers), f"{type(module).__name__} was built with hooks"
        return cls(
            type(module),
            {name: value for name, value in rest.items() if name not in containers},
            containers,
            [(name, prefix + name, None if p is None else p.shape) for name, p in module._parameters.items()],
            [(name, prefix + name, None if b is None else b.shape) for name, b in module._buffers.items()],
            [
                (name, None if child is None else cls.of(child, f"{prefix}{name}."))
                for name, child in module._modules.items()
            ],
        )

    def copy_with(self, weights: dict[str, Tensor]) -> nn.Module:
        """A new module with copies of its tensors, which are taken out of `weights`."""
        module = self.kind.__new__(self.kind)
        attributes = self.shared.copy()
        for name, container in self.containers.items():
            attributes[name] = container()
        attributes["_parameters"] = {
            name: None if shape is None else nn.Parameter(_copy(weights.pop(key), shape))
            for name, key, shape in self.parameters
        }
        attributes["_buffers"] = {
            name: None if shape is None else _copy(weights.pop(key), shape) for name, key, shape in self.buffers
        }
        attributes["_modules"] = {
            name: None if child is None else child.copy_with(weights) for name, child in self.children
        }
        object.__setattr__(module, "__dict__", attributes)  # a module's own __setattr__ looks for parameters first
        return module


def _copy(value: Tensor, shape: torch.Size) -> Tensor:
    assert value.shape == shape, f"{tuple(value.shape)} given, {tuple(shape)} needed"
    return value.clone(memory_format=torch.contiguous_format)
