"""The reference's `net.config` and `run.config` files: a specialised network, layer by layer -> `LayerSpec`s."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from supernet.arch import LayerSpec, SubnetConfig
from supernet.errors import ConfigError, one_of
from supernet.files import read_json
from supernet.import_ofa.fields import Fields
from supernet.spaces import get_space, list_spaces, make_divisible
from supernet.spaces.base import strided
from supernet.spaces.inverted_residual import squeeze_width
from supernet.spaces.recognise import recognise

DEFAULT_RESOLUTION = 224
_BN_EPS = {"MobileNetV3": 1e-5, "ProxylessNASNets": 1e-3, "ResNets": 1e-5}
"""Families, and their batch norms' epsilon where a file does not state one."""


@dataclass(frozen=True)
class ImportedLayer:
    """One layer: our name for it, the reference's (start of its keys in a state dict), and what it is."""

    name: str
    prefix: str
    spec: LayerSpec


@dataclass(frozen=True)
class Architecture:
    """A specialised network of the reference.

    Attributes:
        family: the reference's class: MobileNetV3, ProxylessNASNets or ResNets.
        resolution: side of the input image, pixels.
        layers: from the image to the logits. Dropout, which acts in training only, is left out.
        bn_eps: epsilon of every batch norm.
        config: which subnet of one of our spaces it is; None: of none of them.
    """

    family: str
    resolution: int
    layers: tuple[ImportedLayer, ...]
    bn_eps: float
    config: SubnetConfig | None

    @property
    def specs(self) -> list[LayerSpec]:
        """The layers as the costs see them."""
        return [layer.spec for layer in self.layers]


def load_ofa_net_config(net_config: Path | str, run_config: Path | str) -> list[LayerSpec]:
    """Layers of a specialised network of the reference.

    Args:
        net_config: its `net.config`: the layers.
        run_config: its `run.config`: the resolution.

    Raises:
        CheckpointError: a file is absent or not JSON.
        ConfigError: it describes something that a `LayerSpec` cannot say (all faults in one message).
    """
    return read_net_config(net_config, run_config).specs


def read_net_config(net_config: Path | str, run_config: Path | str | None = None) -> Architecture:
    """The same with names and, where it is one of our spaces' subnets, its config; 224 pixels without `run_config`."""
    resolution = DEFAULT_RESOLUTION if run_config is None else _read_resolution(Path(run_config))
    return lower_net_config(read_json(Path(net_config)), resolution)


def lower_net_config(net_config: object, resolution: int = DEFAULT_RESOLUTION) -> Architecture:
    """The same from a dictionary, as the reference's `network.config` gives it.

    Args:
        net_config: content of a `net.config`.
        resolution: side of the input image, pixels.

    Raises:
        ConfigError: it describes something that a `LayerSpec` cannot say (all faults in one message).
    """
    family = net_config.get("name") if isinstance(net_config, Mapping) else None
    if not isinstance(net_config, Mapping) or not isinstance(family, str) or family not in _BN_EPS:
        raise ConfigError(f"net.config: {one_of('network', family, list(_BN_EPS))}; give the file of a specialised net")
    lowering = _Lowering(net_config, resolution)
    lowering.resnet() if family == "ResNets" else lowering.inverted_residual_network(family)
    bn_eps = lowering.bn_eps(_BN_EPS[family])
    if lowering.faults:
        raise ConfigError(
            f"net.config cannot be imported, {len(lowering.faults)} fault(s): {'; '.join(lowering.faults)}; "
            "give a net.config as the reference wrote it"
        )
    layers = tuple(lowering.layers)
    specs = [layer.spec for layer in layers]
    for space in map(get_space, list_spaces()):
        config = recognise(space, specs) if space.bn_eps == bn_eps else None
        if config is not None:
            sites = [site for site, spec in space.named_layers(config) if spec is not None]
            named = tuple(replace(layer, name=site) for layer, site in zip(layers, sites, strict=True))
            return Architecture(family, resolution, named, bn_eps, config)
    return Architecture(family, resolution, layers, bn_eps, None)


class _Lowering:
    """Walks through a network's layers, with the size and channels that have been reached."""

    def __init__(self, net_config: Mapping[str, Any], resolution: int) -> None:
        self.net, self.size, self.channels = net_config, resolution, 3
        self.layers: list[ImportedLayer] = []
        self.faults: list[str] = []

    def inverted_residual_network(self, family: str) -> None:
        """MobileNetV3, or ProxylessNASNets, which mixes features before the pool."""
        self._conv("stem", "first_conv", self.net.get("first_conv"))
        for number, block in enumerate(self._list("blocks")):
            self._residual_block(number, block)
        if family == "MobileNetV3":
            self._conv("final_expand", "final_expand_layer", self.net.get("final_expand_layer"))
            self._pool()
            self._conv("feature_mix", "feature_mix_layer", self.net.get("feature_mix_layer"))
        else:
            if self.net.get("feature_mix_layer") is not None:
                self._conv("feature_mix", "feature_mix_layer", self.net["feature_mix_layer"])
            self._pool()
        self._classifier()

    def resnet(self) -> None:
        """ResNets: a stem of plain and residual convolutions, max pool, bottleneck blocks."""
        for number, layer in enumerate(self._list("input_stem")):
            name, where = f"stem{number + 1}", f"input_stem.{number}"
            if isinstance(layer, Mapping) and layer.get("name") == "ResidualBlock":
                inner, shortcut = self._residual(where, layer)
                if inner is not None:
                    self._conv(name, f"{where}.conv", inner, shortcut=shortcut)
            else:
                self._conv(name, where, layer)
        self._append("max_pool", "", LayerSpec("max_pool", *self._shapes(self.channels, 2), kernel=3, stride=2))
        for number, block in enumerate(self._list("blocks")):
            self._bottleneck(number, block)
        self._pool()
        self._classifier()

    def bn_eps(self, default: float) -> float:
        """Epsilon of every batch norm; group norm and weight standardisation are faults."""
        norm = Fields("bn", self.net.get("bn", {}), self.faults)
        norm.only("ws_eps", None)
        norm.only("gn_channel_per_group", None)
        return norm.ratio("eps", default)

    def _residual_block(self, number: int, block: object) -> None:
        where = f"blocks.{number}"
        inner, shortcut = self._residual(where, block)
        if inner is None:
            return  # an identity: the reference's search removed the block
        where += ".conv"
        layer = Fields(where, inner, self.faults, ("MBConvLayer", "MBInvertedConvLayer"))
        self._enters(layer, "in_channels")
        out, kernel, stride = _shape_of(layer)
        expand = layer.ratio("expand_ratio", 6)
        mid = layer.optional_number("mid_channels") or round(self.channels * expand)
        if (expand == 1) != (mid == self.channels):
            layer.fault("mid_channels", mid, f"{self.channels} where expand_ratio is 1, and only there")
        layer.only("groups", None, mid)
        spec = LayerSpec(
            "mbconv",
            *self._shapes(out, stride),
            mid_channels=mid,
            kernel=kernel,
            stride=stride,
            se_channels=squeeze_width(mid) if layer.flag("use_se", False) else 0,
            activation=layer.activation("relu6"),
            shortcut=shortcut,
        )
        self._check_shortcut(layer, spec)
        self._append(f"block{number}", where, spec)

    def _bottleneck(self, number: int, block: object) -> None:
        where = f"blocks.{number}"
        layer = Fields(where, block, self.faults, ("ResNetBottleneckBlock",))
        self._enters(layer, "in_channels")
        out, kernel, stride = _shape_of(layer)
        mid = make_divisible(layer.optional_number("mid_channels") or round(out * layer.ratio("expand_ratio", 0.25)))
        shortcut = stride == 1 and out == self.channels
        layer.only("groups", 1)
        if stride > 1:  # with stride 1 the two modes are the same
            layer.only("downsample_mode", "avgpool_conv")
        spec = LayerSpec(
            "bottleneck",
            *self._shapes(out, stride),
            mid_channels=mid,
            kernel=kernel,
            stride=stride,
            activation=layer.activation("relu"),
            shortcut=shortcut,
        )
        self._append(f"block{number}", where, spec)

    def _conv(self, name: str, where: str, value: object, *, shortcut: bool = False) -> None:
        layer = Fields(where, value, self.faults, ("ConvLayer",))
        self._enters(layer, "in_channels")
        out, kernel, stride = _shape_of(layer)
        layer.only("dilation", 1)
        layer.only("groups", 1)
        for field in ("bias", "has_shuffle", "use_se"):
            layer.only(field, False)
        layer.only("ops_order", "weight_bn_act")
        spec = LayerSpec(
            "conv",
            *self._shapes(out, stride),
            kernel=kernel,
            stride=stride,
            activation=layer.activation("relu"),
            shortcut=shortcut,
            batch_norm=layer.flag("use_bn", True),
        )
        self._check_shortcut(layer, spec)
        self._append(name, where, spec)

    def _pool(self) -> None:
        self._append("pool", "", LayerSpec("pool", self.size, 1, self.channels, self.channels))

    def _classifier(self) -> None:
        layer = Fields("classifier", self.net.get("classifier"), self.faults, ("LinearLayer",))
        self._enters(layer, "in_features")
        for field, allowed in (("bias", True), ("use_bn", False), ("act_func", None), ("ops_order", "weight_bn_act")):
            layer.only(field, allowed)
        classes = layer.number("out_features")
        self._append("classifier", "classifier", LayerSpec("linear", 1, 1, self.channels, classes))

    def _residual(self, where: str, value: object) -> tuple[object, bool]:
        """What a residual block computes (None: nothing), and whether its input is added."""
        block = Fields(where, value, self.faults, ("ResidualBlock", "MobileInvertedResidualBlock"))
        inner = block.values.get("conv", block.values.get("mobile_inverted_conv"))
        shortcut = block.values.get("shortcut")
        if block.broken or _is_nothing(inner):
            return None, False
        if _is_nothing(shortcut):
            return inner, False
        identity = Fields(f"{where}.shortcut", shortcut, self.faults, ("IdentityLayer",))
        identity.only("use_bn", False)
        identity.only("act_func", None)
        return inner, True

    def _check_shortcut(self, layer: Fields, spec: LayerSpec) -> None:
        if spec.shortcut and (spec.stride, spec.in_channels) != (1, spec.out_channels):
            layer.fault("stride", spec.stride, "1, and as many output as input channels, where there is a shortcut")

    def _enters(self, layer: Fields, field: str) -> None:
        """Check that a layer takes the channels that the one before it gives."""
        layer.only(field, self.channels)

    def _shapes(self, out_channels: int, stride: int) -> tuple[int, int, int, int]:
        """First fields of a `LayerSpec`; every operator pads so that only the stride changes the size."""
        return self.size, strided(self.size, stride), self.channels, out_channels

    def _append(self, name: str, prefix: str, spec: LayerSpec) -> None:
        self.layers.append(ImportedLayer(name, prefix, spec))
        self.size, self.channels = spec.out_size, spec.out_channels

    def _list(self, name: str) -> list[object]:
        value = self.net.get(name)
        if isinstance(value, list):
            return value
        self.faults.append(f"{name} is {type(value).__name__}; expected a list of layers")
        return []


def _shape_of(layer: Fields) -> tuple[int, int, int]:
    """Output channels, kernel, stride."""
    return layer.number("out_channels"), layer.number("kernel_size", 3, odd=True), layer.number("stride", 1)


def _is_nothing(layer: object) -> bool:
    return layer is None or (isinstance(layer, Mapping) and layer.get("name") == "ZeroLayer")


def _read_resolution(path: Path) -> int:
    faults: list[str] = []
    resolution = Fields("run.config", read_json(path), faults).number("image_size")
    if faults:
        raise ConfigError(f"{str(path)!r}: {'; '.join(faults)}; give a run.config as the reference wrote it")
    return resolution
