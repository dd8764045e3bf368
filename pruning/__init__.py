"""How to carve a compact network out of an ordinary one: zero-invariant groups, and what prunes them."""

from pruning.units import Cost, Entries, Masks, UnitSet

__all__ = ["Cost", "Entries", "Masks", "UnitSet"]
