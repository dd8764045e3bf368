"""Which channel every element of a tensor belongs to, by arrays of atoms that operators move, tie and freeze.

An *atom* is one position of one axis of one parameter or buffer (row 3 of a convolution's weight), or of a result. A
tensor carries *components*: arrays of atoms of the tensor's own number of axes, of size 1 on the axes they do not
depend on. The channels of an image batch are one component `(1, C, 1, 1)`; flattened, it is `(1, C * H * W)`, each atom
repeated; split into heads, `(1, 1, heads, width)`. So views, concatenation and the like are index maps, and only what
computes (additions, matrix products, norms) ties atoms together. All that is tied goes together or stays.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

Ids = NDArray[np.int64]
Numbers = NDArray[np.float64]
FIXED = -1  # a position that no unit owns: it stays


@dataclass(frozen=True, slots=True, eq=False)
class Component:
    """The atoms that the elements of a tensor belong to.

    Attributes:
        ids: atom of each element, or `FIXED`; as many axes as the tensor, of size 1 where it does not depend on one.
        zero: what the element is once all parameters of its unit are zero, NaN: not a known number; broadcasts to
            `ids`.
        why: the operator by which `zero` is not 0.
        free: the positions repeat one value, so that any of them may go: an axis that was expanded.
    """

    ids: Ids
    zero: Numbers
    why: str = ""
    free: bool = False

    @property
    def axes(self) -> tuple[int, ...]:
        """The axes that it depends on."""
        return tuple(axis for axis, size in enumerate(self.ids.shape) if size > 1)

    def moved(self, move: Any) -> Component:
        """The component after a movement of elements: `move` maps an array to an array."""
        ids = move(self.ids)
        if self.zero.size == 1:
            zero = self.zero.reshape((1,) * ids.ndim)
        else:
            zero = move(np.broadcast_to(self.zero, self.ids.shape))
        return Component(ids, zero, self.why, self.free)

    def spread(self) -> Numbers:
        """`zero` in the shape of `ids`."""
        return np.broadcast_to(self.zero, self.ids.shape)


@dataclass(frozen=True, slots=True)
class Leaf:
    """The atoms of a parameter or buffer.

    Attributes:
        kind: ``parameter`` or ``buffer``.
        shape: its shape.
        first: by axis, the atom of position 0; the others follow.
    """

    kind: str
    shape: tuple[int, ...]
    first: tuple[int, ...]


@dataclass(slots=True)
class Ledger:
    """All atoms of a model, and what has been found about them.

    Attributes:
        size: number of atoms so far.
        leaves: by name, the atoms of parameters and buffers.
    """

    size: int = 0
    leaves: dict[str, Leaf] = field(default_factory=dict)
    ties: list[tuple[Ids, Ids]] = field(default_factory=list)
    frozen: list[tuple[Ids, str]] = field(default_factory=list)
    needs: list[tuple[Ids, Ids]] = field(default_factory=list)
    required: list[Ids] = field(default_factory=list)
    rows: list[Ids] = field(default_factory=list)

    def fresh(self, shape: Sequence[int]) -> Ids:
        """New atoms in an array of this shape."""
        count = math.prod(shape)
        ids = np.arange(self.size, self.size + count, dtype=np.int64).reshape(shape)
        self.size += count
        return ids

    def fresh_for(self, parts: Sequence[Ids]) -> Ids:
        """New atoms for positions where arrays meet that broadcast; one atom where the same atoms meet again."""
        flat = [part.reshape(-1) for part in parts]
        shape = np.broadcast_shapes(*(part.shape for part in parts))
        count = math.prod(shape)
        if any(len(part) == count and bool((part[1:] > part[:-1]).all()) for part in flat):
            return self.fresh(shape)
        key = np.zeros(count, np.int64)
        for part in parts:
            key = key * (self.size + 1) + np.broadcast_to(part, shape).reshape(-1) + 1
            _, key = np.unique(key, return_inverse=True)
        ids: Ids = self.fresh((int(key.max()) + 1,))[key].reshape(shape)
        return ids

    def leaf(self, name: str, kind: str, shape: tuple[int, ...]) -> Leaf:
        """Atoms for each position of each axis of a parameter or buffer; the same ones for the same name."""
        if name not in self.leaves:
            first = tuple(self.size + sum(shape[:axis]) for axis in range(len(shape)))
            self.size += sum(shape)
            self.leaves[name] = Leaf(kind, shape, first)
        return self.leaves[name]

    def tie(self, left: Ids, right: Ids, reason: str) -> None:
        """Atoms that go together, pair by pair; one that is paired with a position that stays is frozen."""
        left, right = _paired(left, right)
        if left.min(initial=0) >= 0 and right.min(initial=0) >= 0:
            self.ties.append((left, right))
            return
        both = (left >= 0) & (right >= 0)
        self.ties.append((left[both], right[both]))
        self.freeze(np.maximum(left, right)[~both], reason)

    def freeze(self, ids: Ids, reason: str) -> None:
        """Atoms that stay, and why."""
        self.frozen.append((ids.reshape(-1), reason))

    def need(self, result: Ids, source: Ids) -> None:
        """Where `result` has to be zero, `source` has to be zero."""
        self.needs.append(_paired(result, source))

    def require(self, ids: Ids) -> None:
        """Atoms that have to be zero to be removed: what reads them sums over them."""
        self.required.append(ids.reshape(-1))

    def classes(self) -> Ids:
        """By atom, the number of the class of atoms that go together."""
        pairs = self.ties or [(np.zeros(0, np.int64), np.zeros(0, np.int64))]
        left, right = (np.concatenate([pair[side] for pair in pairs]) for side in (0, 1))
        graph = coo_array((np.ones(len(left)), (left, right)), shape=(self.size, self.size))
        _, labels = connected_components(graph, directed=False)
        found: Ids = labels.astype(np.int64)
        return found

    def needed(self) -> NDArray[np.bool_]:
        """By atom, whether it has to be zero for its unit to be removed.

        Results depend on earlier results only, so that one pass against the order of the operators finds all.
        """
        needed = np.zeros(self.size + 1, bool)  # the last place takes what FIXED points to
        for ids in self.required:
            needed[ids] = True
        needed[FIXED] = False
        for result, source in reversed(self.needs):
            needed[source[needed[result]]] = True
            needed[FIXED] = False
        return needed[:-1]


def _paired(left: Ids, right: Ids) -> tuple[Ids, Ids]:
    """Two arrays that broadcast, flat and of one length."""
    if left.shape != right.shape:
        left, right = np.broadcast_arrays(left, right)
    return left.reshape(-1), right.reshape(-1)


def reshape(array: NDArray[Any], old: Sequence[int], new: Sequence[int]) -> NDArray[Any]:
    """An array that stands for a tensor of shape `old` (size 1 where it is constant), after a reshape to `new`.

    Axes whose sizes multiply to the same number form a block; only blocks that the array depends on are expanded.
    """
    wide, target, dependent = [], [], []
    for before, after in _blocks(old, new):
        used = any(array.shape[axis] > 1 for axis in before)
        wide += [old[axis] if used else 1 for axis in before]
        target += [new[axis] if used else 1 for axis in after]
        if used and not (len(before) == len(after) == 1):
            dependent += list(after)
    result = np.broadcast_to(array, wide).reshape(target)
    for axis in dependent:
        first = result.take([0], axis)
        if result.shape[axis] > 1 and (result == first).all():
            result = first
    return result


def _blocks(old: Sequence[int], new: Sequence[int]) -> Iterable[tuple[list[int], list[int]]]:
    """Groups of axes, in order, with equal products; together they are all axes of both shapes."""
    i = j = 0
    while i < len(old) or j < len(new):
        before, after = [], []
        left = right = 1
        if i < len(old):
            left, i = old[i], i + 1
            before.append(i - 1)
        if j < len(new):
            right, j = new[j], j + 1
            after.append(j - 1)
        while left != right:
            if (left < right and i < len(old)) or j >= len(new):
                left, i = left * old[i], i + 1
                before.append(i - 1)
            else:
                right, j = right * new[j], j + 1
                after.append(j - 1)
        yield before, after


def aligned(component: Component, ndim: int) -> Component:
    """With axes of size 1 in front, as broadcasting does."""
    missing = ndim - component.ids.ndim
    if not missing:
        return component
    return Component(
        component.ids.reshape((1,) * missing + component.ids.shape),
        component.zero.reshape((1,) * missing + component.zero.shape),
        component.why,
        component.free,
    )
