"""Compiled CPU kernels for training, where PyTorch's own are slow; numba compiles them on first use and keeps the code.

Measured by benchmarks/reference_speed.py on one AVX-512 core against PyTorch 2.14 (channels last, float32, a machine
with other work): weight gradients of depthwise 5x5 and 7x7 convolutions 3 to 13 times as fast, their input gradients
0.5 to 1.3 times, squeeze-excite's backward pass 3 to 3.6 times, batch norm with hard swish 1.1 to 2.1 times; a training
step 1.7 times (largest subnet of `mobilenet_v3_w1.0`), 1.2 times (its random ones), 1.8 and 1.5 times
(`mobilenet_v3_tiny`). Each kernel's gradients are within 1e-6 of float64's (relative norm).

Why numba, and as a plain dependency: a wheel of it runs where no compiler is. The first step of a fresh installation
took 7.2 seconds, as it compiles, that of later processes, which load the code, 0.7, and without kernels 0.4 (same run).
Where numba is absent, `usable` is false and the layers fall back on
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
