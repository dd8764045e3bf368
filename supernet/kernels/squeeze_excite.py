"""What squeeze-excite does to whole feature maps; arrays are flat (images, pixels, channels) or (images, channels)."""

from __future__ import annotations

from supernet.kernels.simd import LANES, Floats, kernel, load, multiply_add, store, zeros


@kernel
def products(a: Floats, b: Floats, result: Floats, pixels: int, channels: int, first: int, last: int) -> None:
    """Each image's sum over pixels of a * b, for images `first` to `last`.

    `b` is laid out as `a`, or one vector of sixteen numbers for all of it (1 / pixels gives the mean).
    """
    step = channels if len(b) == len(a) else 0
    for image in range(first, last):
        for block in range(-(-channels // LANES)):
            channel = min(block * LANES, channels - LANES)
            i = image * pixels * channels + channel
            j = i if step else 0
            total = zeros()
            for _ in range(pixels):
                total = multiply_add(load(a, i), load(b, j), total)
                i += channels
                j += step
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
