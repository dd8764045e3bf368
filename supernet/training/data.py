"""Image data sets as three disjoint parts: training, held out of the training set, and test.

Training images update weights. Held-out images judge subnets (predictor, search). Test images are for the final
report alone. Which image falls into which part depends on the data only, never on a run's seed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from supernet.errors import ConfigError, DataError, one_of
from supernet.images import ImagePack, Normalisation
from supernet.training.augment import Augmentation
from supernet.training.folder import FolderOptions, load_folder
from supernet.training.in_memory import ImageData
from supernet.training.small_sets import SMALL_SETS
from supernet.training.streamed import StreamedFolder

__all__ = [
    "DATA_SETS",
    "FolderOptions",
    "ImageData",
    "StreamedFolder",
    "TrainingData",
    "load_data",
    "recorded_source",
    "reload_data",
]

DATA_SETS = (*SMALL_SETS, "folder")
"""Handwritten digits (inside scikit-learn), Fashion-MNIST, CIFAR-10, any folder of images."""


class TrainingData(Protocol):
    """What a training needs to know of its images."""

    @property
    def name(self) -> str:
        """As `load_data` knows it."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the labels, in order."""

    @property
    def digest(self) -> str:
        """SHA-256; differs where the images, labels or parts differ."""

    @property
    def size(self) -> int:
        """Side of the images that batches hold, pixels."""

    @property
    def centre_share(self) -> float:
        """Part of an image file's shorter side that the fixed (centre) crops show, in (0, 1]."""

    @property
    def train_count(self) -> int:
        """Number of training images."""

    @property
    def test_count(self) -> int:
        """Number of test images."""

    @property
    def augmentation(self) -> Augmentation:
        """Random changes that the trainer makes to a whole training batch, on the device."""

    def normalisation(self) -> Normalisation:
        """Mean and standard deviation of the training part, or of a fixed sample of it."""

    def image_pack(self, calibration_images: int) -> ImagePack:
        """The fixed images for calibration and for judging subnets, uint8 in memory, at `size`."""

    def train_batches(self, batches: Sequence[Tensor], seed: Sequence[int]) -> Iterator[tuple[Tensor, Tensor]]:
        """Training images, batch by batch.

        Args:
            batches: int64 (n,) each, positions in the training part.
            seed: (run's seed, stage, epoch), from which all that is random about an image follows, with its position.

        Yields:
            For each batch, in order: uint8 (n, 3, size, size) and int64 (n,), on the CPU.
        """

    def test_batches(self, batch_size: int, share: tuple[int, int] = (0, 1)) -> Iterator[tuple[Tensor, Tensor]]:
        """The test part, in a fixed order: uint8 (n, 3, size, size) and int64 (n,) a batch.

        With share (i, k), every k-th batch from the i-th on; all k shares are the whole.
        """

    def holdout_batches(self, batch_size: int, share: tuple[int, int] = (0, 1)) -> Iterator[tuple[Tensor, Tensor]]:
        """The held-out part, likewise."""


def load_data(
    name: str,
    *,
    root: Path | None = None,
    download: bool = False,
    size: int = 32,
    folder: FolderOptions | None = None,
) -> ImageData | StreamedFolder:
    """Load a data set.

    Args:
        name: one of `DATA_SETS`.
        root: where its files are; not needed for digits, nor for Fashion-MNIST from Debian's package.
        download: fetch absent files into `root` (Fashion-MNIST and CIFAR-10).
        size: side to which the images of a folder are brought, pixels; the other sets keep their own.
        folder: how to read a folder of images; for "folder" only.

    Raises:
        ConfigError: unknown name, or `root` is needed, or `folder` is for another data set.
        DataError: files absent or unreadable, or too few images or classes.
    """
    if name not in DATA_SETS:
        raise ConfigError(one_of("data set", name, sorted(DATA_SETS)))
    if root is not None and not root.is_dir() and not download:
        raise DataError(f"data root {str(root)!r} is not a folder; check --data-root, or add --download")
    if name != "folder":
        if folder is not None and folder != FolderOptions():
            raise ConfigError(
                f"--workers, --stream and --skip-corrupt are for --data folder, not {name!r}; leave them out"
            )
        return SMALL_SETS[name](root, download)
    if root is None:
        raise ConfigError("an image folder needs --data-root: a folder with one subfolder of images a class")
    return load_folder(root, size, folder or FolderOptions())


def recorded_source(data: ImageData | StreamedFolder, root: Path | None, size: int) -> dict[str, Any]:
    """What a run's manifest keeps so that `reload_data` finds the same images (JSON types)."""
    return {
        "root": str(root.resolve()) if root else None,
        "size": size,
        "stream": isinstance(data, StreamedFolder),
        "skipped": list(data.skipped),
        "replaced": list(data.replaced) if isinstance(data, StreamedFolder) else [],
    }


def reload_data(name: str, source: Mapping[str, Any], *, workers: int | None = None) -> ImageData | StreamedFolder:
    """Load a run's images again.

    Args:
        name: of the data set.
        source: as `recorded_source` gave it.
        workers: processes that decode a folder; has no influence on the images.

    Raises:
        ConfigError: `workers` for a data set that is no folder.
        DataError: files absent or unreadable.
    """
    options = FolderOptions(workers=workers)
    if name == "folder":  # runs from before folders could be streamed say nothing about it
        options = FolderOptions(source.get("stream", False), workers, left_out=tuple(source.get("skipped", ())))
    root = Path(source["root"]) if source["root"] else None
    data = load_data(name, root=root, size=int(source["size"]), folder=options)
    if isinstance(data, StreamedFolder):
        return replace(data, replaced=tuple(source.get("replaced", ())))
    return data
