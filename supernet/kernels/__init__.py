"""Compiled CPU kernels for training, where PyTorch's own are slow; numba compiles them on first use and keeps the code.

Measured on one AVX-512 core against PyTorch 2.14 (channels last, float32): the weight gradient of depthwise 5x5 and 7x7
convolutions 7 to 25 times as fast, their input gradient 1 to 4 times, batch norm with activation 2 times in either
direction. The modules below import numba, which takes 0.3 s, so only `usable` may import them.

Why numba and not C++: a wheel of numba runs where no compiler is. Where numba is absent, `usable` is false and the
layers fall back on PyTorch's own operators, with the same results to rounding.

Results are the same bits whatever the number of threads: work is cut into parts by the shapes alone.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

LEAST_CHANNELS = 16
"""Channels of one register; narrower layers are PyTorch's."""


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
    """Whether numba is here."""
    return find_spec("numba") is not None


def flat(x: Tensor) -> npt.NDArray[np.float32]:
    """All numbers of (N, C, H, W), channels innermost: the tensor's own memory where it is laid out so, else a copy."""
    return x.detach().contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1).view(-1).numpy()
