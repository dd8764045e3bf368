"""Weight gradient of depthwise convolutions padded by half their kernel; arrays are flat, channels innermost.

It works on sixteen channels of one image at a time, copied side by side with zeros around each row (so that the inner
loop has no edges), and keeps its sums in registers. The last sixteen channels overlap the ones before where 16 does not
divide the channels; both compute the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable

from supernet.kernels import DEPTHWISE_SIDES
from supernet.kernels.simd import LANES, Floats, add, aligned, kernel, load, multiply_add, store, zeros


@kernel
def _pack(
    source: Floats, start: int, rows: int, columns: int, channels: int, target: Floats, pitch: int, margin: int
) -> None:
    """Copy sixteen channels of one image into rows of `pitch` pixels, of which `margin` zeros come first."""
    zero = zeros()
    for row in range(rows):
        at = row * pitch * LANES
        for column in range(margin):
            store(target, at + column * LANES, zero)
        for column in range(margin + columns, pitch):
            store(target, at + column * LANES, zero)
        at += margin * LANES
        begin = start + row * columns * channels
        for column in range(columns):
            store(target, at + column * LANES, load(source, begin + column * channels))


def _make_weight_gradient(side: int) -> Callable[..., None]:
    """The weight gradient's kernel for one kernel size: LLVM must know it to keep the sums in registers."""
    half = side // 2

    @kernel
    def weight_gradient(
        x: Floats,
        gradient: Floats,
        result: Floats,
        images: int,
        height: int,
        width: int,
        out_height: int,
        out_width: int,
        channels: int,
        stride: int,
        first: int,
        last: int,
    ) -> None:
        """Add up gradient times input for blocks `first` to `last` of sixteen channels.

        `result` is (side * side, channels), overwritten. Two output pixels at a time, each with its own sums, so
        that enough independent additions are under way.
        """
        pairs = (out_width + 1) // 2
        pitch = max(width + half, (2 * pairs - 1) * stride + side)
        inputs = aligned(height * pitch * LANES)
        outputs = aligned(out_height * 2 * pairs * LANES)
        sums = aligned(side * side * LANES)
        for block in range(first, last):
            channel = min(block * LANES, channels - LANES)
            for tap in range(side * side):
                store(sums, tap * LANES, zeros())
            for image in range(images):
                start = image * height * width * channels + channel
                _pack(x, start, height, width, channels, inputs, pitch, half)
                start = image * out_height * out_width * channels + channel
                _pack(gradient, start, out_height, out_width, channels, outputs, 2 * pairs, 0)
                for row in range(side):
                    a0, a1, a2, a3, a4, a5, a6 = zeros(), zeros(), zeros(), zeros(), zeros(), zeros(), zeros()
                    b0, b1, b2, b3, b4, b5, b6 = zeros(), zeros(), zeros(), zeros(), zeros(), zeros(), zeros()
                    for out_row in range(out_height):
                        in_row = out_row * stride + row - half
                        if in_row < 0 or in_row >= height:
                            continue
                        i = in_row * pitch * LANES
                        o = out_row * 2 * pairs * LANES
                        for _ in range(pairs):
                            j = i + stride * LANES
                            g = load(outputs, o)
                            h = load(outputs, o + LANES)
                            a0 = multiply_add(g, load(inputs, i), a0)
                            a1 = multiply_add(g, load(inputs, i + LANES), a1)
                            a2 = multiply_add(g, load(inputs, i + 2 * LANES), a2)
                            b0 = multiply_add(h, load(inputs, j), b0)
                            b1 = multiply_add(h, load(inputs, j + LANES), b1)
                            b2 = multiply_add(h, load(inputs, j + 2 * LANES), b2)
                            a3 = multiply_add(g, load(inputs, i + 3 * LANES), a3)
                            a4 = multiply_add(g, load(inputs, i + 4 * LANES), a4)
                            b3 = multiply_add(h, load(inputs, j + 3 * LANES), b3)
                            b4 = multiply_add(h, load(inputs, j + 4 * LANES), b4)
                            if side > 5:
                                a5 = multiply_add(g, load(inputs, i + 5 * LANES), a5)
                                a6 = multiply_add(g, load(inputs, i + 6 * LANES), a6)
                                b5 = multiply_add(h, load(inputs, j + 5 * LANES), b5)
                                b6 = multiply_add(h, load(inputs, j + 6 * LANES), b6)
                            i += 2 * stride * LANES
                            o += 2 * LANES
                    s = row * side * LANES
                    store(sums, s, add(load(sums, s), add(a0, b0)))
                    store(sums, s + LANES, add(load(sums, s + LANES), add(a1, b1)))
                    store(sums, s + 2 * LANES, add(load(sums, s + 2 * LANES), add(a2, b2)))
                    store(sums, s + 3 * LANES, add(load(sums, s + 3 * LANES), add(a3, b3)))
                    store(sums, s + 4 * LANES, add(load(sums, s + 4 * LANES), add(a4, b4)))
                    if side > 5:
                        store(sums, s + 5 * LANES, add(load(sums, s + 5 * LANES), add(a5, b5)))
                        store(sums, s + 6 * LANES, add(load(sums, s + 6 * LANES), add(a6, b6)))
            for tap in range(side * side):
                store(result, tap * channels + channel, load(sums, tap * LANES))

    return weight_gradient


WEIGHT_GRADIENTS = {side: _make_weight_gradient(side) for side in DEPTHWISE_SIDES}
