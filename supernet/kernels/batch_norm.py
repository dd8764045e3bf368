"""Batch norm in training together with the activation after it; arrays are flat (rows, channels).

Three passes over memory forward and five backward, where separate operators need five and eight. Sums are taken a chunk
of rows at a time, in float32 around a typical value, and added up in float64.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from supernet.kernels.simd import (
    LANES,
    Floats,
    add,
    clamp,
    if_above,
    kernel,
    load,
    multiply,
    multiply_add,
    splat,
    store,
    subtract,
    zeros,
)

CHUNK = 512
"""Rows whose sums are taken together."""
ORIGINS = 16
"""Rows whose mean the sums are taken around, so that a large mean does not eat the variance's digits."""
FACTORS = 6
"""Vectors of a layer's factors: origin, mean, scale, shift, slope, offset; (6, channels) flat."""


@kernel
def set_origin(x: Floats, rows: int, channels: int, factors: Floats) -> None:
    """Each channel's mean over a few rows, into the first vector of `factors`."""
    count = min(rows, ORIGINS)
    factors[:channels] = 0
    for i in range(count):
        row = i * rows // count
        for channel in range(channels):
            factors[channel] += x[row * channels + channel] / count


@kernel
def sums(x: Floats, factors: Floats, partial: Floats, rows: int, channels: int, first: int, last: int) -> None:
    """Sums of x - origin and of its square, for chunks `first` to `last`.

    `partial` is (chunks, blocks of 16 channels, 2, 16).
    """
    blocks = -(-channels // LANES)
    for chunk in range(first, last):
        base = chunk * blocks * 2 * LANES
        for i in range(blocks * 2):
            store(partial, base + i * LANES, zeros())
        row, stop = chunk * CHUNK, min(rows, (chunk + 1) * CHUNK)
        while row < stop:
            together = 4 if stop - row >= 4 else 1
            for block in range(blocks):
                channel = min(block * LANES, channels - LANES)
                origin = load(factors, channel)
                s = base + block * 2 * LANES
                i = row * channels + channel
                a = subtract(load(x, i), origin)
                total = a
                square = multiply(a, a)
                if together == 4:
                    b = subtract(load(x, i + channels), origin)
                    c = subtract(load(x, i + 2 * channels), origin)
                    d = subtract(load(x, i + 3 * channels), origin)
                    total = add(add(a, b), add(c, d))
                    square = add(multiply_add(b, b, square), multiply_add(c, c, multiply(d, d)))
                store(partial, s, add(load(partial, s), total))
                store(partial, s + LANES, add(load(partial, s + LANES), square))
            row += together


@kernel
def _fold(partial: Floats, chunks: int, channels: int) -> npt.NDArray[np.float64]:
    """(2, channels) float64: both sums over all chunks."""
    blocks = -(-channels // LANES)
    total = np.zeros((2, channels))
    for chunk in range(chunks):
        for block in range(blocks):
            channel = min(block * LANES, channels - LANES)
            skip = block * LANES - channel  # lanes that the block before has had
            i = (chunk * blocks + block) * 2 * LANES
            for lane in range(skip, LANES):
                total[0, channel + lane] += partial[i + lane]
                total[1, channel + lane] += partial[i + LANES + lane]
    return total


@kernel
def moments(
    partial: Floats, factors: Floats, chunks: int, rows: int, channels: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Mean and biased variance of each channel, float64."""
    total = _fold(partial, chunks, channels)
    offset = total[0] / rows
    return factors[:channels] + offset, np.maximum(total[1] / rows - offset * offset, 0.0)


@kernel
def set_factors(
    mean: npt.NDArray[np.float64],
    variance: npt.NDArray[np.float64],
    weight: Floats,
    bias: Floats,
    factors: Floats,
    channels: int,
    eps: float,
) -> None:
    """Mean, scale and shift into `factors`."""
    for channel in range(channels):
        scale = weight[channel] / np.sqrt(variance[channel] + eps)
        factors[channels + channel] = mean[channel]
        factors[2 * channels + channel] = scale
        factors[3 * channels + channel] = bias[channel] - mean[channel] * scale


@kernel
def update_running(
    mean: npt.NDArray[np.float64],
    variance: npt.NDArray[np.float64],
    running_mean: Floats,
    running_variance: Floats,
    rows: int,
    momentum: float,
) -> None:
    """Move the running statistics towards the batch's, the variance unbiased, as torch does."""
    for channel in range(len(running_mean)):
        unbiased = variance[channel] * (rows / (rows - 1))
        running_mean[channel] = (1 - momentum) * running_mean[channel] + momentum * mean[channel]
        running_variance[channel] = (1 - momentum) * running_variance[channel] + momentum * unbiased


@kernel
def normalise(
    x: Floats,
    factors: Floats,
    result: Floats,
    channels: int,
    gated: bool,
    least: float,
    most: float,
    first: int,
    last: int,
) -> None:
    """Scale, shift and activation of rows `first` to `last`; `result` may be `x`.

    The activation is z limited to [least, most], or z * (z / 6 + 1 / 2 limited to [0, 1]), the hard swish, if `gated`.
    """
    low, high = splat(np.float32(least)), splat(np.float32(most))
    for row in range(first, last):
        start = row * channels
        tail = load(x, start + channels - LANES)  # read before the blocks before it are written, as they overlap
        for channel in range(0, channels - LANES + 1, LANES):
            store(
                result,
                start + channel,
                _activated(load(x, start + channel), factors, channel, channels, gated, low, high),
            )
        if channels % LANES:
            channel = channels - LANES
            store(result, start + channel, _activated(tail, factors, channel, channels, gated, low, high))


@kernel
def _activated(x: Any, factors: Floats, channel: int, channels: int, gated: bool, low: Any, high: Any) -> Any:
    z = multiply_add(x, load(factors, 2 * channels + channel), load(factors, 3 * channels + channel))
    if gated:
        gate = clamp(multiply_add(z, splat(np.float32(1 / 6)), splat(np.float32(0.5))), zeros(), splat(np.float32(1)))
        return multiply(z, gate)
    return clamp(z, low, high)


@kernel
def _before_activation(
    x: Floats,
    gradient: Floats,
    factors: Floats,
    i: int,
    channel: int,
    channels: int,
    gated: bool,
    least: float,
    most: float,
) -> Any:
    """The gradient at `i` before the activation, which is computed again."""
    low, high, gradient = splat(np.float32(least)), splat(np.float32(most)), load(gradient, i)
    z = multiply_add(load(x, i), load(factors, 2 * channels + channel), load(factors, 3 * channels + channel))
    if gated:
        slope = multiply_add(z, splat(np.float32(1 / 3)), splat(np.float32(0.5)))
        slope = if_above(z, splat(np.float32(-3)), slope, zeros())
        return multiply(gradient, if_above(z, splat(np.float32(3)), splat(np.float32(1)), slope))
    return if_above(z, low, if_above(high, z, gradient, zeros()), zeros())


@kernel
def gradient_sums(
    x: Floats,
    gradient: Floats,
    factors: Floats,
    partial: Floats,
    rows: int,
    channels: int,
    gated: bool,
    least: float,
    most: float,
    first: int,
    last: int,
) -> None:
    """Sums of the gradient g before the activation and of g * (x - mean), for chunks `first` to `last`."""
    blocks = -(-channels // LANES)
    for chunk in range(first, last):
        base = chunk * blocks * 2 * LANES
        for i in range(blocks * 2):
            store(partial, base + i * LANES, zeros())
        for row in range(chunk * CHUNK, min(rows, (chunk + 1) * CHUNK)):
            for block in range(blocks):
                channel = min(block * LANES, channels - LANES)
                s = base + block * 2 * LANES
                i = row * channels + channel
                g = _before_activation(x, gradient, factors, i, channel, channels, gated, least, most)
                centred = subtract(load(x, i), load(factors, channels + channel))
                store(partial, s, add(load(partial, s), g))
                store(partial, s + LANES, multiply_add(g, centred, load(partial, s + LANES)))


@kernel
def finish_gradient_sums(
    partial: Floats,
    variance: npt.NDArray[np.float64],
    eps: float,
    factors: Floats,
    weight_gradient: Floats,
    bias_gradient: Floats,
    chunks: int,
    rows: int,
    channels: int,
) -> None:
    """Gradients of weight and bias; slope and offset into `factors`.

    The input's gradient is scale * (g - mean(g) - (x - mean) * mean(g * (x - mean)) / (variance + eps)); source: Ioffe
    and Szegedy, "Batch Normalization", ICML 2015, section 3.
    """
    total = _fold(partial, chunks, channels)
    for channel in range(channels):
        scale = factors[2 * channels + channel]
        inverse = 1 / (variance[channel] + eps)
        weight_gradient[channel] = total[1, channel] * np.sqrt(inverse)
        bias_gradient[channel] = total[0, channel]
        factors[4 * channels + channel] = -scale * inverse * total[1, channel] / rows
        factors[5 * channels + channel] = -scale * total[0, channel] / rows


@kernel
def input_gradient(
    x: Floats,
    gradient: Floats,
    factors: Floats,
    result: Floats,
    channels: int,
    gated: bool,
    least: float,
    most: float,
    first: int,
    last: int,
) -> None:
    """The input's gradient for rows `first` to `last`."""
    blocks = -(-channels // LANES)
    for row in range(first, last):
        for block in range(blocks):
            channel = min(block * LANES, channels - LANES)
            i = row * channels + channel
            g = _before_activation(x, gradient, factors, i, channel, channels, gated, least, most)
            centred = subtract(load(x, i), load(factors, channels + channel))
            statistics = multiply_add(
                centred, load(factors, 4 * channels + channel), load(factors, 5 * channels + channel)
            )
            store(result, i, multiply_add(g, load(factors, 2 * channels + channel), statistics))
