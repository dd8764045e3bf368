"""How redundant a unit is, from its numbers and their gradient; the higher, the sooner it goes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from supernet.errors import ConfigError, one_of


@dataclass(frozen=True)
class UnitSums:
    """Sums over each unit's numbers; float64 (units of all sets).

    Attributes:
        numbers: how many numbers.
        square: of the numbers' squares.
        gradient_square: of their gradients' squares.
        inner: of the products of number and gradient.
        set_of_unit: number of the unit's set, int64.
    """

    numbers: Tensor
    square: Tensor
    gradient_square: Tensor
    inner: Tensor
    set_of_unit: Tensor


Redundancy = Callable[[UnitSums], Tensor]


def oto(sums: UnitSums) -> Tensor:
    """The score of OTOv2, section 4.1: half for a gradient step that shrinks the unit, half for its small magnitude.

    1/2 norm(cos(-x, -gradient)) + 1/2 norm(1 / average magnitude), norm(...) over the units of all sets, the average
    being the root mean square.
    Both parts are brought to 0 ... 1 by their rank, where the paper divides: one unit that is nearly zero has an
    inverse magnitude that makes all others look alike.
    """
    cosine = sums.inner / (sums.square * sums.gradient_square).sqrt().clamp_min(1e-30)
    magnitude = (sums.square / sums.numbers).sqrt()
    return 0.5 * _ranked(cosine) + 0.5 * _ranked(-magnitude)


def magnitude(sums: UnitSums) -> Tensor:
    """The smallest root mean square first."""
    return -(sums.square / sums.numbers).sqrt()


def taylor(sums: UnitSums) -> Tensor:
    """The smallest first-order change of the loss without the unit, |<x, gradient>|, first."""
    return -sums.inner.abs()


REDUNDANCIES: Mapping[str, Redundancy] = {"oto": oto, "magnitude": magnitude, "taylor": taylor}


def redundancy(name_or_function: str | Redundancy) -> Redundancy:
    """A score by its name, or one's own.

    Raises:
        ConfigError: no score has this name.
    """
    if not isinstance(name_or_function, str):
        return name_or_function
    if name_or_function not in REDUNDANCIES:
        raise ConfigError(one_of("score", name_or_function, list(REDUNDANCIES)))
    return REDUNDANCIES[name_or_function]


def _ranked(values: Tensor) -> Tensor:
    """Ranks from 0 to 1; equal values share the mean of their ranks."""
    _, place, amount = torch.unique(values, return_inverse=True, return_counts=True)
    last = amount.cumsum(0) - 1
    rank: Tensor = (last - (amount - 1) / 2) / max(len(values) - 1, 1)
    return rank[place]
