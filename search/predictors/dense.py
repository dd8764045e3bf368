"""A stack of dense layers, ReLU or squares between them: what every predictor computes, in plain numpy."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
Activation = Literal["relu", "square"]
ACTIVATIONS: tuple[Activation, ...] = ("relu", "square")


@dataclass(frozen=True)
class DenseStack:
    """Features (n, inputs) -> one number a row (n,).

    No hidden layer makes it a linear model. Single precision: a search scores tens of thousands of rows, and the
    rounding (about 1e-7 of an accuracy) is far below any predictor's error.

    Attributes:
        weights: float32 (inputs, outputs) per layer; the last has one output.
        biases: float32 (outputs,) per layer.
        activation: what every hidden layer ends with, "relu" or "square".
    """

    weights: tuple[Array, ...]
    biases: tuple[Array, ...]
    activation: Activation = "relu"

    def __call__(self, features: Array) -> Array:
        """The output for each row: float32 (n, inputs) -> float32 (n,).

        Nearly all of the time is spent in the matrix products. What else a layer does is one pass in place:
        relu(z + b) = max(z, -b) + b, and the `b` behind goes into the next layer's bias, so that what is left of all
        biases is one number, added to the output. Adding up rows of the first layer's weights in numba instead of
        multiplying could save a sixth of a search's 0.3 seconds, but loading numba takes longer than all of that.
        """
        if self.activation == "square":
            return self._squares(features)
        floors, shift = self._folded
        values = features
        for weight, floor in zip(self.weights[:-1], floors, strict=True):
            values = values @ weight
            np.maximum(values, floor, out=values)
        output: Array = values @ self.weights[-1][:, 0]
        output += shift
        return output

    def _squares(self, values: Array) -> Array:
        for number, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            if number:
                np.multiply(values, values, out=values)
            values = values @ weight
            values += bias
        return values[:, 0]

    @cached_property
    def _folded(self) -> tuple[list[Array], np.float32]:
        """What each hidden layer is cut off at from below, and what is added to the output (float64 sums)."""
        floors = []
        shift = self.biases[0].astype(np.float64)
        for weight, bias in zip(self.weights[1:], self.biases[1:], strict=True):
            floors.append((-shift).astype(np.float32))
            shift = bias + shift @ weight.astype(np.float64)
        return floors, np.float32(shift[0])

    def rescaled(self, *, scale: float, shift: float) -> DenseStack:
        """The stack whose output is `scale` times this one's, plus `shift`; undoes a standardised target."""
        return DenseStack(
            (*self.weights[:-1], np.float32(scale) * self.weights[-1]),
            (*self.biases[:-1], np.float32(scale) * self.biases[-1] + np.float32(shift)),
            self.activation,
        )

    @property
    def inputs(self) -> int:
        """Number of features that a row must have."""
        return int(self.weights[0].shape[0])

    def faults(self) -> list[str]:
        """What keeps the arrays from being such a stack; empty for a good one."""
        found = []
        expected = None
        for number, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            if weight.dtype != np.float32 or bias.dtype != np.float32:
                found.append(f"layer {number} is {weight.dtype}, {bias.dtype}; expected float32")
            elif weight.ndim != 2 or bias.shape != weight.shape[1:]:
                found.append(
                    f"layer {number} has shapes {weight.shape} and {bias.shape}; expected (in, out) and (out,)"
                )
            elif expected is not None and weight.shape[0] != expected:
                found.append(f"layer {number} takes {weight.shape[0]} inputs; the layer before it gives {expected}")
            elif not (np.isfinite(weight).all() and np.isfinite(bias).all()):
                found.append(f"layer {number} holds values that are not finite")
            expected = weight.shape[-1] if weight.ndim else None
        if not self.weights or (expected != 1 and not found):
            found.append(f"the last layer gives {expected} outputs; expected 1")
        return found
