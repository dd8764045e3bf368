"""Weights of the reference's specialised networks: MobileNetV3, ProxylessNASNets, ResNets -> `Network`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from supernet.errors import CheckpointError
from supernet.import_ofa.architectures import DEFAULT_RESOLUTION, Architecture, lower_net_config
from supernet.import_ofa.state import fit, reference_name, short_form
from supernet.network import Network, Subnet
from supernet.spaces import get_space


def load_ofa_subnet(
    net_config: Mapping[str, Any], state_dict: Mapping[str, Any], *, resolution: int = DEFAULT_RESOLUTION
) -> Network:
    """A specialised network of the reference with its weights, as an ordinary network.

    Args:
        net_config: content of its `net.config`, or the reference's `network.config`.
        state_dict: its weights, as it or a file of it gives them (see `state`).
        resolution: side of its input images, pixels (a `run.config` states it).

    Returns:
        The network in evaluation mode; a `Subnet` where it is one of one of our spaces.

    Raises:
        ConfigError: the architecture holds something that a `LayerSpec` cannot say.
        CheckpointError: keys are missing, unknown or misshapen (all of them in the one message).
    """
    return build_network(lower_net_config(net_config, resolution), state_dict)


def build_network(architecture: Architecture, state_dict: Mapping[str, Any]) -> Network:
    """The same for an architecture that has been read already."""
    given = short_form(state_dict)
    if any("7to5_matrix" in name or "5to3_matrix" in name for name in given):
        raise CheckpointError(
            "the state dict is of a whole supernet (it has kernel transforms), not of one specialised network; "
            "import it with: onceforall import-ofa WEIGHTS --space NAME --run FOLDER"
        )
    network = empty_network(architecture)
    prefixes = {layer.name: layer.prefix for layer in architecture.layers}
    expected = network.state_dict()
    names = {}
    for ours in expected:
        name, parameter = ours.split(".", 1)
        names[ours] = reference_name(prefixes[name], parameter)
    state, faults = fit(expected, names, given)
    if faults:
        raise CheckpointError(
            f"the state dict does not fit the net.config, {len(faults)} fault(s): {'; '.join(faults)}; "
            "give the weights that belong to it"
        )
    network.load_state_dict(state, assign=True)
    return network.eval()


def empty_network(architecture: Architecture) -> Network:
    """The network on the meta device: shapes without weights."""
    with torch.device("meta"):
        if architecture.config is not None:
            classes = architecture.layers[-1].spec.out_channels
            return Subnet(get_space(architecture.config.space).with_num_classes(classes), architecture.config)
        return Network([(layer.name, layer.spec) for layer in architecture.layers], bn_eps=architecture.bn_eps)
