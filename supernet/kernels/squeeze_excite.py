"""What squeeze-excite does to whole feature maps; arrays are flat (images, pixels, channels) or (images, channels)."""

from __future__ import annotations

import numpy as np

from supernet.kernels.simd import LANES, Floats, kernel, load, multiply_add, splat, store, zeros


@kernel
def products(a: Floats, b: Floats, result: Floats, pixels: int, channels: int, first: int, last: int) -> None:
    """Each image's sum over pixels of a * b, for images `first` to `last`."""
    for image in range(first, last):
        for block in range(-(-channels // LANES)):
            channel = min(block * LANES, channels - LANES)
            i = image * pixels * channels + channel
            total = zeros()
            for _ in range(pixels):
                total = multiply_add(load(a, i), load(b, i), total)
                i += channels
            store(result, image * channels + channel, total)


@kernel
def means(x: Floats, result: Floats, pixels: int, channels: int, first: int, last: int) -> None:
    """Each image's mean over pixels, for images `first` to `last`."""
    share = splat(np.float32(1 / pixels))
    for image in range(first, last):
        for block in range(-(-channels // LANES)):
            channel = min(block * LANES, channels - LANES)
            i = image * pixels * channels + channel
            total = zeros()
            for _ in range(pixels):
                total = multiply_add(load(x, i), share, total)
                i += channels
            store(result, image * channels + channel, total)


@kernel
def scale_and_shift(
    x: Floats, scale: Floats, shift: Floats, result: Floats, pixels: int, channels: int, first: int, last: int
) -> None:
    """Each x * scale + shift, both one number a channel of an image, for images `first` to `last`."""
    for image in range(first, last):
        for pixel in range(image * pixels, (image + 1) * pixels):
            for block in range(-(-channels // LANES)):
                channel = min(block * LANES, channels - LANES)
                i, s = pixel * channels + channel, image * channels + channel
                store(result, i, multiply_add(load(x, i), load(scale, s), load(shift, s)))
