"""Image data sets as three disjoint parts: training, held out of the training set, and test.

Training images update weights. Held-out images judge subnets (predictor, search). Test images are for the final
report alone. Which image falls into which part depends on the data only, never on a run's seed.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from supernet.errors import ConfigError, DataError, one_of
from supernet.images import ImagePack, Normalisation
from supernet.tensors import digest_of
from supernet.training.augment import Augmentation
from supernet.training.seeds import numpy_generator

HOLDOUT_SHARE, HOLDOUT_MOST = 0.2, 5000
TEST_SHARE = 0.2
"""Of all images, where a data set has no test part of its own."""
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff")

_Array = npt.NDArray[np.uint8]
_Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ImageData:
    """A data set in memory; images are uint8 (n, 3, s, s), labels int64 (n,).

    Attributes:
        name: as `load_data` knows it.
        class_names: names of the labels, in order.
        augmentation: random changes to training images that keep the label.
        digest: SHA-256 over all images and labels of all parts.
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

    @property
    def size(self) -> int:
        """Side of the stored images, pixels."""
        return int(self.train_images.shape[-1])

    @property
    def train_count(self) -> int:
        """Number of training images."""
        return len(self.train_labels)

    def train_batches(self, batches: Sequence[Tensor], seed: Sequence[int]) -> Iterator[tuple[Tensor, Tensor]]:
        """The images and labels of each index tensor, in order."""
        for chosen in batches:
            yield self.train_images[chosen], self.train_labels[chosen]

    def normalisation(self) -> Normalisation:
        """Mean and standard deviation of the training part, a channel each."""
        pixels = self.train_images.transpose(0, 1).flatten(1)
        counts = torch.stack([torch.bincount(channel, minlength=256) for channel in pixels]).double()
        values = torch.arange(256, dtype=torch.float64) / 255
        weights = counts / counts.sum(1, keepdim=True)
        mean = (weights * values).sum(1)
        std = ((weights * (values - mean[:, None]).square()).sum(1)).sqrt().clamp(min=1e-3)
        return Normalisation(_triple(mean), _triple(std))

    def image_pack(self, calibration_images: int) -> ImagePack:
        """The fixed images for calibration (drawn from the training part) and for judging subnets."""
        order = numpy_generator(0, "calibration images").permutation(len(self.train_images))
        chosen = torch.from_numpy(np.sort(order[:calibration_images]))
        return ImagePack(self.train_images[chosen], self.holdout_images, self.holdout_labels, self.normalisation())


def load_data(name: str, *, root: Path | None = None, download: bool = False, size: int = 32) -> ImageData:
    """Load a data set.

    Args:
        name: one of `DATA_SETS`.
        root: where its files are; not needed for digits, nor for Fashion-MNIST from Debian's package.
        download: fetch absent files into `root` (Fashion-MNIST and CIFAR-10).
        size: side to which the images of a folder are brought, pixels; the other sets keep their own.

    Raises:
        ConfigError: unknown name, or `root` is needed.
        DataError: files absent or unreadable, or too few images or classes.
    """
    if name not in DATA_SETS:
        raise ConfigError(one_of("data set", name, sorted(DATA_SETS)))
    if root is not None and not root.is_dir() and not download:
        raise DataError(f"data root {str(root)!r} is not a folder; check --data-root, or add --download")
    return DATA_SETS[name](root, download, size)


def _digits(root: Path | None, download: bool, size: int) -> ImageData:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.round(bunch.images * (255 / 16)).astype(np.uint8)
    return _assemble(
        "digits",
        [str(digit) for digit in range(10)],
        (images, bunch.target.astype(np.int64)),
        None,
        Augmentation(),  # on 8x8 pixels, shifts, rotations and scales of 5 to 10 % cost 1 to 6 points (8 to 23 epochs)
    )


_FASHION_CLASSES = [
    "t-shirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle-boot",
]
_DEBIAN_FASHION = Path("/usr/share/datasets/fashion-mnist")


def _fashion_mnist(root: Path | None, download: bool, size: int) -> ImageData:
    if download:
        from torchvision.datasets import FashionMNIST

        _download(FashionMNIST, root)
    places = [_DEBIAN_FASHION] if root is None else [root, root / "FashionMNIST" / "raw", root / "raw"]

    def part(prefix: str) -> tuple[_Array, _Labels]:
        path = _find_idx(places, f"{prefix}-images-idx3-ubyte")
        images, labels = _read_idx(path, 3), _read_idx(_find_idx(places, f"{prefix}-labels-idx1-ubyte"), 1)
        if len(images) != len(labels) or labels.max(initial=0) >= len(_FASHION_CLASSES):
            raise DataError(
                f"{str(path)!r} has {len(images)} images for {len(labels)} labels, or labels above 9; fetch it again"
            )
        return images, labels.astype(np.int64)

    return _assemble(
        "fashion-mnist", _FASHION_CLASSES, part("train"), part("t10k"), Augmentation(flip=True, shift=0.08)
    )


def _cifar10(root: Path | None, download: bool, size: int) -> ImageData:
    from torchvision.datasets import CIFAR10

    if download:
        _download(CIFAR10, root)
    if root is None:
        raise ConfigError(
            "cifar10 needs --data-root with cifar-10-batches-py in it; or add --download to fetch it there"
        )
    try:
        sets = [CIFAR10(root, train=train) for train in (True, False)]
    except (RuntimeError, OSError) as error:
        raise DataError(
            f"no readable CIFAR-10 (folder cifar-10-batches-py) in {str(root)!r}: {error}; add --download to fetch it"
        ) from None
    train, test = ((part.data.transpose(0, 3, 1, 2), np.array(part.targets, dtype=np.int64)) for part in sets)
    return _assemble("cifar10", list(sets[0].classes), train, test, Augmentation(flip=True, shift=0.125))


def _folder(root: Path | None, download: bool, size: int) -> ImageData:
    if root is None:
        raise ConfigError("an image folder needs --data-root: a folder with one subfolder of images a class")
    train_root = root / "train" if (root / "train").is_dir() else root
    test_root = next((root / name for name in ("test", "val") if train_root != root and (root / name).is_dir()), None)
    classes = sorted(path.name for path in train_root.iterdir() if path.is_dir())
    if len(classes) < 2:
        raise DataError(
            f"{str(train_root)!r} holds {len(classes)} class folder(s); at least 2 are needed, one subfolder a class"
        )
    train = _read_folder(train_root, classes, size)
    test = None if test_root is None else _read_folder(test_root, classes, size)
    return _assemble("folder", classes, train, test, Augmentation(flip=True, shift=0.125))


DATA_SETS: dict[str, Callable[[Path | None, bool, int], ImageData]] = {
    "digits": _digits,
    "fashion-mnist": _fashion_mnist,
    "cifar10": _cifar10,
    "folder": _folder,
}
"""Data sets by name: handwritten digits (inside scikit-learn), Fashion-MNIST, CIFAR-10, any folder of images."""


def _assemble(
    name: str,
    class_names: list[str],
    train: tuple[_Array, _Labels],
    test: tuple[_Array, _Labels] | None,
    augmentation: Augmentation,
) -> ImageData:
    """Split into the three parts, by class, at random but always alike."""
    images, labels = train
    everything = np.arange(len(labels))
    if test is None:
        rest, apart = _split(labels, everything, TEST_SHARE, name, "test")
        test = images[apart], labels[apart]
    else:
        rest = everything
    share = min(HOLDOUT_SHARE, HOLDOUT_MOST / len(rest))
    kept, held = _split(labels, rest, share, name, "held-out")
    parts = {
        "train_images": _three_channels(images[kept]),
        "train_labels": torch.from_numpy(labels[kept]),
        "holdout_images": _three_channels(images[held]),
        "holdout_labels": torch.from_numpy(labels[held]),
        "test_images": _three_channels(test[0]),
        "test_labels": torch.from_numpy(test[1]),
    }
    return ImageData(name, tuple(class_names), **parts, augmentation=augmentation, digest=digest_of(parts))


def _split(
    labels: _Labels, among: npt.NDArray[np.int64], share: float, name: str, what: str
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Indices (kept, taken); `share` of each class is taken, at least one image."""
    rng = numpy_generator(0, f"{what} part")
    taken: list[npt.NDArray[np.int64]] = []
    for label in np.unique(labels[among]):
        members = rng.permutation(among[labels[among] == label])
        if len(members) < 3:
            total = int((labels == label).sum())
            raise DataError(
                f"data set {name!r}: class number {label} has {total} image(s); "
                "at least 3 are needed, and 4 where a test part has to be split off"
            )
        taken.append(members[: max(1, round(share * len(members)))])
    chosen = np.sort(np.concatenate(taken))
    return np.setdiff1d(among, chosen), chosen


def _three_channels(images: _Array) -> Tensor:
    tensor = torch.from_numpy(images.copy())  # files give arrays that may not be written
    return tensor if tensor.ndim == 4 else tensor[:, None].expand(-1, 3, -1, -1).contiguous()


def _triple(values: Tensor) -> tuple[float, float, float]:
    a, b, c = values.tolist()
    return a, b, c


def _download(kind: Callable[..., object], root: Path | None) -> None:
    if root is None:
        raise ConfigError("--download needs --data-root, the folder that receives the files")
    try:
        kind(root, download=True)
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"download into {str(root)!r} failed: {error}; check the network, or fetch the files by hand"
        ) from None


def _find_idx(places: list[Path], name: str) -> Path:
    for place in places:
        for candidate in (place / name, place / f"{name}.gz"):
            if candidate.is_file():
                return candidate
    looked = ", ".join(str(place) for place in places)
    raise DataError(
        f"{name}[.gz] not found in {looked}; install Debian's package dataset-fashion-mnist, "
        "or give --data-root with the files, or add --download"
    )


def _read_idx(path: Path, dimensions: int) -> _Array:
    """Read the IDX format of unsigned bytes: 0 0 8 d, d big-endian sizes, the bytes."""
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        if data[:4] != bytes((0, 0, 8, dimensions)):
            raise ValueError(f"starts with {data[:4].hex()}, expected 000008{dimensions:02x}")
        shape = np.frombuffer(data, ">i4", dimensions, 4)
        return np.frombuffer(data, np.uint8, offset=4 + 4 * dimensions).reshape(shape)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise DataError(f"{str(path)!r} is damaged: {error}; fetch it again") from None


def _read_folder(root: Path, classes: list[str], size: int) -> tuple[_Array, _Labels]:
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        found = sorted(path for path in (root / name).rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
        if not found:
            raise DataError(f"class folder {str(root / name)!r} holds no image; allowed: {', '.join(IMAGE_SUFFIXES)}")
        paths += found
        labels += [label] * len(found)
    images = np.empty((len(paths), 3, size, size), np.uint8)

    def read(index: int) -> None:
        images[index] = _read_image(paths[index], size)

    with ThreadPoolExecutor() as pool:
        list(pool.map(read, range(len(paths)), chunksize=64))
    return images, np.array(labels, dtype=np.int64)


def _read_image(path: Path, size: int) -> _Array:
    """One image as uint8 (3, size, size): the shorter side scaled to `size`, the middle cut out."""
    try:
        with Image.open(path) as opened:
            image = opened.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{str(path)!r} is not a readable image ({error}); remove or replace it") from None
    if image.size != (size, size):
        scale = size / min(image.size)
        width, height = (max(size, round(side * scale)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BILINEAR)
        left, top = (width - size) // 2, (height - size) // 2
        image = image.crop((left, top, left + size, top + size))
    return np.asarray(image, np.uint8).transpose(2, 0, 1)
