"""Subnets in formats that are made on demand: by the subnet's own job, or by one more afterwards."""

from __future__ import annotations

from collections.abc import Collection
from importlib.util import find_spec
from itertools import chain, combinations

from service.callers import Caller, submit
from service.context import Context
from service.domain import SubnetRecord, digest_of
from service.errors import Fault, FaultsError, NotFoundError
from service.storage import jobs, subnets

EXPORT_SUBNET = "export_subnet"
MADE_ON_DEMAND = {"onnx": "onnx", "pt2": "torch-export"}
"""Format -> what `supernet.export` calls it."""
FORMATS = ("safetensors", *MADE_ON_DEMAND)
"""What a request may ask for; safetensors are there always."""
_PACKAGES = {"onnx": ("onnx", "onnxruntime")}


def require(formats: Collection[str], where: str) -> None:
    """Refuse formats that this service cannot make.

    Raises:
        FaultsError: a package is not installed.
    """
    faults = [
        Fault(
            where,
            f"format {format!r} needs a package that this service lacks; its operator installs it with:"
            " pip install 'onceforall[onnx]'",
        )
        for format in formats
        if any(find_spec(package) is None for package in _PACKAGES.get(format, ()))
    ]
    if faults:
        raise FaultsError(faults)


def lacking(subnet: SubnetRecord, formats: Collection[str]) -> tuple[str, ...]:
    """Which of the formats have no file yet."""
    return tuple(format for format in sorted(set(formats)) if format not in subnet.files)


def start(context: Context, caller: Caller, subnet: SubnetRecord, formats: Collection[str]) -> str:
    """Submit the job that makes a subnet's lacking formats; returns its id. The same formats are the same job.

    Raises:
        NotFoundError: the subnet was deleted meanwhile.
        BusyError: too many jobs wait or run already.
    """
    wanted = lacking(subnet, formats)
    job_id = _job_id(subnet.id, wanted)
    with context.database.session(exclusive=True) as session:
        now = subnets.get_subnet(session, subnet.id)
        if now is None:
            raise NotFoundError(f"subnet {subnet.id[:12]} was deleted; ask for it again")
        if lacking(now, wanted) or jobs.get(session, job_id) is None:  # otherwise they were made a moment ago
            submit(context, session, caller, EXPORT_SUBNET, job_id, {"subnet": subnet.id, "formats": list(wanted)})
    return job_id


def job_ids(subnet_id: str) -> list[str]:
    """Ids of all jobs that may have made a subnet's formats."""
    formats = sorted(MADE_ON_DEMAND)
    chosen = chain.from_iterable(combinations(formats, count + 1) for count in range(len(formats)))
    return [_job_id(subnet_id, wanted) for wanted in chosen]


def _job_id(subnet_id: str, wanted: Collection[str]) -> str:
    return digest_of({"export": subnet_id, "formats": list(wanted)})
