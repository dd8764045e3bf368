"""What a subnet is, and how the weights of all of them are trained.

Names that need torch are imported on first use, so that descriptions of subnets stay cheap to import.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from supernet.spaces import get_space, list_spaces, register_space  # first: it fills the registry that arch asks

from supernet.arch import LayerSpec, SubnetConfig  # isort: skip

if TYPE_CHECKING:
    from supernet.calibration import calibrate
    from supernet.network import Subnet, Supernet
    from supernet.runs import load_supernet

__all__ = [
    "LayerSpec",
    "Subnet",
    "SubnetConfig",
    "Supernet",
    "calibrate",
    "get_space",
    "list_spaces",
    "load_supernet",
    "register_space",
]

_LAZY = {
    "Subnet": "supernet.network",
    "Supernet": "supernet.network",
    "calibrate": "supernet.calibration",
    "load_supernet": "supernet.runs",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
