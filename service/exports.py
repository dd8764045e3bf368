"""Subnets in formats that are made on demand: by the subnet's own job, or by one more afterwards."""

from __future__ import annotations

from collections.abc import Collection
from importlib.util import find_spec

from service.callers import Caller, submit
from service.context import Context
from service.domain import SubnetRecord, digest_of
from service.errors import Fault, FaultsError

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
        BusyError: too many jobs wait or run already.
    """
    wanted = lacking(subnet, formats)
    job_id = digest_of({"export": subnet.id, "formats": list(wanted)})
    with context.database.session(exclusive=True) as session:
        submit(context, session, caller, EXPORT_SUBNET, job_id, {"subnet": subnet.id, "formats": list(wanted)})
    return job_id
