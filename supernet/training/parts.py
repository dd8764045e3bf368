"""Which images are for training, which are held out, and which are for the test: by class, at random, always alike."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from supernet.errors import DataError
from supernet.training.seeds import numpy_generator

HOLDOUT_SHARE, HOLDOUT_MOST = 0.2, 5000
"""Of the training set. The fixed images are kept in memory: 5,000 of 224 pixels are 753 MB."""
TEST_SHARE = 0.2
"""Of all images, where a data set has no test part of its own."""

Numbers = npt.NDArray[np.int64]


def split(labels: Numbers, *, with_test: bool, name: str) -> tuple[Numbers, Numbers, Numbers]:
    """Divide images into parts.

    Args:
        labels: (n,).
        with_test: whether a test part has to be taken from them.
        name: of the data set, for errors.

    Returns:
        Sorted, disjoint positions: training, held-out, test (empty unless `with_test`). Each class is in each part.

    Raises:
        DataError: a class with too few images.
    """
    rest, test = np.arange(len(labels)), np.arange(0)
    if with_test:
        rest, test = _take(labels, rest, TEST_SHARE, name, "test")
    kept, held = _take(labels, rest, min(HOLDOUT_SHARE, HOLDOUT_MOST / len(rest)), name, "held-out")
    return kept, held, test


def _take(labels: Numbers, among: Numbers, share: float, name: str, what: str) -> tuple[Numbers, Numbers]:
    """Positions (kept, taken); `share` of each class is taken, at least one image."""
    rng = numpy_generator(0, f"{what} part")
    taken: list[Numbers] = []
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
