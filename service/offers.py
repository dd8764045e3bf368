"""What can be done about a budget below every subnet of a supernet: prune the nearest one further."""

from __future__ import annotations

import math
from typing import Any

from latency_tables import Budget
from search import NoSubnetError
from service import pruning_data
from service.context import Context
from service.pruning_runs import RUNS
from service.pruning_spec import AUTO_COMPRESS
from service.storage import supernets

LEAST_SHARE = 0.05
"""Less of a subnet than this is not offered: hardly a network is left."""
_STANDS_FOR = {"latency_ms": "macs", "size_bytes": "params"}
"""What pruning counts exactly, for what it cannot know before the network is there."""


def below(context: Context, supernet_id: str, budget: Budget, seed: int, error: NoSubnetError) -> dict[str, Any] | None:
    """A pruning run, ready to be sent, that brings the nearest subnet within a budget.

    Latency and size are cut by as much as the MACs and parameters are asked to be, which is an estimate: layers do not
    all take time in proportion.

    Args:
        context: of the service.
        supernet_id: of the budget's supernet.
        budget: without shares of the largest subnet's cost.
        seed: of the request.
        error: why no subnet meets it.

    Returns:
        `url`, `body` and `note`; None where pruning cannot help: peak memory is exceeded, or too little would be left.
    """
    nearest = error.nearest
    limits: dict[str, float] = {}
    estimated = []
    for limit in budget.limits:
        if limit.name not in nearest.excess:
            continue
        metric = _STANDS_FOR.get(limit.metric, limit.metric)
        cost = nearest.costs[limit.name]
        if metric not in ("macs", "params") or limit.max < LEAST_SHARE * cost:
            return None
        if metric != limit.metric:
            estimated.append(f"{limit.name} by {metric}")
        value = limit.max if metric == limit.metric else nearest.costs[metric] * limit.max / cost
        limits[metric] = min(limits.get(metric, math.inf), math.floor(value))
    with context.database.session() as session:
        record = supernets.get(session, supernet_id)
    if record is None or not limits:
        return None
    body = {
        "method": AUTO_COMPRESS,
        "source": {"supernet": record.name, "config": nearest.config.to_dict()},
        "data": pruning_data.of_supernet(record.manifest, context.settings.data_sets),
        "constraints": [{"metric": metric, "max": value} for metric, value in sorted(limits.items())],
        "seed": seed,
    }
    notes = [f"prunes the nearest subnet to {', '.join(f'{metric} <= {value}' for metric, value in limits.items())}"]
    if estimated:
        notes.append(f"estimates {', '.join(estimated)}: see what is measured")
    return {"url": RUNS.address, "body": body, "note": "; ".join(notes)}
