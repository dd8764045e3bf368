"""A stack of dense layers with ReLU between them: what every fitted predictor computes, in plain numpy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class DenseStack:
    """Features (n, inputs) -> one number a row (n,).

    No hidden layer makes it a linear model. Single precision: a search scores tens of thousands of rows, and the
    rounding (about 1e-7 of an accuracy) is far below any predictor's error.

    Attributes:
        weights: float32 (inputs, outputs) per layer; the last has one output.
        biases: float32 (outputs,) per layer.
    """

    weights: tuple[Array, ...]
    biases: tuple[Array, ...]

    def __call__(self, features: Array) -> Array:
        """The output for each row: float32 (n, inputs) -> float32 (n,)."""
        values = features
        for number, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            if number:
                np.maximum(values, 0, out=values)
            values = values @ weight
            values += bias
        return values[:, 0]

    def rescaled(self, *, scale: float, shift: float) -> DenseStack:
        """The stack whose output is `scale` times this one's, plus `shift`; undoes a standardised target."""
        return DenseStack(
            (*self.weights[:-1], np.float32(scale) * self.weights[-1]),
            (*self.biases[:-1], np.float32(scale) * self.biases[-1] + np.float32(shift)),
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
