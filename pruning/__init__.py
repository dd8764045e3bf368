"""How to carve a compact network out of an ordinary one: zero-invariant groups, and what prunes them."""

from pruning.artefact import load_compact, load_plan, save_compact
from pruning.construct import construct_subnet
from pruning.dhspg import DHSPG, FixedPenalty
from pruning.group_sparse import GroupSparseOptimizer
from pruning.groups import ZeroInvariantGroups
from pruning.hesso import HESSO
from pruning.latency import UnitLatencies, measure_unit_latencies
from pruning.plan import Plan
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
    "Plan",
    "Target",
    "UnitLatencies",
    "UnitSet",
    "ZeroInvariantGroups",
    "construct_subnet",
    "load_compact",
    "load_plan",
    "measure_unit_latencies",
    "save_compact",
]
