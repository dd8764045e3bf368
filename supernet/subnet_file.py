"""A subnet as a folder of three files: `subnet.safetensors`, `config.json`, `card.json`; no pickle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from supernet.arch import SubnetConfig
from supernet.errors import CheckpointError, ConfigError
from supernet.files import read_json, sha256_file, write_json
from supernet.images import Normalisation
from supernet.network import Subnet
from supernet.spaces import get_space
from supernet.tensors import load_into, load_tensors, save_tensors

WEIGHTS, CONFIG, CARD = "subnet.safetensors", "config.json", "card.json"


def save_subnet(
    folder: Path, subnet: Subnet, card: Mapping[str, Any], *, normalisation: Normalisation, class_names: list[str]
) -> None:
    """Write the three files; the folder is made where it is absent.

    Args:
        folder: where to.
        subnet: a calibrated subnet.
        card: what is known about it (figures, digests), as JSON types.
        normalisation: of the images that it was trained on; a user of the file needs it.
        class_names: names of the outputs, in order.
    """
    save_tensors(folder / WEIGHTS, subnet.state_dict())
    write_json(folder / CARD, dict(card))
    write_json(  # last: it binds the other two together
        folder / CONFIG,
        {
            "format": 1,
            "weights_sha256": sha256_file(folder / WEIGHTS),
            "config": subnet.config.to_dict(),
            "num_classes": subnet.space.num_classes,
            "class_names": class_names,
            "mean": list(normalisation.mean),
            "std": list(normalisation.std),
        },
    )


def load_subnet(folder: Path) -> Subnet:
    """Rebuild the network from its folder, in evaluation mode.

    Raises:
        CheckpointError: files absent, damaged, altered, or not of one subnet.
    """
    description = _read_config(folder)
    try:
        config = SubnetConfig.from_dict(description["config"])
        space = get_space(config.space).with_num_classes(description["num_classes"])
        expected = str(description["weights_sha256"])
    except (ConfigError, KeyError, TypeError) as error:
        raise CheckpointError(f"{str(folder / CONFIG)!r} does not describe a subnet: {error}") from None
    with torch.device("meta"):
        subnet = Subnet(space, config)
    subnet.to_empty(device="cpu")
    path = folder / WEIGHTS
    load_into(subnet, load_tensors(path), repr(str(path)))
    if sha256_file(path) != expected:
        raise CheckpointError(
            f"{str(path)!r} is not the file that {CONFIG} beside it was written for; "
            "extract or download the subnet again"
        )
    return subnet.eval()


def load_normalisation(folder: Path) -> Normalisation:
    """Mean and standard deviation that the subnet's input images need."""
    description = _read_config(folder)
    try:
        return Normalisation(tuple(description["mean"]), tuple(description["std"]))
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{str(folder / CONFIG)!r} lacks the normalisation: {error}") from None


def _read_config(folder: Path) -> dict[str, Any]:
    description = read_json(folder / CONFIG)
    if not isinstance(description, dict) or description.get("format") != 1:
        raise CheckpointError(f"{str(folder / CONFIG)!r} is not a subnet description of format 1")
    return description
