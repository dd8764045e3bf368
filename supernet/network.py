"""The supernet, which holds the weights of every subnet of a space, and the subnets that it gives away."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from supernet.arch import LayerSpec, SubnetConfig, Value
from supernet.errors import ConfigError
from supernet.layers import (
    ElasticBatchNorm,
    ElasticLayer,
    ElasticLinear,
    build_elastic_layer,
    build_layer,
    layer_with_weights,
    reset_weights,
)
from supernet.spaces import LayerSite, SearchSpace

LayerBuilder = Callable[[str, LayerSpec], nn.Module]


class Network(nn.Sequential):
    """An ordinary network: torch's own modules in a row, one a `LayerSpec`, no elastic code.

    Args:
        layers: name and description of each layer, from the image to the logits.
        bn_eps: epsilon of every batch norm.
        build: name and description of a layer -> its module; None: with random weights.

    Attributes:
        specs: its layers, as the costs see them.
        bn_eps: as above.
    """

    def __init__(
        self, layers: Sequence[tuple[str, LayerSpec]], *, bn_eps: float, build: LayerBuilder | None = None
    ) -> None:
        make = build or (lambda _, spec: build_layer(spec, bn_eps=bn_eps))
        super().__init__(OrderedDict((name, make(name, spec)) for name, spec in layers))
        self.specs = [spec for _, spec in layers]
        self.bn_eps = bn_eps

    @property
    def resolution(self) -> int:
        """Side of its input images, pixels."""
        return self.specs[0].in_size

    @property
    def num_classes(self) -> int:
        """Number of its outputs."""
        return self.specs[-1].out_channels


class Subnet(Network):
    """One subnet of a search space as an ordinary network.

    Attributes:
        space: the search space, with the number of classes.
        config: which subnet.
    """

    def __init__(self, space: SearchSpace, config: SubnetConfig, *, build: LayerBuilder | None = None) -> None:
        layers = [(name, spec) for name, spec in space.named_layers(config) if spec is not None]
        super().__init__(layers, bn_eps=space.bn_eps, build=build)
        self.space = space
        self.config = config


class Supernet(nn.Module):
    """All subnets of a space in one set of weights.

    Calling it computes the active subnet (at first the largest one); `activate` chooses another.

    Args:
        space: the search space.
        num_classes: outputs of the classifier; None: the space's own number.
        dropout: probability before the classifier, in training mode only.
        generator: source of the random initial weights; None: torch's global one.
    """

    def __init__(
        self,
        space: SearchSpace,
        num_classes: int | None = None,
        *,
        dropout: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.space = space if num_classes is None else space.with_num_classes(num_classes)
        self.layers = nn.ModuleDict(
            {
                site.name: build_elastic_layer(_all_specs(self.space, site), bn_eps=space.bn_eps, dropout=dropout)
                for site in self.space.sites
            }
        )
        reset_weights(self, generator)
        self.activate(self.space.largest())

    def activate(self, config: SubnetConfig) -> None:
        """Choose the subnet that the next calls compute.

        Raises:
            ConfigError: the config belongs to another space.
        """
        self._steps: list[tuple[ElasticLayer, LayerSpec]] = [
            (self._layer(name), spec) for name, spec in self.space.named_layers(config) if spec is not None
        ]
        self.active = config

    def forward(self, images: Tensor) -> Tensor:
        """Logits of the active subnet.

        Args:
            images: float (N, 3, H, W); normally H = W = `active.resolution`.

        Returns:
            (N, num_classes).
        """
        x = images
        for layer, spec in self._steps:
            x = layer(x, spec)
        return x

    def extract(self, config: SubnetConfig) -> Subnet:
        """Copy one subnet out; the supernet stays as it is.

        The batch norm statistics are the supernet's running ones, which fit no subnet well: `calibrate` them.

        Returns:
            A network in evaluation mode, on the supernet's device.
        """

        def build(name: str, spec: LayerSpec) -> nn.Module:
            return layer_with_weights(spec, self._layer(name).weights_of(spec), bn_eps=self.space.bn_eps)

        with torch.no_grad():
            subnet = Subnet(self.space, config, build=build)
        subnet.training = False  # as its layers are; eval() would visit them all
        return subnet

    def sort_channels(
        self, trained_expands: Sequence[Value] = (), trained_widths: Sequence[Value] | None = None
    ) -> None:
        """Order each block's middle channels by importance, so that narrower subnets keep the best.

        What the largest subnet computes does not change, nor does any subnet whose blocks all have expand ratios
        in `trained_expands` (and widths in `trained_widths`). Source: Cai et al., ICLR 2020, section 3.3.

        Args:
            trained_expands: expand ratios trained so far; their sets of leading channels are kept.
            trained_widths: width multipliers trained so far, of a space that has some; None: all.
        """
        expand_choices = {value for dim in self.space.dimensions if dim.kind == "expand" for value in dim.choices}
        unknown = [value for value in trained_expands if value not in expand_choices]
        if unknown:
            raise ConfigError(f"trained_expands holds {unknown}; allowed: {sorted(expand_choices)}")
        for site in self.space.sites:
            trained = sorted(
                {
                    spec.mid_channels
                    for spec in _all_specs(self.space, site, expands=trained_expands, widths=trained_widths)
                    if spec.mid_channels
                }
            )
            self._layer(site.name).sort_channels(trained)

    def synchronise_batch_norm(self, enabled: bool = True) -> None:
        """Whether batch norms in training mode see the batches of all processes (of torch.distributed) together."""
        for module in self.modules():
            if isinstance(module, ElasticBatchNorm):
                module.synchronised = enabled

    def set_dropout(self, probability: float) -> None:
        """Dropout before the classifier in training mode, from now on."""
        for layer in self.layers.values():
            if isinstance(layer, ElasticLinear):
                layer.dropout = probability

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Two optimiser groups: weights with decay; batch norm, biases and kernel transforms without.

        Decay would pull the transforms towards 0, though their neutral element is the identity.
        """
        decayed: list[nn.Parameter] = []
        others: list[nn.Parameter] = []
        for name, parameter in self.named_parameters():
            (decayed if parameter.ndim > 1 and ".transforms." not in name else others).append(parameter)
        return [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]

    def _layer(self, name: str) -> ElasticLayer:
        layer = self.layers[name]
        assert isinstance(layer, ElasticLayer)
        return layer


def _all_specs(
    space: SearchSpace,
    site: LayerSite,
    *,
    expands: Sequence[Value] | None = None,
    widths: Sequence[Value] | None = None,
) -> list[LayerSpec]:
    """Every layer possible at a site; with `expands` or `widths`, only those of these values."""
    only = {"expand": expands, "width": widths}
    choices = []
    for gene in site.genes:
        dim = space.dimensions[gene]
        allowed = only.get(dim.kind)
        meant = dim.choices if allowed is None else {dim.choice_for(value) for value in allowed}
        choices.append([value for value in dim.choices if value in meant])
    specs = (site.lower(*values) for values in itertools.product(*choices))
    return [spec for spec in dict.fromkeys(specs) if spec is not None]
