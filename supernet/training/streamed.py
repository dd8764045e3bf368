"""A folder of images that is too large for memory: decoded, cropped and mirrored by worker processes as it is needed.

What is cheap on a whole batch stays out of the workers: colour changes, and the elastic resolution, are left to the
device (`Augmentation`, `prepare`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from supernet.errors import DataError
from supernet.images import CENTRE_SHARE, ImagePack, Normalisation
from supernet.training.augment import Augmentation
from supernet.training.folder_index import FolderIndex
from supernet.training.image_files import Pixels, centre_box, random_box, read_image
from supernet.training.in_memory import calibration_choice
from supernet.training.parts import Numbers
from supernet.training.seeds import numpy_generator
from supernet.training.workers import in_workers

NORMALISATION_IMAGES = 2000
"""Training images from which mean and deviation are taken: their standard error is then about 0.003."""
CHUNK = 64
"""Images a task where no batch size is asked for."""
PHOTOGRAPHS = Augmentation(brightness=32 / 255, saturation=0.5)
"""The reference's colour changes; crops and mirroring happen in the workers."""
KEEP_IN_PLACE = (
    "leave it in its place (without it, the images would no longer be the run's), and go on with: "
    "onceforall train --resume RUN --skip-corrupt, which takes another image of the class instead"
)
"""What to do about an unreadable file in the middle of a training."""


@dataclass(frozen=True)
class StreamedFolder:
    """A data set on disk. See `TrainingData`.

    Attributes:
        train: files of the training part.
        holdout: files held out of the training set.
        test: files of the test part.
        size: side of the images that batches hold, pixels.
        workers: processes that decode; 0: none but this one.
        skipped: files left out because they are unreadable.
        replaced: training files found unreadable since; in their place the next of their class is read.
        centre_share: part of the shorter side that the centre crops keep.
        name: as `load_data` knows it.
        augmentation: random changes to a whole training batch.
    """

    train: FolderIndex
    holdout: FolderIndex
    test: FolderIndex
    size: int
    workers: int
    skipped: tuple[str, ...] = ()
    replaced: tuple[str, ...] = ()
    centre_share: float = CENTRE_SHARE
    name: str = "folder"
    augmentation: Augmentation = PHOTOGRAPHS

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the labels, in order."""
        return self.train.class_names

    @property
    def digest(self) -> str:
        """SHA-256 over names, labels and sizes in bytes of all files of all parts."""
        return hashlib.sha256(
            " ".join(part.digest for part in (self.train, self.holdout, self.test)).encode()
        ).hexdigest()

    @property
    def train_count(self) -> int:
        """Number of training images."""
        return len(self.train)

    @property
    def test_count(self) -> int:
        """Number of test images."""
        return len(self.test)

    def replacing_unreadable(self) -> StreamedFolder:
        """The same parts, each unreadable training file replaced: positions, order and digest stay as they are.

        Every training file is decoded once.

        Raises:
            DataError: a class has no readable training image, or a worker died.
        """
        names = tuple(sorted({*self.replaced, *unreadable(self.train, self.workers)}))
        self.train.substitutes(names)  # refuses now what training would refuse later
        return replace(self, replaced=names)

    def normalisation(self) -> Normalisation:
        """Mean and standard deviation of `NORMALISATION_IMAGES` fixed training images, a channel each."""
        chosen = calibration_choice(len(self.train), NORMALISATION_IMAGES)
        return Normalisation.of(self._fixed(self.train.subset(chosen))[0])

    def image_pack(self, calibration_images: int) -> ImagePack:
        """The fixed images for calibration (drawn from the training part) and for judging subnets, in memory."""
        chosen = calibration_choice(len(self.train), calibration_images)
        calibration, _ = self._fixed(self.train.subset(chosen))
        return ImagePack(calibration, *self._fixed(self.holdout), self.normalisation())

    def train_batches(self, batches: Sequence[Tensor], seed: Sequence[int]) -> Iterator[tuple[Tensor, Tensor]]:
        """Random crops, half of them mirrored, of the images at each batch's positions.

        Args:
            batches: int64 (n,) each, positions in the training part.
            seed: of (run, stage, epoch); an image's crop depends on it and on the image's position alone.

        Yields:
            uint8 (n, 3, size, size), channels last in memory, and int64 (n,); pinned where there is a GPU.

        Raises:
            DataError: a file is absent or unreadable, or a worker died.
        """
        tasks = ((tuple(seed), batch.numpy()) for batch in batches)
        crops = _RandomCrops(self.train, self.size, self.train.substitutes(self.replaced) if self.replaced else {})
        yield from in_workers(crops, tasks, self.workers, pin_memory=torch.cuda.is_available())

    def test_batches(self, batch_size: int, share: tuple[int, int] = (0, 1)) -> Iterator[tuple[Tensor, Tensor]]:
        """The test part in order, centre crops; of k shares, the i-th has every k-th batch from the i-th on."""
        return self._in_order(self.test, batch_size, share)

    def holdout_batches(self, batch_size: int, share: tuple[int, int] = (0, 1)) -> Iterator[tuple[Tensor, Tensor]]:
        """The held-out part in order, centre crops; of k shares, the i-th has every k-th batch from the i-th on."""
        return self._in_order(self.holdout, batch_size, share)

    def _in_order(self, index: FolderIndex, batch_size: int, share: tuple[int, int]) -> Iterator[tuple[Tensor, Tensor]]:
        crops = _CentreCrops(index, self.size, self.centre_share)
        return in_workers(crops, islice(_chunks(len(index), batch_size), share[0], None, share[1]), self.workers)

    def _fixed(self, index: FolderIndex) -> tuple[Tensor, Tensor]:
        return read_all(index, self.size, self.centre_share, self.workers)


def read_all(index: FolderIndex, size: int, share: float, workers: int) -> tuple[Tensor, Tensor]:
    """All of an index's images: squares from the middle, `share` of the shorter side each.

    Returns:
        uint8 (n, 3, size, size) and int64 (n,).

    Raises:
        DataError: a file is absent or unreadable, or a worker died.
    """
    images = torch.empty((len(index), 3, size, size), dtype=torch.uint8)
    done = 0
    few = len(index) <= CHUNK
    for chunk, _ in in_workers(_CentreCrops(index, size, share), _chunks(len(index), CHUNK), 0 if few else workers):
        images[done : done + len(chunk)] = chunk
        done += len(chunk)
    return images, torch.from_numpy(index.labels)


def unreadable(index: FolderIndex, workers: int) -> list[str]:
    """Names of the files that cannot be decoded to their end, in the index's order.

    Raises:
        DataError: a worker died.
    """
    few = len(index) <= CHUNK
    return [
        name for names in in_workers(_Check(index), _chunks(len(index), CHUNK), 0 if few else workers) for name in names
    ]


@dataclass(frozen=True)
class _RandomCrops:
    index: FolderIndex
    size: int
    instead: Mapping[int, int]

    def __call__(self, task: tuple[tuple[int, ...], Numbers]) -> tuple[Tensor, Tensor]:
        (run, *position), numbers = task
        pixels = np.empty((len(numbers), self.size, self.size, 3), np.uint8)
        for row, number in enumerate(numbers.tolist()):
            rng = numpy_generator(run, "crop", *position, number)
            path = self.index.path(self.instead.get(number, number))
            image = read_image(path, self.size, partial(random_box, rng=rng), KEEP_IN_PLACE)
            pixels[row] = image[:, ::-1] if rng.random() < 0.5 else image
        return _batch(pixels, self.index, numbers)


@dataclass(frozen=True)
class _CentreCrops:
    index: FolderIndex
    size: int
    share: float

    def __call__(self, numbers: Numbers) -> tuple[Tensor, Tensor]:
        pixels = np.empty((len(numbers), self.size, self.size, 3), np.uint8)
        for row, number in enumerate(numbers.tolist()):
            pixels[row] = read_image(self.index.path(number), self.size, partial(centre_box, share=self.share))
        return _batch(pixels, self.index, numbers)


@dataclass(frozen=True)
class _Check:
    index: FolderIndex

    def __call__(self, numbers: Numbers) -> list[str]:
        faulty = []
        for number in numbers.tolist():
            try:  # small, so that large files are decoded at an eighth; their bytes are all read nevertheless
                read_image(self.index.path(number), 8, partial(centre_box, share=1.0))
            except DataError:
                faulty.append(self.index.name(number))
        return faulty


def _batch(pixels: Pixels, index: FolderIndex, numbers: Numbers) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(pixels).permute(0, 3, 1, 2), torch.from_numpy(index.labels[numbers])


def _chunks(count: int, size: int) -> Iterator[Numbers]:
    for start in range(0, count, size):
        yield np.arange(start, min(start + size, count))
