"""Any folder of images as a data set: in memory where it fits, streamed from disk where it does not."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from supernet.errors import ConfigError, DataError
from supernet.images import CENTRE_SHARE
from supernet.training.augment import Augmentation
from supernet.training.folder_index import FolderIndex, class_folders, index_folder
from supernet.training.in_memory import ImageData, of_parts
from supernet.training.parts import split
from supernet.training.streamed import StreamedFolder, read_all, unreadable
from supernet.training.workers import default_workers

MEMORY_BYTES = 2 * 2**30
"""A folder whose images (3 x size x size bytes each) take more is streamed."""

PARTS = ("train", "holdout", "test")
TEST_FOLDERS = ("test", "val")
"""Beside `train`; the first with class folders is the test part (ImageNet's own `test` has no labels)."""


@dataclass(frozen=True)
class FolderOptions:
    """How a folder of images is read.

    Attributes:
        stream: True: from disk, with random crops of any scale; False: in memory, with small shifts. None: in memory
            where all images fit into `MEMORY_BYTES`.
        workers: processes that decode; None: `default_workers`.
        skip_corrupt: decode every file of the `checked` parts once beforehand, and leave out those that are unreadable.
        left_out: files to leave out, as an earlier check named them.
        centre_share: part of the shorter side that centre crops keep; None: `CENTRE_SHARE` where streamed, 1 in memory.
        checked: of `PARTS`; where a streamed folder is used for some parts alone, no others need to be sound.
    """

    stream: bool | None = None
    workers: int | None = None
    skip_corrupt: bool = False
    left_out: tuple[str, ...] = ()
    centre_share: float | None = None
    checked: tuple[str, ...] = PARTS


def load_folder(root: Path, size: int, options: FolderOptions) -> ImageData | StreamedFolder:
    """Index a folder, split it into parts, and read it where it goes into memory.

    Args:
        root: holds `train/<class>/...` and perhaps `test/<class>/...` or `val/<class>/...` (the test part), or the
            class folders themselves.
        size: side to which images are brought, pixels.
        options: how.

    Raises:
        ConfigError: a negative number of workers.
        DataError: absent, empty or unknown class folders; unreadable images; fewer than two classes; a class with too
            few images.
    """
    workers = default_workers() if options.workers is None else options.workers
    if workers < 0:
        raise ConfigError(f"--workers is {workers}; allowed: 0 (decode in the training process) or more")
    parts = _parts(root)
    left_out = list(options.left_out)
    if options.skip_corrupt:
        checked = [part for name, part in zip(PARTS, parts, strict=True) if name in options.checked]
        left_out = sorted({*left_out, *(name for part in checked for name in unreadable(part, workers))})
    if left_out:  # after the split: no file changes its part because of another one
        parts = [part.without(left_out) for part in parts]
        _require_all_classes(parts, root, len(left_out))
    bytes_needed = sum(map(len, parts)) * 3 * size * size
    if options.stream or (options.stream is None and bytes_needed > MEMORY_BYTES):
        train, holdout, test = parts
        share = CENTRE_SHARE if options.centre_share is None else options.centre_share
        return StreamedFolder(train, holdout, test, size, workers, tuple(left_out), centre_share=share)
    share = 1.0 if options.centre_share is None else options.centre_share
    return _in_memory(parts, size, workers, tuple(left_out), share)


def _parts(root: Path) -> list[FolderIndex]:
    """Training, held-out and test files."""
    train_part = "train" if (root / "train").is_dir() else ""
    classes = class_folders(root / train_part)
    if len(classes) < 2:
        raise DataError(
            f"{str(root / train_part)!r} holds {len(classes)} class folder(s); at least 2 are needed, "
            "one subfolder a class"
        )
    beside = [name for name in TEST_FOLDERS if train_part and (root / name).is_dir()]
    labelled = (name for name in beside if {*class_folders(root / name)} & {*classes})
    test_part = next(labelled, beside[0] if beside else None)
    index = index_folder(root, train_part, classes)
    kept, held, apart = split(index.labels, with_test=test_part is None, name="folder")
    test = index.subset(apart) if test_part is None else index_folder(root, test_part, classes)
    return [index.subset(kept), index.subset(held), test]


def _require_all_classes(parts: list[FolderIndex], root: Path, left_out: int) -> None:
    faults = []
    for what, part in zip(("training", "held-out", "test"), parts, strict=True):
        counts = np.bincount(part.labels, minlength=len(part.class_names))
        gone = [part.class_names[label] for label in np.flatnonzero(counts == 0)]
        if gone:
            faults.append(f"the {what} part has no image left of {', '.join(map(repr, gone[:5]))}")
    if faults:
        raise DataError(
            f"without {left_out} unreadable file(s) of {str(root)!r} {'; '.join(faults)}; restore some of them"
        )


def _in_memory(parts: list[FolderIndex], size: int, workers: int, skipped: tuple[str, ...], share: float) -> ImageData:
    tensors = {}
    for name, part in zip(PARTS, parts, strict=True):
        tensors[f"{name}_images"], tensors[f"{name}_labels"] = read_all(part, size, share, workers)
    return of_parts("folder", parts[0].class_names, tensors, Augmentation(flip=True, shift=0.125), skipped, share)
