"""Networks as ONNX graphs, written module by module from torch's weights.

`torch.onnx.export(dynamo=True)` gives graphs of nearly the same operators and of the same outputs (a test compares
them). It needs onnxscript, takes 4 to 8 s for a subnet of mobilenet_v3_tiny, where this takes 0.02 s (a profile needs
hundreds), and names nodes by numbers. Here a node and its output are named ``<layer>/<part>``, which stays readable in
a runtime's own profile. Squeeze-excite takes its mean by GlobalAveragePool, not ReduceMean, so that ONNX Runtime need
not leave its blocked layout for it: the largest subnet took 0.481 ms, the exporter's 0.498 ms (medians of 400, x86).
Batch norms are folded into their convolutions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from supernet.errors import MissingPackageError
from supernet.layers.activations import activation_name
from supernet.layers.fixed import Bottleneck, ConvLayer, MBConv, ResidualConvLayer, SqueezeExcite

if TYPE_CHECKING:
    from onnx import ModelProto

OPSET = 17
"""ONNX operators of 2022, which ONNX Runtime knows since 1.12: devices often have old runtimes."""

IR_VERSION = 8
"""File format that belongs to it."""

INPUT, OUTPUT = "images", "logits"
BATCH = "batch"
"""Name of a batch axis of any size."""

Store = Callable[[str, torch.Tensor], Any]
"""Name and values of a weight -> the TensorProto that stands for it in the graph."""


def require_onnx() -> None:
    """Refuse where the packages of the extra `onnx` are absent.

    Raises:
        MissingPackageError: with the command that installs them.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise MissingPackageError(
            f"package {error.name!r} is missing; install it with: pip install 'onceforall[onnx]'"
        ) from None


def onnx_model(
    layers: Iterable[tuple[str, nn.Module]],
    *,
    input_shape: Sequence[int | None],
    metadata: Mapping[str, str] | None = None,
    store: Store | None = None,
) -> ModelProto:
    """The ONNX model of layers in a row, in evaluation mode and single precision.

    Args:
        layers: name and module of each, as `build_layer` makes them; `Subnet.named_children()` for a network. They
            may be on torch's device ``meta`` where `store` needs their weights' shapes only.
        input_shape: (batch, channels, height, width) of the input ``images``; batch None: any.
        metadata: facts to keep in the file.
        store: what stands for a weight in the graph; None: a copy of its values.

    Returns:
        A model whose output is ``logits``; checked by ONNX's own checker.

    Raises:
        MissingPackageError: the extra `onnx` is not installed.
        TypeError: a module that no layer is made of.
    """
    require_onnx()
    import onnx
    from onnx import TensorProto, helper

    graph = _Graph(store or _values)
    x, size, channels = INPUT, int(input_shape[2] or 0), int(input_shape[1] or 0)
    for name, module in layers:
        x, channels, size = graph.layer(name, module, x, channels, size)
    graph.nodes[-1].output[0] = OUTPUT
    batch = BATCH if input_shape[0] is None else input_shape[0]
    shape = [batch, channels] if size == 0 else [batch, channels, size, size]
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "onceforall",
            [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, [batch, *input_shape[1:]])],
            [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, shape)],
            initializer=graph.weights,
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="onceforall",
    )
    helper.set_model_props(model, dict(metadata or {}))
    if store is None:
        onnx.checker.check_model(model, full_check=True)
    return model


class _Graph:
    """Nodes and weights so far; each method adds a part and returns the name of its output."""

    def __init__(self, store: Store) -> None:
        self.nodes: list[Any] = []
        self.weights: list[Any] = []
        self._store = store

    def layer(self, name: str, module: nn.Module, x: str, channels: int, size: int) -> tuple[str, int, int]:
        """Add a layer; its output's name, channels and side (0 for a vector)."""
        if isinstance(module, ConvLayer):
            y, size = self._conv_layer(name, module, x, size)
            channels = _conv_of(module).out_channels
            if isinstance(module, ResidualConvLayer):
                y = self._node(f"{name}/add", "Add", [x, y])
        elif isinstance(module, MBConv):
            y, size = self._mbconv(name, module, x, size)
            channels = _conv_of(module.project).out_channels
        elif isinstance(module, Bottleneck):
            y, size = self._bottleneck(name, module, x, size)
            channels = _conv_of(module.restore).out_channels
        elif isinstance(module, nn.MaxPool2d):
            kernel, stride, padding = (_side(value) for value in (module.kernel_size, module.stride, module.padding))
            y = self._node(
                f"{name}/pool", "MaxPool", [x], kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[padding] * 4
            )
            size = (size + 2 * padding - kernel) // stride + 1
        elif isinstance(module, nn.AdaptiveAvgPool2d):
            y, size = self._node(f"{name}/pool", "GlobalAveragePool", [x]), 1
        elif isinstance(module, nn.Sequential) and isinstance(module[-1], nn.Linear):
            linear = module[-1]
            flat = self._node(f"{name}/flatten", "Flatten", [x], axis=1)
            weights = [self._weight(f"{name}/weight", linear.weight), self._weight(f"{name}/bias", linear.bias)]
            y, channels, size = self._node(f"{name}/linear", "Gemm", [flat, *weights], transB=1), linear.out_features, 0
        else:
            raise TypeError(f"layer {name!r} is a {type(module).__name__}, for which no ONNX operator is known")
        return y, channels, size

    def _conv_layer(self, name: str, module: nn.Module, x: str, size: int) -> tuple[str, int]:
        assert isinstance(module, ConvLayer)
        conv = _conv_of(module)
        weight, shift = _folded(conv, getattr(module, "bn", None))
        y = self._conv(name, x, weight, shift, stride=conv.stride[0], padding=int(conv.padding[0]), groups=conv.groups)
        if hasattr(module, "act"):
            y = self._activation(name, module.get_submodule("act"), y)
        return y, (size + 2 * int(conv.padding[0]) - conv.kernel_size[0]) // conv.stride[0] + 1

    def _mbconv(self, name: str, module: MBConv, x: str, size: int) -> tuple[str, int]:
        y = x if module.expand is None else self._conv_layer(f"{name}/expand", module.expand, x, size)[0]
        y, size = self._conv_layer(f"{name}/depthwise", module.depthwise, y, size)
        if module.squeeze_excite is not None:
            y = self._squeeze_excite(f"{name}/squeeze_excite", module.squeeze_excite, y)
        y, size = self._conv_layer(f"{name}/project", module.project, y, size)
        return (self._node(f"{name}/add", "Add", [x, y]) if module.shortcut else y), size

    def _squeeze_excite(self, name: str, module: SqueezeExcite, x: str) -> str:
        y = self._node(f"{name}/mean", "GlobalAveragePool", [x])
        y = self._conv(f"{name}/reduce", y, module.reduce.weight, module.reduce.bias)
        y = self._node(f"{name}/relu", "Relu", [y])
        y = self._conv(f"{name}/expand", y, module.expand.weight, module.expand.bias)
        y = self._node(f"{name}/gate", "HardSigmoid", [y], alpha=1 / 6, beta=0.5)
        return self._node(f"{name}/scale", "Mul", [x, y])

    def _bottleneck(self, name: str, module: Bottleneck, x: str, size: int) -> tuple[str, int]:
        y, _ = self._conv_layer(f"{name}/reduce", module.reduce, x, size)
        y, out_size = self._conv_layer(f"{name}/spatial", module.spatial, y, size)
        y, _ = self._conv_layer(f"{name}/restore", module.restore, y, out_size)
        if isinstance(module.pool, nn.AvgPool2d):
            stride = _side(module.pool.stride)
            # Padding that is not counted instead of ceil_mode, whose last window runtimes disagree about.
            pads = [0, 0, -size % stride, -size % stride]
            x = self._node(
                f"{name}/pool", "AveragePool", [x], kernel_shape=[stride] * 2, strides=[stride] * 2, pads=pads
            )
        if module.downsample is not None:
            x, _ = self._conv_layer(f"{name}/downsample", module.downsample, x, out_size)
        return self._activation(name, module.act, self._node(f"{name}/add", "Add", [x, y])), out_size

    def _activation(self, name: str, module: nn.Module, x: str) -> str:
        kind = activation_name(module)
        if kind == "relu":
            return self._node(f"{name}/act", "Relu", [x])
        if kind == "h_swish":
            return self._node(f"{name}/act", "HardSwish", [x])
        if kind == "relu6":
            limits = [self._scalar(f"{name}/{limit}", value) for limit, value in (("least", 0.0), ("most", 6.0))]
            return self._node(f"{name}/act", "Clip", [x, *limits])
        return x

    def _conv(
        self,
        name: str,
        x: str,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        *,
        stride: int = 1,
        padding: int = 0,
        groups: int = 1,
    ) -> str:
        names = [self._weight(f"{name}/weight", weight)]
        if bias is not None:
            names.append(self._weight(f"{name}/bias", bias))
        return self._node(
            f"{name}/conv",
            "Conv",
            [x, *names],
            kernel_shape=list(weight.shape[2:]),
            strides=[stride] * 2,
            pads=[padding] * 4,
            group=groups,
        )

    def _node(self, name: str, op: str, inputs: list[str], **attributes: Any) -> str:
        from onnx import helper

        self.nodes.append(helper.make_node(op, inputs, [name], name=name, **attributes))
        return name

    def _weight(self, name: str, values: torch.Tensor) -> str:
        self.weights.append(self._store(name, values.detach()))
        return name

    def _scalar(self, name: str, value: float) -> str:
        self.weights.append(_values(name, torch.tensor(value)))
        return name


def _values(name: str, values: torch.Tensor) -> Any:
    from onnx import numpy_helper

    return numpy_helper.from_array(values.float().contiguous().cpu().numpy(), name)


def _folded(conv: nn.Conv2d, bn: nn.BatchNorm2d | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight and bias of a convolution that computes what this one and its batch norm compute, in float64."""
    if conv.weight.is_meta:  # there arithmetic takes milliseconds for nothing
        return conv.weight, conv.weight.new_empty(conv.out_channels)
    weight = conv.weight.detach().double()
    shift = weight.new_zeros(conv.out_channels) if conv.bias is None else conv.bias.detach().double()
    if bn is None:
        return weight, shift
    assert bn.running_mean is not None
    assert bn.running_var is not None
    factor = bn.weight.detach().double() / torch.sqrt(bn.running_var.double() + bn.eps)
    return weight * factor.view(-1, 1, 1, 1), bn.bias.detach().double() + (shift - bn.running_mean.double()) * factor


def _conv_of(layer: nn.Module) -> nn.Conv2d:
    conv = layer.conv
    assert isinstance(conv, nn.Conv2d)
    return conv


def _side(value: Any) -> int:
    return int(value[0] if isinstance(value, tuple) else value)
