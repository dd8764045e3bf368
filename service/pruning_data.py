"""The data sets that pruning runs may name: none is at a path that a client chooses."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latency_tables.budget import NAME_PATTERN
from supernet.errors import ConfigError, one_of

if TYPE_CHECKING:
    from torch import Tensor

    from supernet.images import ImagePack
    from supernet.training.data import ImageData, StreamedFolder

RUN_IMAGES = "run-images"
"""The images that a supernet's run stores. Those for training have no labels; the subnet that is pruned gives them its
own answers as such, and is to go on answering as it does."""
_BUILT_IN = ("digits",)
_OWN_FILES = ("cifar10", "fashion-mnist")


def available(folder: Path | None) -> tuple[str, ...]:
    """Names of the data sets that can be read, without `RUN_IMAGES`.

    Args:
        folder: of data sets; None: there is none.
    """
    if folder is None or not folder.is_dir():
        return _BUILT_IN
    found = {path.name for path in folder.iterdir() if path.is_dir() and re.fullmatch(NAME_PATTERN[1:-1], path.name)}
    return (*_BUILT_IN, *sorted(found - {*_BUILT_IN, RUN_IMAGES}))


def of_supernet(manifest: Mapping[str, Any], folder: Path | None) -> str:
    """The data set that a supernet was trained on, where it can be read here; else the images that its run stores.

    Args:
        manifest: of its run.
        folder: of data sets.
    """
    name = manifest.get("data", {}).get("name")
    return str(name) if name in available(folder) else RUN_IMAGES


def class_count(name: str, folder: Path | None) -> int | None:
    """Number of classes of a data set that is available; None for `RUN_IMAGES`: those of the supernet."""
    if name == RUN_IMAGES:
        return None
    if name in (*_BUILT_IN, *_OWN_FILES):
        return 10
    assert folder is not None
    root = folder / name
    root = root / "train" if (root / "train").is_dir() else root
    return sum(path.is_dir() and not path.name.startswith(".") for path in root.iterdir())


def load(name: str, folder: Path | None, resolution: int) -> ImageData | StreamedFolder:
    """A data set.

    Args:
        name: one of `available`.
        folder: of data sets.
        resolution: side to which a folder's images are brought, pixels.

    Raises:
        ConfigError: it is not available.
        DataError: its files are absent or unreadable.
    """
    from supernet.training.data import FolderOptions, load_data

    if name not in available(folder):
        raise ConfigError(one_of("data set", name, [*available(folder), RUN_IMAGES]))
    if name in _BUILT_IN:
        return load_data(name)
    assert folder is not None
    if name in _OWN_FILES:
        return load_data(name, root=folder / name)
    return load_data("folder", root=folder / name, size=resolution, folder=FolderOptions(workers=0))


def of_run(pack: ImagePack, labels: Tensor, class_names: list[str]) -> ImageData:
    """A run's images as a data set without a test part.

    Args:
        pack: the run's images.
        labels: of the calibration images, int64 (n,).
        class_names: of the labels.
    """
    import torch

    from supernet.training.augment import Augmentation
    from supernet.training.in_memory import of_parts

    images = {
        "train_images": pack.calibration_images,
        "train_labels": labels,
        "holdout_images": pack.holdout_images,
        "holdout_labels": pack.holdout_labels,
        "test_images": pack.holdout_images[:0],
        "test_labels": torch.empty(0, dtype=torch.int64),
    }
    return of_parts(RUN_IMAGES, tuple(class_names), images, Augmentation())
