"""Reading the reference's layer descriptions field by field, with every fault kept for one message."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from supernet.arch import Activation

_ACTIVATIONS: dict[object, Activation] = {
    None: "none",
    "none": "none",
    "relu": "relu",
    "relu6": "relu6",
    "h_swish": "h_swish",
}


class Fields:
    """The named fields of one JSON object.

    Args:
        where: what to call it in a fault.
        value: the object; anything else is a fault, and then it has no fields.
        faults: list that receives what is wrong.
        names: allowed values of its field `name`; empty: not asked for.
    """

    def __init__(self, where: str, value: object, faults: list[str], names: Sequence[str] = ()) -> None:
        self.where, self.faults = where, faults
        self.values: Mapping[str, Any] = value if isinstance(value, Mapping) else {}
        self.broken = not isinstance(value, Mapping)
        if self.broken:
            self._fault(f"is {_shown(value)}; expected an object")
        elif names and self.values.get("name") not in names:
            self.fault("name", self.values.get("name"), ", ".join(names))

    def number(self, name: str, default: int | None = None, *, odd: bool = False) -> int:
        """A whole number of at least 1."""
        value = self.values.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1 or (odd and value % 2 == 0):
            self.fault(name, value, f"{'an odd' if odd else 'a'} whole number, at least 1")
            return 1
        return value

    def optional_number(self, name: str) -> int | None:
        """The same, or None where it is absent or null."""
        return None if self.values.get(name) is None else self.number(name)

    def ratio(self, name: str, default: float) -> float:
        """A number above 0."""
        value = self.values.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not (math.isfinite(value) and value > 0):
            self.fault(name, value, "a number above 0")
            return default
        return value

    def flag(self, name: str, default: bool) -> bool:
        """True or false."""
        value = self.values.get(name, default)
        if not isinstance(value, bool):
            self.fault(name, value, "true, false")
            return default
        return value

    def activation(self, default: str | None) -> Activation:
        """The activation function."""
        value = self.values.get("act_func", default)
        if not isinstance(value, str | None) or value not in _ACTIVATIONS:
            self.fault("act_func", value, "null, relu, relu6, h_swish")
            return "none"
        return _ACTIVATIONS[value]

    def only(self, name: str, *allowed: object) -> None:
        """A field that may have just these values; the first is the default."""
        value = self.values.get(name, allowed[0])
        if not any(type(value) is type(choice) and value == choice for choice in allowed):
            self.fault(name, value, ", ".join("null" if choice is None else str(choice) for choice in allowed))

    def fault(self, name: str, value: object, allowed: str) -> None:
        """Keep a fault of one field."""
        if not self.broken:
            self._fault(f"{name} is {_shown(value)}; allowed: {allowed}")

    def _fault(self, text: str) -> None:
        self.faults.append(f"{self.where} {text}" if self.broken else f"{self.where}.{text}")


def _shown(value: object) -> str:
    return repr(value) if len(repr(value)) <= 60 else f"{type(value).__name__} {repr(value)[:50]}..."
