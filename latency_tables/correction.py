"""Corrects a latency table with a few whole subnets that were measured on its device.

Sums of layers know nothing of fusion, of caches that a neighbour has filled, or of what a network costs beside its
layers. Up to three parameters say what they miss:

    latency of a subnet = scale * sum of its rows + per_layer * number of its layers + constant

They are folded into the rows, so the result is an ordinary table: every row is multiplied and added to, and the
constant is added to the rows of a place that every subnet passes exactly once (see `_once`). No row falls below
`LEAST_SHARE` of what it was.

The fit is one of relative errors, since latencies span a wide range: of measured over estimated latency, so that a
wrong measurement has no more leverage than a right one. It is robust (Huber's weights, the scale of the errors from
their median), and held toward no change as by one more measurement of each parameter: ridge regression, of which the
strength is the variance of the errors, so exact data are fitted exactly. Which parameters are fitted, leaving out
single subnets says. The errors that are reported are of such left-out subnets; they are flattered a little, since the
best of at most four choices of parameters is taken by them.

Subnets and table must be measured in the same circumstances. On a busy machine, other programs interrupt most passes
through a whole subnet but few layers, and a correction would hold that for the device's nature: seen here, at a load of
4 on two cores, whole subnets took 1.1 to 3.9 times the sum of the rows of a table profiled just before.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from latency_tables.document import refuse
from latency_tables.measured import MAX_SUBNETS, MeasuredSubnet
from latency_tables.table import Correction, LatencyTable, Row
from supernet.arch import SubnetConfig
from supernet.errors import TableError
from supernet.spaces import SearchSpace

Floats = npt.NDArray[np.float64]

LEAST_SUBNETS = 6
"""Fewer leave one parameter and its error to chance."""
SUBNETS_A_PARAMETER = 4
"""Least number of subnets for each parameter that is fitted."""
GAIN = 0.95
"""A further parameter, and the correction as a whole, must bring the left-out error down to this share."""
LEAST_SHARE = 0.05
"""No row becomes less than this part of itself."""

_CHOICES = ((0,), (0, 1), (0, 2), (0, 1, 2))
"""Which of scale, time a layer and constant are fitted; the fewest first."""
_HUBER = 1.345
"""Errors of more standard deviations count less: 95 % as efficient as least squares where errors are normal."""
_NOISE = 1e-4
"""Least standard deviation of relative errors; no clock measures a subnet better."""
_STEPS = 50


@dataclass(frozen=True)
class Corrected:
    """What came of a correction.

    Attributes:
        table: the corrected table; the given one where a correction does not predict left-out subnets better.
        subnets: number of measured subnets.
        error_before: median relative error of the subnets' estimates.
        error_after: the same with a correction that was fitted to the other subnets, used or not.
    """

    table: LatencyTable
    subnets: int
    error_before: float
    error_after: float

    @property
    def changed(self) -> bool:
        """Whether the table was corrected."""
        return self.table.provenance.correction is not None


def correct(table: LatencyTable, space: SearchSpace, measured: Sequence[MeasuredSubnet]) -> Corrected:
    """Fit a correction and apply it, if it predicts subnets that the fit has not seen better than the table does.

    Args:
        table: an uncorrected table.
        space: its space, with the number of classes that was measured.
        measured: whole subnets, measured with the table's threads and batch; `LEAST_SUBNETS` to `MAX_SUBNETS`.

    Raises:
        TableError: the table is corrected already, for another space, or lacks rows of the subnets; or the subnets are
            too few or too many, of another space, not different, or have impossible latencies; all these in one
            message.
    """
    _check(table, space, measured)
    keys = list(table.rows)
    held = _held(space, keys, [subnet.config for subnet in measured])
    rows = np.array([table.rows[key].median_ms for key in keys])
    once = np.isin(keys, _once(space))
    latencies = np.array([subnet.latency_ms for subnet in measured])
    before = np.abs(held @ rows / latencies - 1)
    tried = []
    for choice in _CHOICES:
        if SUBNETS_A_PARAMETER * len(choice) <= len(measured) and (once.any() or 2 not in choice):
            fitted, left_out = _fit(held, rows, latencies, choice)
            sums = [counts @ _applied(rows, once, fit) for counts, fit in zip(held, left_out, strict=True)]
            tried.append((fitted, np.abs(sums / latencies - 1)))
    best, after = tried[0]
    for fitted, errors in tried[1:]:
        if _better(errors, after):
            best, after = fitted, errors
    error_before, error_after = (round(float(np.median(errors)), 6) for errors in (before, after))
    if not _better(after, before) or error_after >= error_before:
        return Corrected(table, len(measured), error_before, error_after)
    scale, per_layer, constant = map(_rounded, best)
    correction = Correction(len(measured), scale, per_layer, constant, error_before, error_after, table.digest)
    applied = _applied(rows, once, np.array([scale, per_layer, constant]))
    new_rows = {
        key: Row(_rounded(ms), _rounded(scale * table.rows[key].spread_ms), table.rows[key].count)
        for key, ms in zip(keys, applied, strict=True)
    }
    provenance = replace(table.provenance, correction=correction)
    return Corrected(replace(table, rows=new_rows, provenance=provenance), len(measured), error_before, error_after)


def _check(table: LatencyTable, space: SearchSpace, measured: Sequence[MeasuredSubnet]) -> None:
    correction = table.provenance.correction
    if correction is not None:
        raise TableError(
            f"the latency table of {table.device!r} is corrected already, with {correction.subnets} subnets; correct "
            f"the table that it was made of (digest {correction.uncorrected[:12]}...), or measure one with: "
            "onceforall profile --correct"
        )
    table.coverage(space)  # refuses another space or number of classes
    faults = []
    if not LEAST_SUBNETS <= len(measured) <= MAX_SUBNETS:
        faults.append(f"{len(measured)} subnets; allowed: {LEAST_SUBNETS} to {MAX_SUBNETS}")
    first: dict[SubnetConfig, int] = {}
    for number, subnet in enumerate(measured):
        config, ms = subnet.config, subnet.latency_ms
        if config.space != space.name:
            faults.append(f"subnet {number} is of space {config.space!r}; allowed: {space.name!r}")
            continue
        if config in first:
            faults.append(f"subnet {number} repeats subnet {first[config]}")
        first.setdefault(config, number)
        if not (math.isfinite(ms) and ms > 0):
            faults.append(f"subnet {number}, latency_ms is {ms}; allowed: finite and above 0")
        missing = [spec.key for spec in space.layers(config) if spec.key not in table.rows]
        if missing:
            others = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            faults.append(f"subnet {number} needs {missing[0]}{others}, which the table lacks")
    refuse(
        faults,
        f"cannot correct the latency table of {table.device!r}",
        remedy="measure further subnets, or leave wrong ones out",
    )


def _held(space: SearchSpace, keys: Sequence[str], configs: Sequence[SubnetConfig]) -> Floats:
    """(subnets, rows): how often each subnet has each layer."""
    column = {key: number for number, key in enumerate(keys)}
    held = np.zeros((len(configs), len(keys)))
    for counts, config in zip(held, configs, strict=True):
        for spec in space.layers(config):
            counts[column[spec.key]] += 1
    return held


def _once(space: SearchSpace) -> list[str]:
    """Keys of the layers of which every subnet has exactly one, once; none where the space has no such place.

    They are those of the last site that no subnet leaves out and whose layers occur nowhere else: the classifier, as a
    rule.
    """
    choices = [
        {site.lower(*values) for values in itertools.product(*(space.dimensions[gene].choices for gene in site.genes))}
        for site in space.sites
    ]
    for number in range(len(choices) - 1, -1, -1):
        elsewhere = set().union(*choices[:number], *choices[number + 1 :])
        if None not in choices[number] and not choices[number] & elsewhere:
            return [spec.key for spec in choices[number] if spec is not None]
    return []


def _fit(held: Floats, rows: Floats, latencies: Floats, choice: Sequence[int]) -> tuple[Floats, Floats]:
    """Parameters fitted to all subnets, (3,), and without each of them, (subnets, 3)."""
    sums = held @ rows
    layers = held.sum(1)
    # Each in units in which no change is 0 and 1 would be a great change: the scale by 1, the others by the time of
    # an average layer and of an average subnet.
    units = np.array([1.0, float(np.median(sums / layers)), float(np.median(sums))])
    columns = (np.stack([sums, layers, np.ones_like(sums)], axis=1) * units / sums[:, None])[:, choice]
    target = latencies / sums - 1
    used = np.concatenate([np.ones((1, len(sums))), 1 - np.eye(len(sums))]).astype(bool)  # all; all but one
    weights = used.astype(np.float64)
    found = np.zeros((len(used), len(choice)))
    noise = np.full(len(used), _NOISE)
    for _ in range(_STEPS):
        weighted = weights[:, None, :] * columns.T  # (fits, parameters, subnets)
        ridge = noise[:, None, None] ** 2 * np.eye(len(choice))
        found = np.linalg.solve(weighted @ columns + ridge, (weighted @ target)[..., None])[..., 0]
        residuals = np.abs(found @ columns.T - target)
        ascending = np.sort(np.where(used, residuals, np.inf))
        medians = np.take_along_axis(ascending, used.sum(1, keepdims=True) // 2, axis=1)[:, 0]
        noise = np.maximum(1.4826 * medians, _NOISE)  # as of a normal distribution
        weights = used * np.minimum(1, _HUBER * noise[:, None] / np.maximum(residuals, _NOISE))
    parameters = np.zeros((len(used), 3))
    parameters[:, choice] = found * units[list(choice)]
    parameters[:, 0] = np.maximum(1 + parameters[:, 0], LEAST_SHARE)
    return parameters[0], parameters[1:]


def _applied(rows: Floats, once: npt.NDArray[np.bool_], parameters: Floats) -> Floats:
    """The corrected rows."""
    scale, per_layer, constant = parameters
    corrected: Floats = np.maximum(scale * rows + per_layer + constant * once, LEAST_SHARE * rows)
    return corrected


def _better(errors: Floats, than: Floats) -> bool:
    """By their means, whose own error is less than the medians'."""
    return round(float(errors.mean()), 6) < GAIN * round(float(than.mean()), 6)


def _rounded(value: float) -> float:
    """To 9 digits: a file needs no more, and even the least row stays above 0."""
    return float(f"{value:.9g}")
