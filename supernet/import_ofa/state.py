"""The reference's state dicts in one form, and what does not fit in one list.

One network is written in several ways: inside ``{"state_dict": ...}`` or bare; with DataParallel's ``module.`` before
each key; with ``mobile_inverted_conv`` (older) or ``conv`` for a block's convolutions; and with a name that is doubled
where a layer is elastic (``bn.bn.weight``) and single where it is not. Here every key becomes the shortest of these:
``blocks.3.conv.depth_conv.bn.weight``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from supernet.errors import CheckpointError

_OURS_TO_REFERENCE = (
    ("depthwise.transforms.", "depth_conv.conv."),
    ("depthwise.", "depth_conv."),
    ("squeeze_excite.", "depth_conv.se.fc."),
    ("project.", "point_linear."),
    ("expand.", "inverted_bottleneck."),
    ("reduce.", "conv1."),
    ("spatial.", "conv2."),
    ("restore.", "conv3."),
)
"""Start of a parameter's name inside a layer -> the reference's."""
_COUNTER = "num_batches_tracked"


@dataclass(frozen=True)
class Given:
    """A tensor as it came: the key that it had, and the value."""

    key: str
    value: Any


def reference_name(prefix: str, parameter: str) -> str:
    """Where the reference keeps a parameter, in the short form.

    Args:
        prefix: the reference's name of the layer, for example ``blocks.3.conv``.
        parameter: our name inside the layer, for example ``depthwise.transforms.7to5``.
    """
    for ours, theirs in _OURS_TO_REFERENCE:
        if parameter.startswith(ours):
            suffix = "_matrix" if ours == "depthwise.transforms." else ""
            return _short(f"{prefix}.{theirs}{parameter.removeprefix(ours)}{suffix}")
    return _short(f"{prefix}.{parameter}")


def short_form(state_dict: object) -> dict[str, Given]:
    """The tensors by the short form of their keys, without batch norm's counters of batches, which decide nothing.

    Raises:
        CheckpointError: not a state dict, or two keys that mean the same tensor.
    """
    inner = state_dict.get("state_dict") if isinstance(state_dict, Mapping) else None
    tensors = inner if isinstance(inner, Mapping) else state_dict
    if not isinstance(tensors, Mapping) or not tensors or not all(isinstance(key, str) for key in tensors):
        raise CheckpointError(
            f"a state dict maps names to tensors, got {type(tensors).__name__} "
            f"{str(tensors)[:60]!r}; give net.state_dict(), or a file that holds it"
        )
    found: dict[str, Given] = {}
    twice: list[str] = []
    for key, value in tensors.items():
        short = _short(key.removeprefix("module.").replace("mobile_inverted_conv", "conv"))
        if short.endswith(_COUNTER):
            continue
        if short in found:
            twice.append(f"{found[short].key} and {key}")
        found[short] = Given(key, value)
    if twice:
        raise CheckpointError(
            f"the state dict names tensors twice: {'; '.join(sorted(twice))}; keep one key of each pair"
        )
    return found


def fit(
    expected: Mapping[str, Tensor], names: Mapping[str, str], given: Mapping[str, Given]
) -> tuple[dict[str, Tensor], list[str]]:
    """Match tensors with a network's.

    Args:
        expected: our name -> a tensor of the right shape (a meta tensor will do).
        names: our name -> the reference's, in the short form.
        given: the reference's name -> tensor.

    Returns:
        Our state dict, float32, sharing no memory with `given`; and all faults, sorted: keys that are missing, unknown,
        misshapen, or hold values that are not finite.
    """
    state: dict[str, Tensor] = {}
    known = set(names.values())
    faults = [f"{tensor.key} is unknown" for name, tensor in given.items() if name not in known]
    for ours, like in expected.items():
        if ours.endswith(_COUNTER):
            state[ours] = torch.zeros((), dtype=torch.int64)
            continue
        found = given.get(names[ours])
        if found is None:
            faults.append(f"{names[ours]} is missing")
        elif not isinstance(found.value, Tensor):
            faults.append(f"{found.key} is {type(found.value).__name__}, expected a tensor of floating point numbers")
        elif not found.value.is_floating_point() or found.value.layout is not torch.strided:
            kind = f"{found.value.dtype} ({found.value.layout})"
            faults.append(f"{found.key} is {kind}, expected dense floating point numbers")
        elif found.value.shape != like.shape:
            faults.append(f"{found.key} is {list(found.value.shape)}, expected {list(like.shape)}")
        elif not torch.isfinite(found.value).all():
            faults.append(f"{found.key} holds values that are not finite")
        else:
            state[ours] = found.value.detach().to("cpu", torch.float32, copy=True)
    return state, sorted(faults)


def _short(key: str) -> str:
    """A word that stands twice or more in a row stands once."""
    return ".".join(word for word, _ in groupby(key.split(".")))
