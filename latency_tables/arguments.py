"""What all measurements take and refuse."""

from __future__ import annotations

from latency_tables.budget import device_fault
from supernet.errors import ConfigError


def check_arguments(*, device: str | None = None, warmup: int = 0, **positive: int) -> None:
    """Refuse what cannot be measured.

    Args:
        device: name of the device, where there is one.
        warmup: rounds, 0 or more.
        positive: further numbers by name, 1 or more each.

    Raises:
        ConfigError: all faults in one message.
    """
    fault = None if device is None else device_fault(device)
    faults = [fault] if fault else []
    faults += [f"{name} is {value}; allowed: 1 or more" for name, value in positive.items() if value < 1]
    if warmup < 0:
        faults.append(f"warmup is {warmup}; allowed: 0 or more")
    if faults:
        raise ConfigError(f"cannot profile: {'; '.join(faults)}")
