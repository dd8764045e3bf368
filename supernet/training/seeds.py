"""Randomness by purpose: every draw of a training is a function of (seed, purpose, position).

So a resumed training needs no generator states, and all ranks of a distributed one can draw the same subnets.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def numpy_generator(seed: int, purpose: str, *position: int) -> np.random.Generator:
    """The generator for one purpose at one position, e.g. ("subnets", stage, step)."""
    return np.random.default_rng([seed, zlib.crc32(purpose.encode()), *position])


def torch_generator(seed: int, purpose: str, *position: int) -> torch.Generator:
    """The same for torch."""
    return torch.Generator().manual_seed(int(numpy_generator(seed, purpose, *position).integers(2**63)))


@contextmanager
def seeded(device: torch.device, seed: int, purpose: str, *position: int) -> Iterator[None]:
    """Within the block torch's global generators, of the CPU and of `device`, start from this seed; then as before."""
    devices = [torch.cuda.current_device()] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(int(numpy_generator(seed, purpose, *position).integers(2**63)))
        yield
