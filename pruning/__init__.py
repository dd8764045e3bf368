"""How to carve a compact network out of an ordinary one: zero-invariant groups, and what prunes them."""

from pruning.artefact import load_compact, load_plan, program_as_onnx, save_compact
from pruning.autocompress import Compression, auto_compress
from pruning.compression_settings import CompressionSettings
from pruning.compression_state import load_round
from pruning.construct import construct_subnet
from pruning.dhspg import DHSPG, FixedPenalty
from pruning.group_sparse import GroupSparseOptimizer
from pruning.groups import ZeroInvariantGroups
from pruning.hesso import HESSO
from pruning.latency import UnitLatencies, measure_unit_latencies
from pruning.loops import Epoch, ImageLoop, OwnLoop
from pruning.plan import Plan
from pruning.targets import Target
from pruning.units import Cost, Entries, Masks, UnitSet

__all__ = [
    "DHSPG",
    "HESSO",
    "Compression",
    "CompressionSettings",
    "Cost",
    "Entries",
    "Epoch",
    "FixedPenalty",
    "GroupSparseOptimizer",
    "ImageLoop",
    "Masks",
    "OwnLoop",
    "Plan",
    "Target",
    "UnitLatencies",
    "UnitSet",
    "ZeroInvariantGroups",
    "auto_compress",
    "construct_subnet",
    "load_compact",
    "load_plan",
    "load_round",
    "measure_unit_latencies",
    "program_as_onnx",
    "save_compact",
]
