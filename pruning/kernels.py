"""Compiled passes over the rows of a `FlatUnits` on the CPU: read, multiply, shift, scale, clear.

A row's numbers are runs in memory; `memory` holds the address of every tensor. Rows are independent, so that they are
split over threads; sums are taken within a row, so that the result is the same whatever the number of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.numpy_support import carray

from supernet.kernels.threads import split

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Table = tuple[Integers, Integers, Integers, Integers, Integers]

_BYTES = 4


@dataclass(frozen=True)
class Layout:
    """Where the rows are.

    Attributes:
        table: by row: its tensor, its first run, its number of runs, numbers a run, and its first number in the flat
            buffer; int64 (rows) each.
        starts: first number of every run within its tensor, int64 (runs).
        merged: all runs in the order of memory, neighbours as one: tensor, first number, numbers; int64 each.
        numbers: size of the flat buffer.
    """

    table: Table
    starts: Integers
    merged: tuple[Integers, Integers, Integers]
    numbers: int

    @property
    def rows(self) -> int:
        """Their number."""
        return len(self.table[0])

    @classmethod
    def of(cls, parts: Sequence[tuple[int, Integers, int]]) -> Layout:
        """From one part a tensor and set: the tensor's number, starts (rows, runs), numbers a run."""
        facts = [(number, starts.shape[1], length) for number, starts, length in parts]
        rows = np.array([len(starts) for _, starts, _ in parts], np.int64)
        tensor, runs, length = np.array(facts, np.int64).reshape(-1, 3).T.repeat(rows, axis=1)
        ends = np.cumsum(runs * length)
        first_numbers = np.concatenate([np.zeros(0, np.int64), *(starts.ravel() for _, starts, _ in parts)])
        table = (tensor, np.cumsum(runs) - runs, runs, length, ends - runs * length)
        merged = _merged(tensor.repeat(runs), first_numbers, length.repeat(runs))
        return cls(table, first_numbers, merged, int(ends[-1]) if len(ends) else 0)


def gather(memory: Integers, layout: Layout, numbers: Floats) -> None:
    """Copy all rows into the flat buffer."""
    _split(_gather, layout, memory, layout.table, layout.starts, numbers)


def products(memory: Integers, layout: Layout, before: Floats, units: Integers, count: int) -> Doubles:
    """<x, x>, <x, y>, <y, y> by unit, (3, count); x from the flat buffer, y from the tensors."""
    by_row = np.empty((layout.rows, 3))
    _split(_products, layout, memory, layout.table, layout.starts, before, by_row)
    found = np.empty((3, count))
    for i in range(3):
        found[i] = np.bincount(units, by_row[:, i], count)
    return found


def shift(memory: Integers, layout: Layout, before: Floats, units: Integers, factors: Doubles, zero: Flags) -> None:
    """Subtract factor times x from y; units in `zero` become zero."""
    _split(_shift, layout, memory, layout.table, layout.starts, before, units, factors, zero)


def pull(
    memory: Integers,
    layout: Layout,
    before: Floats,
    rows: Integers,
    share: float,
    epsilon: float,
    zero: Flags,
    gone: Flags,
) -> None:
    """`FlatUnits.pull`; `rows` (units, most rows of a unit) is padded with the number of rows, `gone` is the result."""
    table = layout.table
    split(_pull, len(rows), layout.numbers, memory, table, layout.starts, before, rows, share, epsilon, zero, gone)


def scale(memory: Integers, layout: Layout, units: Integers, factors: Doubles) -> None:
    """Multiply every unit's numbers by its factor; zero is exactly zero."""
    _split(_scale, layout, memory, layout.table, layout.starts, units, factors)


def clear(memory: Integers, layout: Layout) -> None:
    """All numbers become zero."""
    split(_clear, len(layout.merged[0]), layout.numbers, memory, *layout.merged)


def _merged(tensor: Integers, starts: Integers, length: Integers) -> tuple[Integers, Integers, Integers]:
    order = np.lexsort((starts, tensor))
    tensor, starts, length = tensor[order], starts[order], length[order]
    apart = np.ones(len(order), np.bool_)
    apart[1:] = (tensor[1:] != tensor[:-1]) | (starts[1:] != starts[:-1] + length[:-1])
    first = np.flatnonzero(apart)
    return tensor[first], starts[first], np.add.reduceat(length, first) if len(first) else length


def _split(kernel: Callable[..., None], layout: Layout, *arguments: Any) -> None:
    split(kernel, layout.rows, layout.numbers, *arguments)


def _kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """As `supernet.kernels.simd.kernel`, with sums in any order, so that LLVM takes them in vectors."""
    compiled = partial(
        njit, nogil=True, error_model="numpy", boundscheck=False, fastmath={"reassoc", "contract", "nsz"}
    )
    try:
        result: Callable[..., Any] = compiled(cache=True)(function)
    except RuntimeError:  # numba found no folder that can be written
        result = compiled()(function)
    return result


def _instruction(emitter: Callable[..., Any]) -> Any:
    """A function for kernels that becomes one of LLVM's instructions."""
    return intrinsic(emitter)


@_instruction
def _pointer(typing_context: Any, address: Any) -> Any:
    """An address as a pointer, for `numba.carray`."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(types.int64), emit


@_kernel
def _gather(memory: Integers, table: Table, starts: Integers, x: Floats, first: int, last: int) -> None:
    tensor, first_run, runs, length, offset = table
    for row in range(first, last):
        n, o = length[row], offset[row]
        for run in range(first_run[row], first_run[row] + runs[row]):
            y = carray(_pointer(memory[tensor[row]] + _BYTES * starts[run]), (n,), np.float32)
            into = x[o : o + n]
            for i in range(n):
                into[i] = y[i]
            o += n


@_kernel
def _products(
    memory: Integers, table: Table, starts: Integers, before: Floats, by_row: Doubles, first: int, last: int
) -> None:
    tensor, first_run, runs, length, offset = table
    for row in range(first, last):
        n, o = length[row], offset[row]
        xx, xy, yy = np.float64(0), np.float64(0), np.float64(0)
        for run in range(first_run[row], first_run[row] + runs[row]):
            y = carray(_pointer(memory[tensor[row]] + _BYTES * starts[run]), (n,), np.float32)
            x = before[o : o + n]
            a, b, c = np.float32(0), np.float32(0), np.float32(0)
            for i in range(n):
                a += x[i] * x[i]
                b += x[i] * y[i]
                c += y[i] * y[i]
            xx += np.float64(a)
            xy += np.float64(b)
            yy += np.float64(c)
            o += n
        by_row[row, 0] = xx
        by_row[row, 1] = xy
        by_row[row, 2] = yy


@_kernel
def _pull(
    memory: Integers,
    table: Table,
    starts: Integers,
    before: Floats,
    rows: Integers,
    share: float,
    epsilon: float,
    zero: Flags,
    gone: Flags,
    first: int,
    last: int,
) -> None:
    tensor, first_run, runs, length, offset = table
    for unit in range(first, last):
        xx, xy = np.float64(0), np.float64(0)
        for row in rows[unit]:
            if row == len(tensor):
                break
            n, o = length[row], offset[row]
            for run in range(first_run[row], first_run[row] + runs[row]):
                y = carray(_pointer(memory[tensor[row]] + _BYTES * starts[run]), (n,), np.float32)
                x = before[o : o + n]
                a, b = np.float32(0), np.float32(0)
                for i in range(n):
                    a += x[i] * x[i]
                    b += x[i] * y[i]
                xx += np.float64(a)
                xy += np.float64(b)
                o += n
        factor = 0.0 if xx == 0 else max(share - (xx - xy) / xx, 0.0)
        gone[unit] = zero[unit] or xx == 0 or xy - factor * xx <= epsilon * xx
        for row in rows[unit]:
            if row == len(tensor):
                break
            n, o = length[row], offset[row]
            for run in range(first_run[row], first_run[row] + runs[row]):
                y = carray(_pointer(memory[tensor[row]] + _BYTES * starts[run]), (n,), np.float32)
                if gone[unit]:
                    y[:] = 0
                elif factor != 0:
                    x = before[o : o + n]
                    c = np.float32(factor)
                    for i in range(n):
                        y[i] -= c * x[i]
                o += n


@_kernel
def _shift(
    memory: Integers,
    table: Table,
    starts: Integers,
    before: Floats,
    units: Integers,
    factors: Doubles,
    zero: Flags,
    first: int,
    last: int,
) -> None:
    tensor, first_run, runs, length, offset = table
    for row in range(first, last):
        n, o = length[row], offset[row]
        factor = np.float32(factors[units[row]])
        if not zero[units[row]] and factor == 0:
            continue
        for run in range(first_run[row], first_run[row] + runs[row]):
            y = carray(_pointer(memory[tensor[row]] + _BYTES * starts[run]), (n,), np.float32)
            if zero[units[row]]:
                y[:] = 0
            else:
                x = before[o : o + n]
                for i in range(n):
                    y[i] -= factor * x[i]
            o += n


@_kernel
def _scale(
    memory: Integers, table: Table, starts: Integers, units: Integers, factors: Doubles, first: int, last: int
) -> None:
    tensor, first_run, runs, length, _offset = table
    for row in range(first, last):
        n = length[row]
        factor = np.float32(factors[units[row]])
        for run in range(first_run[row], first_run[row] + runs[row]):
            y = carray(_pointer(memory[tensor[row]] + _BYTES * starts[run]), (n,), np.float32)
            if factor == 0:
                y[:] = 0
            else:
                for i in range(n):
                    y[i] *= factor


@_kernel
def _clear(memory: Integers, tensor: Integers, starts: Integers, length: Integers, first: int, last: int) -> None:
    # Nearly always the numbers are still zero, with momentum and gradient zero as well (behind a ReLU). Reading that is
    # half of the traffic of writing it again, and the step after pruning is bound by memory.
    for run in range(first, last):
        n = length[run]
        y = carray(_pointer(memory[tensor[run]] + _BYTES * starts[run]), (n,), np.uint32)
        bits = np.uint32(0)
        for i in range(n):
            bits |= y[i]
        if bits != 0:
            y[:] = 0
