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
    named, found = supernets.page(session, _NAMED, None), devices.device_page(session, _NAMED, None)
    complete = devices.complete_kinds(session, [device.name for device in found.items])
    priced = [
        PricedDevice(
            device.name,
            tuple(
                record.id
                for record in named.items
                if (record.space, record.num_classes) in complete.get(device.name, ())
            ),
        )
        for device in found.items
    ]
    left_out = [
        f"the newest {_NAMED} supernets" if named.next_cursor else "",
        f"the first {_NAMED} devices by name" if found.next_cursor else "",
    ]
    return {"supernets": named.items, "devices": priced, "only": " and ".join(filter(None, left_out))}
