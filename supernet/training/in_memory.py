"""A data set that is in memory as a whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from supernet.images import ImagePack, Normalisation, batches
from supernet.tensors import digest_of
from supernet.training.augment import Augmentation
from supernet.training.parts import Numbers, split
from supernet.training.seeds import numpy_generator


@dataclass(frozen=True)
class ImageData:
    """A data set in memory; images are uint8 (n, 3, s, s), labels int64 (n,). See `TrainingData`.

    Attributes:
        name: as `load_data` knows it.
        class_names: names of the labels, in order.
        augmentation: random changes to training images that keep the label.
        digest: SHA-256 over all images and labels of all parts.
        skipped: files left out because they are unreadable.
        centre_share: part of each file's shorter side that the images show.
    """

    name: str
    class_names: tuple[str, ...]
    train_images: Tensor
    train_labels: Tensor
    holdout_images: Tensor
    holdout_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    augmentation: Augmentation
    digest: str
    skipped: tuple[str, ...] = ()
    centre_share: float = 1.0

    @property
    def size(self) -> int:
        """Side of the stored images, pixels."""
        return int(self.train_images.shape[-1])

    @property
    def train_count(self) -> int:
        """Number of training images."""
        return len(self.train_labels)

    @property
    def test_count(self) -> int:
        """Number of test images."""
        return len(self.test_labels)

    def normalisation(self) -> Normalisation:
        """Mean and standard deviation of the training part, a channel each."""
        return Normalisation.of(self.train_images)

    def image_pack(self, calibration_images: int) -> ImagePack:
        """The fixed images for calibration (drawn from the training part) and for judging subnets."""
        chosen = torch.from_numpy(calibration_choice(self.train_count, calibration_images))
        return ImagePack(self.train_images[chosen], self.holdout_images, self.holdout_labels, self.normalisation())

    def train_batches(self, batches: Sequence[Tensor], seed: Sequence[int]) -> Iterator[tuple[Tensor, Tensor]]:
        """The images and labels at each batch's positions; nothing about them is random."""
        for chosen in batches:
            yield self.train_images[chosen], self.train_labels[chosen]

    def test_batches(self, batch_size: int, share: tuple[int, int] = (0, 1)) -> Iterator[tuple[Tensor, Tensor]]:
        """The test part in order; of k shares, the i-th has every k-th batch from the i-th on."""
        whole = zip(batches(self.test_images, batch_size), batches(self.test_labels, batch_size), strict=True)
        return islice(whole, share[0], None, share[1])

    def holdout_batches(self, batch_size: int, share: tuple[int, int] = (0, 1)) -> Iterator[tuple[Tensor, Tensor]]:
        """The held-out part in order; of k shares, the i-th has every k-th batch from the i-th on."""
        whole = zip(batches(self.holdout_images, batch_size), batches(self.holdout_labels, batch_size), strict=True)
        return islice(whole, share[0], None, share[1])


def calibration_choice(train_count: int, count: int) -> Numbers:
    """Sorted positions of `count` training images (or all), always the same ones."""
    return np.sort(numpy_generator(0, "calibration images").permutation(train_count)[:count])


def of_parts(
    name: str,
    class_names: tuple[str, ...],
    parts: Mapping[str, Tensor],
    augmentation: Augmentation,
    skipped: tuple[str, ...] = (),
    centre_share: float = 1.0,
) -> ImageData:
    """The data set made of `parts`, named as `ImageData`'s tensors are; their digest is its digest."""
    return ImageData(
        name=name,
        class_names=class_names,
        train_images=parts["train_images"],
        train_labels=parts["train_labels"],
        holdout_images=parts["holdout_images"],
        holdout_labels=parts["holdout_labels"],
        test_images=parts["test_images"],
        test_labels=parts["test_labels"],
        augmentation=augmentation,
        digest=digest_of(parts),
        skipped=skipped,
        centre_share=centre_share,
    )


def assemble(
    name: str,
    class_names: list[str],
    train: tuple[npt.NDArray[np.uint8], Numbers],
    test: tuple[npt.NDArray[np.uint8], Numbers] | None,
    augmentation: Augmentation,
) -> ImageData:
    """Split arrays into the three parts.

    Args:
        name: of the data set.
        class_names: of the labels.
        train: images (n, s, s) or (n, 3, s, s), and labels (n,).
        test: the same; None: taken from `train`.
        augmentation: for training.

    Raises:
        DataError: a class with too few images.
    """
    images, labels = train
    kept, held, apart = split(labels, with_test=test is None, name=name)
    test_images, test_labels = (images[apart], labels[apart]) if test is None else test
    parts = {
        "train_images": _three_channels(images[kept]),
        "train_labels": torch.from_numpy(labels[kept]),
        "holdout_images": _three_channels(images[held]),
        "holdout_labels": torch.from_numpy(labels[held]),
        "test_images": _three_channels(test_images),
        "test_labels": torch.from_numpy(test_labels),
    }
    return of_parts(name, tuple(class_names), parts, augmentation)


def _three_channels(images: npt.NDArray[np.uint8]) -> Tensor:
    tensor = torch.from_numpy(images.copy())  # files give arrays that may not be written
    return tensor if tensor.ndim == 4 else tensor[:, None].expand(-1, 3, -1, -1).contiguous()
