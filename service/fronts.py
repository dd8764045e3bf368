"""Fronts of predicted accuracy against one cost: searched once by a job, then stored."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from service.callers import Caller, submit
from service.context import Context
from service.domain import FrontRecord, FrontSpec, Job
from service.errors import Fault, FaultsError
from service.storage import devices, fronts, jobs, supernets

FIND_FRONT = "find_front"
METRICS = ("latency_ms", "macs", "params", "peak_memory_bytes", "size_bytes")


@dataclass(frozen=True)
class FrontAnswer:
    """What is known about a front.

    Attributes:
        spec: what decides it.
        front: the front, once it is there.
        job: its job, unless it is there.
    """

    spec: FrontSpec
    front: FrontRecord | None
    job: Job | None


def ask(context: Context, caller: Caller, supernet: str, device: str | None, metric: str | None) -> FrontAnswer:
    """A front, or the job that searches it.

    Args:
        context: of the service.
        caller: who asks.
        supernet: name or id.
        device: of a latency; None for costs that depend on no device.
        metric: one of `METRICS`; None: latency on the device if there is one, else MACs.

    Raises:
        FaultsError: the supernet or the device is unknown, the device has no complete table, or the metric goes with
            no device (or with one).
        BusyError: too many jobs wait or run already.
    """
    spec = _resolve(context, supernet, device, metric)
    with context.database.session() as session:
        front = fronts.get(session, spec.digest)
    if front is not None:
        return FrontAnswer(spec, front, None)
    with context.database.session(exclusive=True) as session:
        if fronts.get(session, spec.digest) is None:  # it was not there a moment ago
            submit(context, session, caller, FIND_FRONT, spec.digest, {"spec": spec.to_dict()})
    return find(context, spec)


def find(context: Context, spec: FrontSpec) -> FrontAnswer:
    """What is known about a front now."""
    with context.database.session() as session:
        job = jobs.get(session, spec.digest)  # first: of a job that has succeeded by now, the front is there
        return FrontAnswer(spec, fronts.get(session, spec.digest), job)


def under_way(session: Session) -> list[FrontSpec]:
    """What the waiting and running jobs search."""
    return [FrontSpec.from_dict(payload["spec"]) for payload in jobs.payloads_of_active(session, FIND_FRONT)]


def read(context: Context, front: FrontRecord) -> bytes:
    """A stored front, as `search.ParetoFront` wrote it.

    Raises:
        CheckpointError: its file is gone or was altered.
    """
    return context.artifacts.read(front.content.sha256)


def points(content: bytes) -> list[dict[str, Any]]:
    """The subnets of a stored front, by falling predicted accuracy."""
    found: list[dict[str, Any]] = json.loads(content)["subnets"]
    return found


def as_csv(content: bytes) -> bytes:
    """A stored front as CSV: one line a subnet, its figures, then its config as JSON."""
    found = points(content)
    costs = list(found[0]["costs"])
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["predicted_accuracy", *costs, "config"])
    for one in found:
        config = json.dumps(one["config"], separators=(",", ":"))
        writer.writerow([one["predicted_accuracy"], *(one["costs"][name] for name in costs), config])
    return text.getvalue().encode()


def _resolve(context: Context, supernet: str, device: str | None, metric: str | None) -> FrontSpec:
    metric = metric or ("macs" if device is None else "latency_ms")
    if (metric == "latency_ms") != (device is not None):
        needs = "needs a device; add device=NAME" if device is None else "goes with no device; leave device out"
        raise FaultsError([Fault("query.metric", f"{metric} {needs}")])
    table = None
    with context.database.session() as session:
        found = supernets.identify(session, supernet)
        if found is None:
            raise FaultsError(
                [Fault("query.supernet", f"no supernet {supernet!r}; see /api/v1/supernets for those that exist")]
            )
        supernet_id, space, num_classes = found
        if device is not None:
            table = devices.newest_complete(session, device, space, num_classes)
            if table is None:
                message = (
                    f"no complete latency table of {device!r} for space {space!r} with {num_classes} classes; see"
                    " /api/v1/devices for the devices, and POST a table to theirs"
                )
                raise FaultsError([Fault("query.device", message)])
    settings = context.settings
    return FrontSpec(supernet_id, metric, device, table, settings.front_population, settings.front_generations)
