"""Where a model is, and the same model and inputs elsewhere."""

from __future__ import annotations

from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from pruning.trace import copy_of


def device_of(model: nn.Module) -> torch.device:
    """Of its first parameter or buffer; the CPU where it has none."""
    tensor = next(chain(model.parameters(), model.buffers()), None)
    return torch.device("cpu") if tensor is None else tensor.device


def on_cpu(model: nn.Module) -> nn.Module:
    """The model itself where all of it is on the CPU, else a copy that is."""
    if all(tensor.device.type == "cpu" for tensor in chain(model.parameters(), model.buffers())):
        return model
    return copy_of(model).cpu()


def inputs_on(inputs: Any, device: torch.device) -> Any:
    """The same structure with every tensor on the device."""
    return pytree.tree_map(lambda item: item.to(device) if isinstance(item, Tensor) else item, inputs)
