"""Compiled CPU kernels for training, where PyTorch's own are slow; numba compiles them on first use and keeps the code.

Measured on one AVX-512 core against PyTorch 2.14 (channels last, float32): the weight gradient of depthwise 5x5 and
7x7 convolutions 6 to 25 times as fast, their input gradient 1 to 4 times, squeeze-excite's backward pass 3 to 4 times,
batch norm with activation 2 times in both directions; gradients of a whole network 200 times closer to float64, as
batch norm's sums end in float64.

Why numba, and as a plain dependency: a wheel of numba (with LLVM 200 MB on disk, a sixth of torch) runs where no
compiler is, and without it training takes 1.3 to 2 times as long. The first step of a fresh installation compiles for
6 seconds, later processes load the code in 0.5. Where numba is absent, `usable` is false and the layers fall back on
PyTorch's own operators, with the same results to rounding. The modules below import numba, so only callers that have
asked `usable` import them.

Results are the same bits whatever the number of threads: work is cut into parts by the shapes alone.
"""

from __future__ import annotations

import warnings
from functools import cache
from importlib import import_module
from importlib.util import find_spec

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

LEAST_CHANNELS = 16
"""Channels of one register; narrower layers are PyTorch's."""
DEPTHWISE_SIDES = (5, 7)
"""Kernel sizes whose gradients are ours; 3 is PyTorch's."""


def usable(x: Tensor) -> bool:
    """Whether the kernels can take this input: float32 (N, C, H, W) on the CPU with at least 16 channels."""
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and x.ndim == 4
        and x.shape[1] >= LEAST_CHANNELS
        and x.numel() > 0
        and type(x) in (Tensor, nn.Parameter)  # tracing and export bring subclasses without data
        and not torch.compiler.is_compiling()
        and installed()
    )


@cache
def installed() -> bool:
    """Whether numba is here and can be imported, which is tried once; a broken one is warned of."""
    if find_spec("numba") is None:
        return False
    try:
        import_module("supernet.kernels.simd")
    except Exception as error:  # what a broken package raises is anything: ImportError, OSError, AttributeError
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        warnings.warn(
            f"numba is installed but cannot be imported ({reason}); training goes on with PyTorch's slower operators; "
            "mend it with: pip install --force-reinstall numba",
            RuntimeWarning,
            stacklevel=2,
        )
        return False
    return True


def flat(x: Tensor) -> npt.NDArray[np.float32]:
    """All numbers of (N, C, H, W), channels innermost: the tensor's own memory where it is laid out so, else a copy."""
    return x.detach().contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1).view(-1).numpy()
