"""An imported supernet as a run folder, from which the later steps go on as from a training of one's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from supernet.errors import ConfigError
from supernet.files import sha256_file, write_json
from supernet.images import CENTRE_SHARE, Normalisation
from supernet.network import Supernet
from supernet.runs import FORMAT, IMAGES, MANIFEST, WEIGHTS, RunFolder
from supernet.tensors import save_tensors
from supernet.training.data import TrainingData

NORMALISATION = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Of the images that the reference's networks were trained on (ImageNet): what their inputs must be brought to."""


def require_new_run(path: Path) -> None:
    """Refuse a folder that holds a run.

    Raises:
        ConfigError: it does.
    """
    if (path / MANIFEST).exists():
        raise ConfigError(f"{str(path)!r} holds a run already; choose another folder with --run")


def write_imported_run(
    path: Path,
    net: Supernet,
    *,
    origin: Path,
    data: TrainingData | None = None,
    source: Mapping[str, Any] | None = None,
    calibration_images: int = 512,
) -> RunFolder:
    """Write a completed run: manifest, weights and, with `data`, images for calibration and judging.

    Without images the run can be profiled and its subnets counted, but not calibrated, evaluated or searched.

    Args:
        path: a folder that is absent, or holds no run.
        net: the imported supernet.
        origin: the file that its weights came from.
        data: images of the classes that the weights were trained for.
        source: where `data` came from (JSON types).
        calibration_images: training images to keep for batch norm calibration.

    Raises:
        ConfigError: the folder holds a run already, or `data` has another number of classes.
    """
    require_new_run(path)
    classes = net.space.num_classes
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "status": "complete",
        "space": net.space.name,
        "num_classes": classes,
        "class_names": [str(number) for number in range(classes)],
        "data": {
            "name": None,
            "digest": None,
            "mean": list(NORMALISATION.mean),
            "std": list(NORMALISATION.std),
            "centre_share": CENTRE_SHARE,
        },
        "images": None,
        "imported": {"file": origin.name, "sha256": sha256_file(origin)},
        "torch": torch.__version__,
    }
    if data is not None:
        if len(data.class_names) != classes:
            raise ConfigError(
                f"{data.name!r} has {len(data.class_names)} classes, the imported weights have {classes}; "
                "give images of the classes that they were trained for"
            )
        pack = replace(data.image_pack(calibration_images), normalisation=NORMALISATION)
        pack.save(path / IMAGES)
        manifest["class_names"] = list(data.class_names)
        manifest["data"] |= {
            "name": data.name,
            "source": dict(source or {}),
            "digest": data.digest,
            "size": data.size,
            "centre_share": data.centre_share,
            "holdout": len(pack.holdout_labels),
        }
        manifest["images"] = {"file": IMAGES, "sha256": sha256_file(path / IMAGES)}
    save_tensors(path / WEIGHTS, net.state_dict())
    manifest["weights"] = {"file": WEIGHTS, "sha256": sha256_file(path / WEIGHTS)}
    write_json(path / MANIFEST, manifest)
    return RunFolder(path)
