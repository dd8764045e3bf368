"""A compact model as a copy of the model whose modules hold fewer channels; it can be trained on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from pruning.plan import Plan, cut
from pruning.trace import copy_of

Attributes = dict[str, dict[str, Any]]


def cut_modules(
    model: nn.Module, tensors: Mapping[str, Mapping[int, list[int]]], attributes: Mapping[str, Mapping[str, Any]]
) -> nn.Module:
    """A copy of the model with cut tensors and changed settings.

    Args:
        model: is left as it is.
        tensors: kept positions, as in a plan.
        attributes: settings, as in a plan.
    """
    new = copy_of(model)
    names: dict[int, str] = {}
    made: dict[int, Any] = {}
    for name, tensor in (*new.named_parameters(remove_duplicate=False), *new.named_buffers(remove_duplicate=False)):
        names.setdefault(id(tensor), name)
        kept = tensors.get(names[id(tensor)])
        if not kept:
            continue
        if id(tensor) not in made:
            part = cut(tensor, kept)
            is_parameter = isinstance(tensor, nn.Parameter)
            made[id(tensor)] = nn.Parameter(part, tensor.requires_grad) if is_parameter else part
        path, _, attribute = name.rpartition(".")
        owner = new.get_submodule(path)
        if isinstance(tensor, nn.Parameter):
            owner._parameters[attribute] = made[id(tensor)]
        else:
            owner._buffers[attribute] = made[id(tensor)]
    for path, settings in attributes.items():
        module = new.get_submodule(path)
        for attribute, value in settings.items():
            setattr(module, attribute, value)
    return new


def apply_plan(model: nn.Module, plan: Plan) -> nn.Module:
    """The compact model that a plan of the form ``modules`` describes, with the model's own numbers."""
    return cut_modules(model, plan.tensors, plan.attributes)


def settings_after(
    model: nn.Module,
    tensors: Mapping[str, Mapping[int, list[int]]],
    inputs: Mapping[str, tuple[int, bool]],
    heads: Mapping[str, list[tuple[int, int, int]]],
) -> Attributes:
    """The settings of torch's modules that follow from the shapes of cut tensors.

    Args:
        model: uncut.
        tensors: kept positions, as in a plan.
        inputs: by weight of a convolution or group norm, kept channels of its input, and whether whole groups go.
        heads: by module path, for each set of units produced below it: units, kept units, positions of each unit in
            what reads it.
    """
    found: Attributes = {}
    for path, module in model.named_modules():
        own = {
            attribute: tensors.get(f"{path}.{attribute}" if path else attribute, {})
            for attribute in (*module._parameters, *module._buffers)
        }
        weight = f"{path}.weight" if path else "weight"
        new = _settings(module, own, inputs.get(weight)) | _head_settings(module, heads.get(path, []))
        changed = {name: value for name, value in new.items() if getattr(module, name, value) != value}
        if changed:
            found[path] = changed
    return found


def _settings(module: nn.Module, own: Mapping[str, Mapping[int, list[int]]], read: tuple[int, bool] | None) -> Any:
    kept = own.get("weight", {})

    def size(axis: int) -> int:
        weight: Any = module.weight
        return len(kept[axis]) if axis in kept else int(weight.shape[axis])

    if isinstance(module, _ConvNd):
        out_axis, in_axis = (1, 0) if isinstance(module, _ConvTransposeNd) else (0, 1)
        if module.groups == 1:
            return {"in_channels": size(in_axis), "out_channels": size(out_axis)}
        if read is None:
            return {}
        channels, whole = read
        groups = channels * module.groups // module.in_channels if whole else module.groups
        out = size(1) * groups if out_axis else size(0)
        return {"in_channels": channels, "out_channels": out, "groups": groups}
    if isinstance(module, nn.Linear):
        return {"in_features": size(1), "out_features": size(0)}
    if isinstance(module, _NormBase):
        sizes = [len(axes[0]) for axes in own.values() if 0 in axes]
        return {"num_features": sizes[0]} if sizes else {}
    if isinstance(module, nn.GroupNorm) and read is not None:
        return {"num_channels": read[0], "num_groups": read[0] * module.num_groups // module.num_channels}
    if isinstance(module, nn.PReLU) and kept:
        return {"num_parameters": size(0)}
    if isinstance(module, nn.Embedding) and kept:
        return {"embedding_dim": size(1)}
    return {}


def _head_settings(module: nn.Module, heads: list[tuple[int, int, int]]) -> dict[str, int]:
    """Numbers of heads, and widths of all heads together, that a module keeps under the usual names.

    Whether the guess is right is decided where outputs are compared.
    """
    found = {}
    for units, kept, width in heads:
        for name, value in vars(module).items():
            if type(value) is not int:
                continue
            if value == units and "head" in name and "dim" not in name:
                found[name] = kept
            elif value == units * width and name in ("attn_dim", "inner_dim", "all_head_size", "dim_out"):
                found[name] = kept * width
    return found
