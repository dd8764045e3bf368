"""Small data sets that come with a package or a download: digits, Fashion-MNIST, CIFAR-10."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from supernet.errors import ConfigError, DataError
from supernet.training.augment import Augmentation
from supernet.training.in_memory import ImageData, assemble

_Array = npt.NDArray[np.uint8]
_Labels = npt.NDArray[np.int64]


def _digits(root: Path | None, download: bool) -> ImageData:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.round(bunch.images * (255 / 16)).astype(np.uint8)
    return assemble(
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


def _fashion_mnist(root: Path | None, download: bool) -> ImageData:
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

    return assemble("fashion-mnist", _FASHION_CLASSES, part("train"), part("t10k"), Augmentation(flip=True, shift=0.08))


def _cifar10(root: Path | None, download: bool) -> ImageData:
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
    return assemble("cifar10", list(sets[0].classes), train, test, Augmentation(flip=True, shift=0.125))


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


SMALL_SETS: dict[str, Callable[[Path | None, bool], ImageData]] = {
    "digits": _digits,
    "fashion-mnist": _fashion_mnist,
    "cifar10": _cifar10,
}
"""(data root, whether to download) -> the data set."""
