"""Weights and architectures of MIT's once-for-all package, the reference, as this project's networks.

Source: Cai et al., "Once-for-All: Train One Network and Specialize it for Efficient Deployment", ICLR 2020; the
authors' package `ofa`, whose files and names these modules read.
"""


from supernet.import_ofa.files import read_state_dict

from supernet.import_ofa.supernets import load_ofa_state_dict

__all__ = [


    "load_ofa_state_dict",



    "read_state_dict",
]
