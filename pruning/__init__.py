"""How to carve a compact network out of an ordinary one: zero-invariant groups, and what prunes them."""

from pruning.dhspg import DHSPG, FixedPenalty
from pruning.group_sparse import GroupSparseOptimizer
from pruning.hesso import HESSO
from pruning.targets import Target
from pruning.units import Cost, Entries, Masks, UnitSet

__all__ = [
    "DHSPG",
    "HESSO",
    "Cost",
    "Entries",
    "FixedPenalty",
    "GroupSparseOptimizer",
    "Masks",
    "Target",
    "UnitSet",
]
