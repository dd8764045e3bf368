"""Weights and architectures of MIT's once-for-all package, the reference, as this project's networks.

Source: Cai et al., "Once-for-All: Train One Network and Specialize it for Efficient Deployment", ICLR 2020; the
authors' package `ofa`, whose files and names these modules read.
"""

from supernet.import_ofa.architectures import Architecture, load_ofa_net_config, lower_net_config, read_net_config
from supernet.import_ofa.files import read_state_dict
from supernet.import_ofa.subnets import load_ofa_subnet
from supernet.import_ofa.supernets import load_ofa_state_dict

__all__ = [
    "Architecture",
    "load_ofa_net_config",
    "load_ofa_state_dict",
    "load_ofa_subnet",
    "lower_net_config",
    "read_net_config",
    "read_state_dict",
]
