"""Purification: what pruning has left without use goes, too (AutoCompress; the idea is from P-RM, arXiv 1905.00136).

1. Near-zero sweep: columns whose root mean square over the rows is below a threshold t1 of their layer go; units, where
   that holds of their rows in every producer.
2. Emptiness: where the share of a channel's places that have gone reaches a threshold t2 of the layer, the rest of the
   channel goes from this layer.
3. Lossless: a unit that nothing reads any more goes, and with it columns that read it; until nothing changes.

The thresholds of all layers are searched by annealing: as much as possible goes while accuracy falls by no more than
is allowed.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pruning.weights import Kept, WeightMatrices

REACH = 0.5
"""Highest t1, of the root mean square of a layer's kept weights."""
LEAST_SHARE = 0.3
"""Lowest t2."""


def purified(
    matrices: WeightMatrices,
    weights: Mapping[str, Tensor],
    kept: Kept,
    thresholds: tuple[Mapping[str, float], Mapping[str, float]],
    dimensions: str = "combined",
) -> Kept:
    """All three steps.

    Args:
        matrices: of the model.
        weights: (O, K) by layer, on the CPU.
        kept: what stays before.
        thresholds: t1 and t2 by layer; a layer that is not named is left alone.
        dimensions: as in `pruning.weights.DIMENSIONS`; filters and channels lose no single columns.
    """
    near, empty = thresholds
    found = lossless(matrices, emptied(matrices, near_zero(matrices, weights, kept, near), empty))
    if dimensions in ("filters", "channels"):
        return matrices.restricted(found.units, kept.weights)
    return found


def near_zero(matrices: WeightMatrices, weights: Mapping[str, Tensor], kept: Kept, near: Mapping[str, float]) -> Kept:
    """Without columns and units below t1; at least the largest of each stays."""
    total = matrices.first[-1]
    small, produced = torch.ones(total + 1, dtype=torch.bool), torch.zeros(total + 1, dtype=torch.bool)
    strength = torch.zeros(total + 1)
    for layer in matrices.layers:
        mask = kept.weights[layer.name]
        energy = (weights[layer.name] * mask).float().square()
        by_row = _root_mean_square(energy.sum(1), mask.sum(1))
        produced[layer.rows] = True
        small[layer.rows[by_row >= near.get(layer.name, 0.0)]] = False
        strength.index_add_(0, layer.rows % (total + 1), by_row)
    gone = (small & produced)[:-1]
    found = matrices.restricted(_at_least_one(matrices, kept.units, gone, strength[:-1]), kept.weights)
    masks = dict(found.weights)
    for layer in matrices.layers:
        mask = masks[layer.name]
        if layer.splits and layer.name in near:
            by_column = _root_mean_square((weights[layer.name] * mask).float().square().sum(0), mask.sum(0))
            stays = by_column >= near[layer.name]
            stays[by_column.masked_fill(~mask.any(0), -1).argmax()] = True
            masks[layer.name] = mask & stays
    return matrices.restricted(found.units, masks)


def emptied(matrices: WeightMatrices, kept: Kept, empty: Mapping[str, float]) -> Kept:
    """Without channels of which a share of t2 or more has gone; at least one channel of each layer stays."""
    total = matrices.first[-1]
    boxes = matrices.boxes(kept.units)
    masks = dict(kept.weights)
    for layer in matrices.layers:
        if layer.name not in empty:
            continue
        rows, columns = boxes[layer.name]
        mask = kept.weights[layer.name]
        owner = layer.columns % (total + 1)
        left = torch.zeros(total + 1).index_add_(0, owner, mask.sum(0).float())
        places = torch.zeros(total + 1).index_add_(0, owner, columns.float() * float(rows.sum()))
        gone = (left < places) & (1 - left / places.clamp(min=1) >= empty[layer.name])
        gone[-1] = False  # the image's channels, and others that no unit produces
        if bool((mask & ~gone[owner]).any()):
            masks[layer.name] = mask & ~gone[owner]
    return matrices.restricted(kept.units, masks)


def lossless(matrices: WeightMatrices, kept: Kept) -> Kept:
    """Without units that nothing reads, and what reads them; a fixed point, reached from any choice in finite steps."""
    while True:
        units = torch.cat(kept.units)
        gone = units & ~matrices.live_units(kept)
        found = _at_least_one(matrices, kept.units, gone, units.float())
        if all(map(torch.equal, found, kept.units)):
            return kept
        kept = matrices.restricted(found, kept.weights)


def scales(matrices: WeightMatrices, weights: Mapping[str, Tensor], kept: Kept) -> dict[str, float]:
    """By layer, the root mean square of the kept weights."""
    return {
        layer.name: float(
            _root_mean_square(
                (weights[layer.name] * kept.weights[layer.name]).float().square().sum(), kept.weights[layer.name].sum()
            )
        )
        for layer in matrices.layers
    }


def thresholds_of(
    point: NDArray[np.float64], names: list[str], scale: Mapping[str, float]
) -> tuple[dict[str, float], dict[str, float]]:
    """A point of the search, (2 layers,) in [0, 1], as t1 and t2 by layer; zeros remove only what is lossless."""
    near, empty = np.split(point, 2)
    return (
        {name: REACH * float(share) * scale[name] for name, share in zip(names, near, strict=True)},
        {name: 1 - (1 - LEAST_SHARE) * float(share) for name, share in zip(names, empty, strict=True)},
    )


def worth(removed_percent: float, drop_points: float, allowed_points: float) -> float:
    """What a purification is worth to the search: what goes, if accuracy falls by no more than is allowed.

    Args:
        removed_percent: of the cost before.
        drop_points: percentage points of accuracy lost.
        allowed_points: delta.
    """
    return removed_percent if drop_points <= allowed_points else allowed_points - drop_points


def _root_mean_square(energy: Tensor, number: Tensor) -> Tensor:
    return (energy / number.clamp(min=1)).sqrt()


def _at_least_one(
    matrices: WeightMatrices, units: tuple[Tensor, ...], gone: Tensor, strength: Tensor
) -> tuple[Tensor, ...]:
    """Units without those that have gone; a set that would lose all keeps the strongest that it had."""
    found = []
    for own, lost, scores in zip(units, matrices.split(gone), matrices.split(strength), strict=True):
        left = own & ~lost
        if not bool(left.any()):
            left = torch.zeros_like(own)
            left[scores.masked_fill(~own, -1).argmax()] = True
        found.append(left)
    return tuple(found)
