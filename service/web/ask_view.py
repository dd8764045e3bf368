"""What the page of asking shows: supernets, and the metrics and devices that a budget can limit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from service.storage import devices, supernets

_NAMED = 200


@dataclass(frozen=True)
class PricedDevice:
    """A device, and the supernets that its latency tables can price.

    Attributes:
        name: of the device.
        supernets: ids of those of which it has a complete table.
    """

    name: str
    supernets: tuple[str, ...]


def ask(session: Session) -> dict[str, Any]:
    """Values of the page."""
    named = supernets.page(session, _NAMED, None).items
    kinds = {(record.space, record.num_classes) for record in named}
    priced = []
    for device in devices.device_page(session, _NAMED, None).items:
        complete = {
            kind
            for kind in kinds
            if any(not table.missing for table in devices.tables_for(session, device.name, *kind))
        }
        can = tuple(record.id for record in named if (record.space, record.num_classes) in complete)
        priced.append(PricedDevice(device.name, can))
    return {"supernets": named, "devices": priced}
