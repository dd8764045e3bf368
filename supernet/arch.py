"""What one subnet is: its elastic choices (`SubnetConfig`) and the layers they lower to (`LayerSpec`)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from supernet import registry
from supernet.errors import ConfigError

Value = int | float
Activation = Literal["none", "relu", "relu6", "h_swish"]
Operator = Literal["conv", "mbconv", "bottleneck", "max_pool", "pool", "linear"]


@dataclass(frozen=True)
class SubnetConfig:
    """One subnet of a search space, by values (kernel 5, not "the second kernel").

    Construction checks every value against the space, sets inactive ones (the kernel and expand ratio of a block that
    the stage's depth leaves out) to 0, and keeps one of values that mean the same. So a `SubnetConfig` that exists is
    legal, two that describe the same network are equal, and `digest` names the network.

    Attributes:
        space: name of the search space.
        resolution: side of the square input image, pixels.
        depths: active blocks, one entry a stage. In ResNet spaces: 2 or 0, whether the stem has its residual
            convolution; then, one entry a stage, the blocks beyond the stage's least number.
        kernels: side of the depthwise kernel, one entry a block (empty where the space has none).
        expands: ratio of a block's middle channels to its input channels (in ResNet spaces: to its output channels),
            one entry a block.
        widths: width multipliers, one entry an elastic width (empty where the space has none). In ResNet spaces: of
            the stem's inner channels, of its output, of each stage.

    Raises:
        ConfigError: the space is unknown, or values are outside of it (all faults in one message).
    """

    space: str
    resolution: int
    depths: tuple[int, ...]
    kernels: tuple[int, ...] = ()
    expands: tuple[Value, ...] = ()
    widths: tuple[Value, ...] = ()

    def __post_init__(self) -> None:
        for name, value in registry.find(self.space).canonical_values(self).items():
            object.__setattr__(self, name, value)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SubnetConfig:
        """The inverse of `to_dict`; keys are the attributes' names."""
        if not isinstance(data, Mapping):
            raise ConfigError(f"a subnet config is an object with named fields, got {type(data).__name__}")
        names = [field.name for field in fields(cls)]
        unknown = sorted(set(map(str, data)) - set(names))
        missing = sorted({"space", "resolution", "depths"} - set(data))
        if unknown or missing:
            faults = [f"unknown field {name!r}" for name in unknown] + [
                f"field {name!r} is missing" for name in missing
            ]
            raise ConfigError(f"subnet config: {'; '.join(faults)}; allowed: {', '.join(names)}")
        return cls(**data)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; 0 stands for an inactive kernel or expand ratio."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, no white space. Equal subnets give equal text."""
        return json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))

    @property
    def digest(self) -> str:
        """SHA-256 of `to_json()`, 64 hexadecimal digits."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()


@dataclass(frozen=True, order=True)
class LayerSpec:
    """One layer of a subnet as a device sees it: operator and shapes, no weights.

    The extracted network is built from these, the profiler measures these, and MACs and parameters are counted
    from these, so that the four cannot disagree.

    Operators:
        conv: convolution padded by half its kernel, batch norm (if `batch_norm`), activation; then, where `shortcut`,
            plus the input.
        mbconv: 1x1 expansion to `mid_channels` (absent where that equals `in_channels`), depthwise convolution,
            squeeze-excite of `se_channels` (absent where 0), 1x1 projection; batch norm after each convolution; the
            activation after the first two; plus the input where `shortcut`.
        bottleneck: 1x1 reduction to `mid_channels`, convolution with `kernel` and `stride`, 1x1 restoration; batch norm
            after each; the activation after the first two; plus the shortcut, then the activation. The shortcut is the
            input where `shortcut`, else the input's averages over `stride` x `stride` pixels through a 1x1 convolution
            with batch norm.
        max_pool: max pool padded by half its kernel.
        pool: global average pool.
        linear: flatten, then a fully connected layer with bias.

    Attributes:
        op: operator.
        in_size, out_size: side of the square feature map, pixels.
        in_channels, out_channels: channels.
        mid_channels: channels inside of a block; 0 where the operator has none.
        kernel, stride: of the convolution, the block's spatial convolution, or the max pool.
        groups: of a plain convolution.
        se_channels: channels of squeeze-excite's bottleneck; 0 for none.
        activation: activation function.
        shortcut: whether the input is added to the output.
        batch_norm: whether a plain convolution is followed by batch norm (it then has no bias).
    """

    op: Operator
    in_size: int
    out_size: int
    in_channels: int
    out_channels: int
    mid_channels: int = 0
    kernel: int = 1
    stride: int = 1
    groups: int = 1
    se_channels: int = 0
    activation: Activation = "none"
    shortcut: bool = False
    batch_norm: bool = True

    @property
    def key(self) -> str:
        """The layer's name in a latency table: one line, unique per spec, readable by a person.

        Example: ``mbconv 8x8x24->4x4x40 mid96 k5 s2 se24 h_swish``.
        """
        sizes = f"{self.in_size}x{self.in_size}x{self.in_channels}->{self.out_size}x{self.out_size}x{self.out_channels}"
        parts = [self.op, sizes]
        if self.mid_channels:
            parts.append(f"mid{self.mid_channels}")
        if self.op not in ("pool", "linear"):
            parts += [f"k{self.kernel}", f"s{self.stride}"]
        if self.op in ("conv", "mbconv", "bottleneck"):
            if self.groups != 1:
                parts.append(f"g{self.groups}")
            if self.se_channels:
                parts.append(f"se{self.se_channels}")
            parts.append(self.activation)
            if self.shortcut:
                parts.append("skip")
            if not self.batch_norm:
                parts.append("nobn")
        return " ".join(parts)
