"""ParetoFront: the subnets of which none is cheaper and better than another; it answers any budget by look-up."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from latency_tables import COUNTS, Budget, SpaceCosts
from search.candidate import Candidate, with_whole_counts
from supernet import registry
from supernet.arch import SubnetConfig
from supernet.errors import CheckpointError, ConfigError, InfeasibleBudgetError, MissingPackageError
from supernet.files import atomic_path, read_json, require_writable, write_json
from supernet.spaces import Genotypes, SearchSpace

FORMAT = "onceforall.front/1"
PICTURES = (".png", ".svg", ".pdf")
"""How the names of pictures may end."""
Floats = npt.NDArray[np.float64]
_ROWS_AT_ONCE = 128


@dataclass(frozen=True)
class ParetoFront:
    """A front of predicted accuracy against one to three metrics.

    Attributes:
        space: the subnets' search space.
        genotypes: canonical, int8 (n, genes), by falling accuracy.
        accuracies: predicted, float64 (n,) in [0, 1].
        costs: metric -> float64 (n,): of every metric that the search knew.
        metrics: those of them that the front is about.
        details: how it was made, plain JSON. Searches put in `scored`, a number of subnets; `of_largest`, the costs of
            the largest subnet of those that are searched; `predictor` and `tables` (device -> digest), the digests of
            what it was made with; `resolutions`, those that were searched, and `not_searched`, the others -> why.
    """

    space: SearchSpace
    genotypes: Genotypes = field(repr=False)
    accuracies: Floats = field(repr=False)
    costs: Mapping[str, Floats] = field(repr=False)
    metrics: tuple[str, ...]
    details: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        space: SearchSpace,
        genotypes: Genotypes,
        accuracies: npt.NDArray[np.floating],
        ranks: npt.NDArray[np.floating],
        costs: Mapping[str, Floats],
        metrics: Sequence[str],
        **details: Any,
    ) -> ParetoFront:
        """The rows that no other row dominates.

        Args:
            space: the subnets' search space.
            genotypes: canonical, int8 (n, genes).
            accuracies: predicted, (n,).
            ranks: what tells equal accuracies apart, (n,): those that are not cut off at 0 and 1.
            costs: metric -> (n,).
            metrics: which metrics count.
            details: plain JSON facts to keep.
        """
        values = np.column_stack([costs[metric] for metric in metrics])
        # the best first; of equals the cheapest. By the accuracies that are kept: those of one row in two batches, as
        # ranks and accuracies are made, can differ in the last bit
        order = np.lexsort((*values.T[::-1], -np.asarray(ranks), -np.asarray(accuracies)))
        order = order[~dominated(values[order])]
        return cls(
            space,
            genotypes[order],
            np.asarray(accuracies, dtype=np.float64)[order],
            {name: column[order] for name, column in costs.items()},
            tuple(metrics),
            details,
        )

    def __len__(self) -> int:
        return len(self.genotypes)

    def look_up(self, budget: Budget) -> Candidate:
        """The subnet of greatest predicted accuracy on the front that meets every limit; a fraction of a millisecond.

        Args:
            budget: limits on any metrics of `costs`; a share is of the largest subnet's that was searched. The answer
                is a good one only if they are among `metrics`: a limit on another one is kept too, but the front was
                not made for it.

        Raises:
            ConfigError: a limit on a metric that the front does not know, or on a percentile.
            InfeasibleBudgetError: no subnet of the front meets the budget.
        """
        unknown = [name for name in budget.names if name not in self.costs]
        percentiles = [limit.name for limit in budget.limits if limit.quantile is not None]
        if percentiles:
            raise ConfigError(
                f"a front knows no percentiles, asked for: {', '.join(percentiles)}; leave them out, or search "
                "for this budget without the front, with the device's latency table"
            )
        if unknown:
            raise ConfigError(
                f"the front knows no {', '.join(unknown)}; known: {', '.join(self.costs)}; "
                "make a front with a latency table of that device"
            )
        budget = budget.absolute(self._of_largest)
        met = np.ones(len(self), dtype=bool)
        for limit in budget.limits:
            met &= self.costs[limit.name] <= limit.max
        if not met.any():
            least = ", ".join(f"{name} {self.costs[name].min():.6g}" for name in budget.names)
            raise InfeasibleBudgetError(
                f"no subnet of the front meets {budget}; the least on the front: {least}; raise the limits, or search "
                "without the front"
            )
        return self.candidate(int(met.argmax()))  # the first is the best: they are sorted

    def _of_largest(self, metric: str) -> float:
        try:
            return float(self.details["of_largest"][metric])
        except KeyError:
            raise ConfigError(
                f"the front does not say what {metric} of the largest subnet is; give it in full"
            ) from None

    def candidate(self, number: int) -> Candidate:
        """A subnet of the front; 0 is the most accurate one."""
        costs = with_whole_counts({name: column[number] for name, column in self.costs.items()})
        config = self.space.decode(self.genotypes[number : number + 1])[0]
        return Candidate(config, float(self.accuracies[number]), costs, {}, int(self.details.get("scored", 0)))

    def hypervolume(self, reference: Mapping[str, float], least_accuracy: float = 0.0) -> float:
        """Volume of what the front dominates: greater is better.

        Args:
            reference: metric -> cost above which nothing counts, for each of `metrics`.
            least_accuracy: accuracy below which nothing counts.

        Returns:
            Product of accuracy and each metric's unit; 0 where no subnet is within the reference.
        """
        lacking = [metric for metric in self.metrics if metric not in reference]
        if lacking:
            raise ConfigError(f"the reference point lacks {', '.join(lacking)}; give one cost a metric of the front")
        gains = np.column_stack(
            [
                self.accuracies - least_accuracy,
                *(reference[metric] - self.costs[metric] for metric in self.metrics),
            ]
        )
        return _volume(gains[(gains > 0).all(axis=1)])

    @cached_property
    def configs(self) -> list[SubnetConfig]:
        """The subnets, by falling accuracy."""
        return self.space.decode(self.genotypes)

    def with_details(self, **details: Any) -> ParetoFront:
        """The same front with more facts to keep."""
        return replace(self, details={**self.details, **details})

    def save(self, path: Path | str) -> None:
        """Write the front as JSON, atomically.

        Raises:
            StorageError: it cannot be written.
        """
        write_json(
            Path(path),
            {
                "format": FORMAT,
                "space": self.space.name,
                "num_classes": self.space.num_classes,
                "metrics": list(self.metrics),
                "details": dict(self.details),
                "subnets": [
                    {
                        "config": config.to_dict(),
                        "predicted_accuracy": float(accuracy),
                        "costs": {name: float(column[number]) for name, column in self.costs.items()},
                    }
                    for number, (config, accuracy) in enumerate(zip(self.configs, self.accuracies, strict=True))
                ],
            },
        )

    @classmethod
    def load(cls, path: Path | str) -> ParetoFront:
        """Read what `save` wrote; what can be counted is counted again.

        Raises:
            CheckpointError: absent, or not a front, or its figures cannot be right.
        """
        data = read_json(Path(path))
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            found = data.get("format") if isinstance(data, dict) else type(data).__name__
            raise CheckpointError(f"{str(path)!r} has format {found!r}; expected {FORMAT!r}; make the front again")
        try:
            if not isinstance(data["details"], dict):
                raise ValueError(f"its details are {data['details']!r}, not an object")
            space = registry.find(data["space"]).with_num_classes(data["num_classes"])
            subnets = data["subnets"]
            configs = [SubnetConfig.from_dict(subnet["config"]) for subnet in subnets]
            names = list(subnets[0]["costs"])
            costs = {name: np.array([subnet["costs"][name] for subnet in subnets], dtype=np.float64) for name in names}
            accuracies = np.array([subnet["predicted_accuracy"] for subnet in subnets], dtype=np.float64)
            metrics = tuple(data["metrics"])
            if not metrics or any(metric not in costs for metric in metrics):
                raise ValueError(f"metrics {metrics} without costs")
            _check(space, configs, accuracies, costs, data["details"])
            return cls(space, space.encode(configs), accuracies, costs, metrics, data["details"])
        except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError, ConfigError) as error:
            raise CheckpointError(f"{str(path)!r} is not a front ({error}); make it again") from None

    def draw(self, path: Path | str) -> None:
        """A picture of accuracy by the first metric, written atomically; the format follows from the name's ending.

        Raises:
            ConfigError: another ending than those of `PICTURES`.
            MissingPackageError: matplotlib is not installed.
            StorageError: it cannot be written.
        """
        path = Path(path)
        require_drawable(path)
        from matplotlib.figure import Figure

        figure = Figure(figsize=(7, 4.5), layout="constrained")
        axes = figure.subplots()
        metric = self.metrics[0]
        axes.plot(self.costs[metric], 100 * self.accuracies, ".", markersize=4)
        axes.set_xlabel(metric)
        axes.set_ylabel("predicted accuracy, %")
        axes.set_title(f"{self.space.name}: {len(self)} subnets")
        axes.grid(alpha=0.3)
        with atomic_path(path) as temporary:
            figure.savefig(temporary, format=path.suffix[1:].lower())


def require_drawable(path: Path) -> None:
    """Refuse now a picture that could not be drawn later, after long work.

    Raises:
        ConfigError: another ending than those of `PICTURES`.
        MissingPackageError: matplotlib is not installed.
        StorageError: its folder cannot be made or written.
    """
    if path.suffix.lower() not in PICTURES:
        raise ConfigError(f"picture {str(path)!r} ends in {path.suffix!r}; allowed: {', '.join(PICTURES)}")
    if find_spec("matplotlib") is None:
        raise MissingPackageError("a picture needs matplotlib; install it with: pip install 'onceforall[pictures]'")
    require_writable(path)


def _check(
    space: SearchSpace,
    configs: Sequence[SubnetConfig],
    accuracies: Floats,
    costs: Mapping[str, Floats],
    details: Mapping[str, Any],
) -> None:
    """Raise a ValueError with what no search would have stored."""
    if not ((accuracies >= 0) & (accuracies <= 1)).all():  # NaN is neither
        raise ValueError("an accuracy is outside of 0 to 1")
    if (np.diff(accuracies) > 0).any():
        raise ValueError("the accuracies do not fall")
    for name, column in costs.items():
        if not (np.isfinite(column) & (column >= 0)).all():
            raise ValueError(f"a cost {name} is negative or not finite")
    counted = {model.name: model for model in COUNTS if model.name in costs}
    if counted:
        sides = sorted({config.resolution for config in configs})
        true = SpaceCosts(space, counted, within={"resolution": sides}).of(space.encode(configs))
        for name, column in zip(counted, true.T, strict=True):
            if (wrong := np.flatnonzero(column != costs[name])).size:
                number = wrong[0]
                raise ValueError(
                    f"subnet {number} has {name} {costs[name][number]:.12g}, counted: {column[number]:.12g}"
                )
    if type(scored := details.get("scored", 0)) is not int:
        raise ValueError(f"scored is {scored!r}, not a number of subnets")
    for field_name, good in (("of_largest", _is_cost), ("tables", _is_text), ("not_searched", _is_text)):
        values = details.get(field_name, {})
        if not isinstance(values, dict) or not all(map(good, values.values())):
            raise ValueError(f"{field_name} is {values!r}")


def _is_cost(value: object) -> bool:
    return type(value) in (int, float) and 0 <= float(value) < math.inf  # type: ignore[arg-type]


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def dominated(costs: Floats) -> npt.NDArray[np.bool_]:
    """Which rows are no better than some earlier row in every column, (n,) bool.

    Args:
        costs: (n, metrics), rows by falling accuracy; less is better.
    """
    if costs.shape[1] == 1:
        least = np.minimum.accumulate(costs[:, 0])
        return np.concatenate([[False], costs[1:, 0] >= least[:-1]])[: len(costs)]
    result = np.empty(len(costs), dtype=bool)
    front = costs[:0]
    earlier = np.triu(np.ones((_ROWS_AT_ONCE, _ROWS_AT_ONCE), dtype=bool), 1)
    for start in range(0, len(costs), _ROWS_AT_ONCE):
        rows = costs[start : start + _ROWS_AT_ONCE]
        within = _no_worse(rows, rows) & earlier[: len(rows), : len(rows)]
        worse = within.any(axis=0) | _no_worse(front, rows).any(axis=0)
        result[start : start + len(rows)] = worse
        front = np.concatenate([front, rows[~worse]])
    return result


def _no_worse(costs: Floats, others: Floats) -> npt.NDArray[np.bool_]:
    """Which rows, (n, metrics), cost no more than which of the others, (m, metrics), by any metric: (n, m)."""
    result = np.ones((len(costs), len(others)), dtype=bool)
    for column, other in zip(costs.T, others.T, strict=True):
        result &= column[:, None] <= other
    return result


def _volume(gains: Floats) -> float:
    """Volume of the union of the boxes between 0 and each row, (n, 1 to 4 columns), by slicing the last column."""
    if not len(gains):
        return 0.0
    if gains.shape[1] == 1:
        return float(gains.max())
    order = np.argsort(-gains[:, -1], kind="stable")
    sorted_gains = gains[order]
    heights = sorted_gains[:, -1] - np.append(sorted_gains[1:, -1], 0.0)
    if gains.shape[1] == 2:
        return float(np.maximum.accumulate(sorted_gains[:, 0]) @ heights)
    return float(
        sum(_volume(sorted_gains[: number + 1, :-1]) * height for number, height in enumerate(heights) if height)
    )
