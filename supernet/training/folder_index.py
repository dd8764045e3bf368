"""What a folder of images holds, one subfolder a class: names, labels and sizes of files, without opening them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from supernet.errors import DataError
from supernet.training.image_files import SUFFIXES

_SCANNERS = 16
"""Threads; they wait for the disk, on a network most of all."""


@dataclass(frozen=True)
class FolderIndex:
    """Image files, sorted by class and name; arrays, so that a million of them are small and shared by forks.

    Attributes:
        root: the folder.
        class_names: names of the labels, in order.
        names: paths within `root`, as bytes.
        labels: int64 (n,).
        sizes: int64 (n,), bytes.
    """

    root: Path
    class_names: tuple[str, ...]
    names: npt.NDArray[np.bytes_]
    labels: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def digest(self) -> str:
        """SHA-256 over names, labels and sizes; not over contents, which would take hours for a large folder."""
        digest = hashlib.sha256(b"\0".join(self.names.tolist()))
        for numbers in (self.labels, self.sizes):
            digest.update(numbers.astype("<i8").tobytes())
        return digest.hexdigest()

    def path(self, number: int) -> str:
        """Path of one file."""
        return str(self.root / self.name(number))

    def name(self, number: int) -> str:
        """Path of one file within the folder."""
        return os.fsdecode(bytes(self.names[number]))

    def subset(self, chosen: npt.NDArray[np.int64] | npt.NDArray[np.bool_]) -> FolderIndex:
        """The files at these positions."""
        return replace(self, names=self.names[chosen], labels=self.labels[chosen], sizes=self.sizes[chosen])

    def without(self, names: Collection[str]) -> FolderIndex:
        """All files but those of these names."""
        unwanted = {os.fsencode(name) for name in names}
        return self.subset(np.array([name not in unwanted for name in self.names.tolist()], dtype=np.bool_))

    def substitutes(self, names: Collection[str]) -> dict[int, int]:
        """For each of these files, the next one of its class (after the last, the first) that is none of them.

        Returns:
            Positions; names that are not in the index are ignored.

        Raises:
            DataError: a class has no other file.
        """
        unwanted = np.isin(self.names, np.array([os.fsencode(name) for name in names], dtype=np.bytes_))
        found: dict[int, int] = {}
        for number in np.flatnonzero(unwanted).tolist():
            others = np.flatnonzero((self.labels == self.labels[number]) & ~unwanted)
            if not len(others):
                raise DataError(
                    f"no training image of class {self.class_names[self.labels[number]]!r} in {str(self.root)!r} is "
                    "readable; restore some of them, each with its size in bytes"
                )
            found[number] = int(others[np.searchsorted(others, number) % len(others)])
        return found


def class_folders(folder: Path) -> list[str]:
    """Names of the class folders in `folder`, sorted.

    Raises:
        DataError: the folder cannot be listed.
    """
    try:
        return sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError as error:
        raise DataError(f"cannot list {str(folder)!r}: {error.strerror or error}; check its permissions") from None


def index_folder(root: Path, part: str, class_names: list[str]) -> FolderIndex:
    """List the images of each class folder and the folders below it; hidden files are no images.

    Args:
        root: the data set.
        part: the folder in it that holds the class folders; "": the root itself.
        class_names: class folders to find, in the order of the labels.

    Raises:
        DataError: class folders that are absent, unreadable, hold no image, or are not among `class_names`.
    """
    folder = root / part
    found = class_folders(folder)
    if not found:
        raise DataError(f"{str(folder)!r} holds no class folder; sort its images into one subfolder a class")
    with ThreadPoolExecutor(_SCANNERS) as pool:
        try:
            listings = list(pool.map(lambda name: _list(root, part, name) if name in found else [], class_names))
        except OSError as error:
            raise DataError(
                f"cannot list {os.fsdecode(error.filename)!r}: {error.strerror}; check its permissions"
            ) from None
    faults = [
        f"{str(folder / name)!r} is not a class of the training part" for name in sorted({*found} - {*class_names})
    ]
    faults += [
        f"class folder {str(folder / name)!r} holds no image (allowed: {', '.join(SUFFIXES)})"
        for name, listing in zip(class_names, listings, strict=True)
        if not listing
    ]
    if faults:
        more = f"; and {len(faults) - 5} more" if len(faults) > 5 else ""
        raise DataError(f"{'; '.join(faults[:5])}{more}; add images, or remove or rename the folder(s)")
    names = [name for listing in listings for name, _ in listing]
    return FolderIndex(
        root,
        tuple(class_names),
        np.array(names, dtype=np.bytes_),
        np.repeat(np.arange(len(class_names)), [len(listing) for listing in listings]).astype(np.int64),
        np.array([size for listing in listings for _, size in listing], dtype=np.int64),
    )


def _list(root: Path, part: str, class_name: str) -> list[tuple[bytes, int]]:
    """Sorted (path within `root`, size in bytes) of a class's images."""
    within = Path(part, class_name)
    return sorted(_walk(os.fsencode(root / within), os.fsencode(within)))


def _walk(folder: bytes, prefix: bytes) -> Iterator[tuple[bytes, int]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            name = entry.name
            if name.startswith(b"."):  # .DS_Store, and the ._x.jpg that some systems put beside x.jpg
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(entry.path, prefix + b"/" + name)
            elif name.lower().endswith(_SUFFIXES):
                yield prefix + b"/" + name, _size(entry)


_SUFFIXES = tuple(suffix.encode() for suffix in SUFFIXES)


def _size(entry: os.DirEntry[bytes]) -> int:
    try:
        return entry.stat().st_size
    except FileNotFoundError:  # a link to nowhere: named as unreadable when it is read
        return -1
