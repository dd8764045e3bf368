"""Peak memory of a subnet's activations, exactly, from its `LayerSpec`s.

Counted is what a runtime needs that executes the layers in their order with one image in float32 and frees every tensor
after its last use: each operation's inputs and output are there at once, and so is what a shortcut still waits for.
Batch norm, activation, addition and product overwrite an input that nobody needs any more. Weights are not counted
(`size_bytes` is theirs), nor is a runtime's scratch space. Unlike other costs this one is a greatest value, not a sum.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from supernet.arch import LayerSpec

_FLOAT_BYTES = 4


def peak_memory_bytes(layers: Iterable[LayerSpec]) -> int:
    """Bytes of activations at the worst moment of one image's forward pass; 0 for no layers."""
    return _FLOAT_BYTES * max((numbers for spec in layers for numbers in _alive(spec)), default=0)


def _alive(spec: LayerSpec) -> Iterator[int]:
    """Numbers that are in memory at each operation of a layer."""
    x = spec.in_channels * spec.in_size**2
    y = spec.out_channels * spec.out_size**2
    mid = spec.mid_channels
    wide_in, wide_out = mid * spec.in_size**2, mid * spec.out_size**2
    if spec.op == "mbconv":
        waiting = x if spec.shortcut else 0
        if mid != spec.in_channels:
            yield x + wide_in
            yield waiting + wide_in + wide_out
        else:  # no expansion: the depthwise convolution reads the input itself
            yield x + wide_out
        if spec.se_channels:
            yield waiting + wide_out + mid + spec.se_channels
        yield waiting + wide_out + y
    elif spec.op == "bottleneck":
        yield x + wide_in
        yield x + wide_in + wide_out
        yield x + wide_out + y
        if not spec.shortcut:
            averaged = spec.in_channels * spec.out_size**2
            if spec.stride > 1:
                yield x + y + averaged
            yield averaged + y + y
    else:
        yield x + y
