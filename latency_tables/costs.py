"""What a layer costs: exact MACs, parameters and bytes from its `LayerSpec`, and the interface of all cost models.

One MAC is one multiply-add, which is what the once-for-all papers call one FLOP. MACs are those of convolutions and
linear layers, squeeze-excite's two 1x1 convolutions included; batch norm, activations, pooling and additions count 0.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from latency_tables.memory import peak_memory_bytes
from supernet.arch import LayerSpec

_FLOAT_BYTES = 4
_COUNTER_BYTES = 8


@dataclass(frozen=True)
class Convolution:
    """One matrix-like operation inside a layer; a linear layer is a 1x1 convolution on a 1x1 map.

    Attributes:
        out_size: side of its output, pixels.
        in_channels, out_channels, kernel, groups: as of a convolution.
        bias: whether it adds one.
        batch_norm: whether a batch norm follows.
    """

    out_size: int
    in_channels: int
    out_channels: int
    kernel: int = 1
    groups: int = 1
    bias: bool = False
    batch_norm: bool = False

    @property
    def weights(self) -> int:
        """Numbers in its weight."""
        return self.out_channels * (self.in_channels // self.groups) * self.kernel**2


def convolutions(spec: LayerSpec) -> Iterator[Convolution]:
    """The operations with weights that `spec` is made of; MACs, parameters and bytes all come from this one list."""
    if spec.op == "conv":
        yield Convolution(
            spec.out_size, spec.in_channels, spec.out_channels, spec.kernel, spec.groups, batch_norm=spec.batch_norm
        )
    elif spec.op == "mbconv":
        mid = spec.mid_channels
        if mid != spec.in_channels:
            yield Convolution(spec.in_size, spec.in_channels, mid, batch_norm=True)
        yield Convolution(spec.out_size, mid, mid, spec.kernel, groups=mid, batch_norm=True)
        if spec.se_channels:
            yield Convolution(1, mid, spec.se_channels, bias=True)
            yield Convolution(1, spec.se_channels, mid, bias=True)
        yield Convolution(spec.out_size, mid, spec.out_channels, batch_norm=True)
    elif spec.op == "bottleneck":
        mid = spec.mid_channels
        yield Convolution(spec.in_size, spec.in_channels, mid, batch_norm=True)
        yield Convolution(spec.out_size, mid, mid, spec.kernel, batch_norm=True)
        yield Convolution(spec.out_size, mid, spec.out_channels, batch_norm=True)
        if not spec.shortcut:
            yield Convolution(spec.out_size, spec.in_channels, spec.out_channels, batch_norm=True)
    elif spec.op == "linear":
        yield Convolution(1, spec.in_channels * spec.in_size**2, spec.out_channels, bias=True)
    else:
        assert spec.op in ("pool", "max_pool"), f"no cost rule for operator {spec.op!r}"


def _layer_macs(spec: LayerSpec) -> int:
    return sum(part.weights * part.out_size**2 for part in convolutions(spec))


def _layer_params(spec: LayerSpec) -> int:
    return sum(
        part.weights + part.out_channels * (part.bias + 2 * part.batch_norm) for part in convolutions(spec)
    )  # batch norm: weight and bias


def _layer_bytes(spec: LayerSpec) -> int:
    buffers = sum(
        2 * _FLOAT_BYTES * part.out_channels + _COUNTER_BYTES for part in convolutions(spec) if part.batch_norm
    )  # running mean and variance, and the int64 number of batches tracked
    return _FLOAT_BYTES * _layer_params(spec) + buffers


def macs(layers: Iterable[LayerSpec]) -> int:
    """Multiply-adds of one image's forward pass (one MAC = one FLOP of the once-for-all papers)."""
    return sum(map(_layer_macs, layers))


def params(layers: Iterable[LayerSpec]) -> int:
    """Trainable numbers: weights and biases, batch norm's included; running statistics are buffers and not counted."""
    return sum(map(_layer_params, layers))


def size_bytes(layers: Iterable[LayerSpec]) -> int:
    """Bytes of all tensors in the subnet's weight file: float32 parameters and batch norm's buffers, no file header."""
    return sum(map(_layer_bytes, layers))


class CostModel(ABC):
    """A cost that follows from the costs of a subnet's layers: latency on a device, MACs, peak memory."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The metric as a budget names it: ``macs``, ``latency_ms@note10``."""

    @property
    def space(self) -> str | None:
        """Name of the only search space for which the costs hold; None: any."""
        return None

    @property
    def is_peak(self) -> bool:
        """Whether the subnet costs what its worst layer costs, and not the sum over its layers."""
        return False

    @abstractmethod
    def of_each(self, layers: Sequence[LayerSpec]) -> list[float]:
        """One cost a layer, in order.

        Raises:
            TableError: costs of some layers are not known; all of them are counted in the one message.
        """

    def of_layer(self, spec: LayerSpec) -> float:
        """The cost of one layer; raises as `of_each`."""
        return self.of_each([spec])[0]

    def of_layers(self, layers: Sequence[LayerSpec]) -> float:
        """The cost of the whole subnet, 0 for no layers; raises as `of_each`."""
        costs = self.of_each(layers)
        return max(costs, default=0) if self.is_peak else sum(costs)


@dataclass(frozen=True)
class LayerCount(CostModel):
    """An exact integer cost that a layer's shape alone decides."""

    metric: str
    count: Callable[[LayerSpec], int]
    peak: bool = False

    @property
    def name(self) -> str:
        """The metric's name."""
        return self.metric

    @property
    def is_peak(self) -> bool:
        """Whether the worst layer alone counts."""
        return self.peak

    def of_each(self, layers: Sequence[LayerSpec]) -> list[float]:
        """One integer a layer."""
        return [self.count(spec) for spec in layers]


MACS = LayerCount("macs", _layer_macs)
PARAMS = LayerCount("params", _layer_params)
SIZE_BYTES = LayerCount("size_bytes", _layer_bytes)
PEAK_MEMORY_BYTES = LayerCount("peak_memory_bytes", lambda spec: peak_memory_bytes([spec]), peak=True)
COUNTS = (MACS, PARAMS, SIZE_BYTES, PEAK_MEMORY_BYTES)
"""The costs that need no device: exact integers."""
