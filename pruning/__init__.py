"""How to carve a compact network out of an ordinary one: zero-invariant groups, and what prunes them."""

from pruning.construct import construct_subnet
from pruning.groups import ZeroInvariantGroups
from pruning.plan import Plan
from pruning.units import Cost, Entries, Masks, UnitSet

__all__ = ["Cost", "Entries", "Masks", "Plan", "UnitSet", "ZeroInvariantGroups", "construct_subnet"]
