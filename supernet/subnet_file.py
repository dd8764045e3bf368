"""A subnet as a folder of three files: `subnet.safetensors`, `config.json`, `card.json`; no pickle.

`config.json` says which subnet of which space it is; or, for an imported network that is of no space, lists its layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, get_args

import torch

from supernet.arch import Activation, LayerSpec, Operator, SubnetConfig
from supernet.errors import CheckpointError, ConfigError
from supernet.files import read_json, sha256_file, write_json
from supernet.images import Normalisation, checked_share
from supernet.network import Network, Subnet
from supernet.spaces import get_space
from supernet.tensors import load_into, load_tensors, save_tensors

WEIGHTS, CONFIG, CARD = "subnet.safetensors", "config.json", "card.json"


def save_subnet(
    folder: Path,
    subnet: Network,
    card: Mapping[str, Any],
    *,
    normalisation: Normalisation,
    class_names: list[str],
    centre_share: float = 1.0,
) -> None:
    """Write the three files; the folder is made where it is absent.

    Args:
        folder: where to.
        subnet: a calibrated subnet.
        card: what is known about it (figures, digests), as JSON types.
        normalisation: of the images that it was trained on; a user of the file needs it.
        class_names: names of the outputs, in order.
        centre_share: part of an image's shorter side that the square in its middle, the subnet's input, keeps.
    """
    save_tensors(folder / WEIGHTS, subnet.state_dict())
    write_json(folder / CARD, dict(card))
    write_json(  # last: it binds the other two together
        folder / CONFIG,
        {
            "format": 1,
            "weights_sha256": sha256_file(folder / WEIGHTS),
            **_architecture(subnet),
            "num_classes": subnet.num_classes,
            "class_names": class_names,
            "mean": list(normalisation.mean),
            "std": list(normalisation.std),
            "centre_share": centre_share,
        },
    )


def load_subnet(folder: Path | str) -> Network:
    """Rebuild the network from its folder, in evaluation mode.

    Raises:
        CheckpointError: files absent, damaged, altered, or not of one subnet.
    """
    folder = Path(folder)
    description = _read_config(folder)
    try:
        with torch.device("meta"):
            subnet = _build(description)
        expected = str(description["weights_sha256"])
    except (ConfigError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{str(folder / CONFIG)!r} does not describe a subnet: {error}") from None
    subnet.to_empty(device="cpu")
    path = folder / WEIGHTS
    load_into(subnet, load_tensors(path), repr(str(path)))
    if sha256_file(path) != expected:
        raise CheckpointError(
            f"{str(path)!r} is not the file that {CONFIG} beside it was written for; "
            "extract or download the subnet again"
        )
    return subnet.eval()


def _architecture(subnet: Network) -> dict[str, Any]:
    if isinstance(subnet, Subnet):
        return {"config": subnet.config.to_dict()}
    named = zip((name for name, _ in subnet.named_children()), subnet.specs, strict=True)
    return {
        "config": None,
        "layers": [{"name": name, **asdict(spec)} for name, spec in named],
        "bn_eps": subnet.bn_eps,
    }


def _build(description: Mapping[str, Any]) -> Network:
    """The network that `_architecture` described."""
    if description["config"] is not None:
        config = SubnetConfig.from_dict(description["config"])
        return Subnet(get_space(config.space).with_num_classes(description["num_classes"]), config)
    layers = [(str(layer["name"]), _spec(layer)) for layer in description["layers"]]
    if not layers:
        raise ValueError("it has no layers")
    return Network(layers, bn_eps=float(description["bn_eps"]))


def _spec(layer: Mapping[str, Any]) -> LayerSpec:
    values = {field.name: layer[field.name] for field in fields(LayerSpec)}
    kinds = {"op": str, "activation": str, "shortcut": bool, "batch_norm": bool}
    wrong = [f"{name} {value!r}" for name, value in values.items() if type(value) is not kinds.get(name, int)]
    wrong += [f"op {values['op']!r}"] * (values["op"] not in get_args(Operator))
    wrong += [f"activation {values['activation']!r}"] * (values["activation"] not in get_args(Activation))
    if wrong:
        raise ValueError(f"layer {layer['name']!r} has {', '.join(wrong)}")
    return LayerSpec(**values)


def load_normalisation(folder: Path) -> Normalisation:
    """Mean and standard deviation that the subnet's input images need."""
    description = _read_config(folder)
    try:
        return Normalisation(tuple(description["mean"]), tuple(description["std"]))
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{str(folder / CONFIG)!r} lacks the normalisation: {error}") from None


def load_class_names(folder: Path) -> list[str]:
    """Names of the subnet's outputs, in order; none where the folder says nothing."""
    description = _read_config(folder)
    names = description.get("class_names") or []
    if not isinstance(names, list) or (names and len(names) != description.get("num_classes")):
        raise CheckpointError(
            f"{str(folder / CONFIG)!r} names {len(names) if isinstance(names, list) else names!r} classes of "
            f"{description.get('num_classes')}; extract or download the subnet again"
        )
    return [str(name) for name in names]


def load_centre_share(folder: Path) -> float:
    """Part of an image's shorter side that the subnet's input keeps, in (0, 1]; 1 where an old folder says nothing."""
    try:
        return checked_share(_read_config(folder).get("centre_share", 1.0))
    except CheckpointError as error:
        raise CheckpointError(
            f"{str(folder / CONFIG)!r} is not a subnet's: {error}; extract the subnet again"
        ) from None


def _read_config(folder: Path) -> dict[str, Any]:
    description = read_json(folder / CONFIG)
    if not isinstance(description, dict) or description.get("format") != 1:
        raise CheckpointError(f"{str(folder / CONFIG)!r} is not a subnet description of format 1")
    return description
