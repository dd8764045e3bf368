"""The reference's supernets: OFAMobileNetV3, OFAProxylessNASNets, OFAResNets -> `Supernet`."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from supernet.arch import LayerSpec
from supernet.errors import CheckpointError
from supernet.import_ofa.state import Given, fit, reference_name, short_form
from supernet.network import Supernet
from supernet.spaces import SearchSpace, get_space, list_spaces

_CLASSIFIER = "classifier.linear.weight"


def load_ofa_state_dict(space_name: str, state_dict: Mapping[str, Any]) -> Supernet:
    """A supernet of ours with the weights of one of the reference's, kernel transforms and statistics included.

    Every subnet then computes what the reference's computes (with its default, KERNEL_TRANSFORM_MODE = 1).

    Args:
        space_name: name of the search space.
        state_dict: the reference's, as it or a file of it gives it (see `state`). The classifier's shape decides the
            number of classes.

    Returns:
        The supernet, in evaluation mode, its largest subnet active.

    Raises:
        ConfigError: no such space.
        CheckpointError: keys are missing, unknown or misshapen (all of them in the one message), or the state dict is
            of another space, which is named.
    """
    space = get_space(space_name)
    given = short_form(state_dict)
    net, state, faults = _match(space, given)
    if faults:
        raise CheckpointError(_explain(space_name, faults, given))
    net.load_state_dict(state, assign=True)
    return net.eval()


def _explain(space_name: str, faults: list[str], given: Mapping[str, Given]) -> str:
    """What is wrong with a state dict; where it fits another space at least twice as well, what is wrong as that."""
    found = {name: _match(get_space(name), given)[2] for name in list_spaces()}
    nearest = min(found, key=lambda name: len(found[name]))
    if 2 * len(found[nearest]) >= len(faults):
        return (
            f"the state dict does not fit {space_name}, {len(faults)} fault(s): {'; '.join(faults)}; "
            "give the whole state dict of a supernet of this space"
        )
    but = f", but for {len(found[nearest])} fault(s): {'; '.join(found[nearest])}" if found[nearest] else ""
    return f"the state dict does not fit {space_name}: it looks like {nearest}{but}; import it as that space"


def _match(space: SearchSpace, given: Mapping[str, Given]) -> tuple[Supernet, dict[str, Tensor], list[str]]:
    """The network without weights, the weights for it, and what does not fit."""
    classifier = given.get(_CLASSIFIER)
    if classifier is not None and isinstance(classifier.value, Tensor) and classifier.value.ndim == 2:
        space = space.with_num_classes(len(classifier.value))
    with torch.device("meta"):
        net = Supernet(space)
    layers = [(name, spec) for name, spec in space.named_layers(space.largest()) if spec is not None]
    prefixes = _prefixes(layers)
    expected = net.state_dict()
    names = {}
    for ours in expected:
        _, site, parameter = ours.split(".", 2)
        names[ours] = reference_name(prefixes[site], parameter)
    return net, *fit(expected, names, given)


def _prefixes(layers: Sequence[tuple[str, LayerSpec]]) -> dict[str, str]:
    """Layer site -> the reference's name of it, by the layer's place in the network."""
    result = {}
    ops = [spec.op for _, spec in layers]
    pooled = ops.index("pool")
    resnet, mixed_after_pool = "bottleneck" in ops, ops[pooled + 1] == "conv"
    blocks = itertools.count()
    for number, (site, spec) in enumerate(layers):
        if spec.op == "mbconv":
            result[site] = f"blocks.{next(blocks)}.conv"
        elif spec.op == "bottleneck":
            result[site] = f"blocks.{next(blocks)}"
        elif spec.op == "linear":
            result[site] = "classifier"
        elif spec.op == "conv" and resnet:
            result[site] = f"input_stem.{number}" + (".conv" if spec.shortcut else "")
        elif spec.op == "conv" and number == 0:
            result[site] = "first_conv"
        elif spec.op == "conv":
            result[site] = "final_expand_layer" if number < pooled and mixed_after_pool else "feature_mix_layer"
    return result
