"""Vectors of sixteen floats for numba: what makes a kernel's inner loop run in registers.

LLVM vectorises numba's loops only where it can prove that arrays do not overlap, which for convolutions it cannot. So
the kernels say `load`, `multiply_add` and `store` themselves; LLVM maps a vector onto the processor's registers (one of
AVX-512, two of AVX2, four of NEON).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic, models, register_model

LANES = 16
Floats = npt.NDArray[np.float32]

_VECTOR = ir.VectorType(ir.FloatType(), LANES)
_ZEROS = ir.Constant(_VECTOR, [0.0] * LANES)
_UNDEFINED = ir.Constant(_VECTOR, ir.Undefined)
_ARRAY = types.Array(types.float32, 1, "C")
Emitter = tuple[Any, Callable[..., Any]]


def kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile on first use, keep the code on disk where a folder for it can be written, run without the lock."""
    compiled = partial(njit, nogil=True, error_model="numpy", boundscheck=False)
    try:
        result: Callable[..., Any] = compiled(cache=True)(function)
    except RuntimeError:  # numba found no folder that can be written
        result = compiled()(function)
    return result


def _instruction(emitter: Callable[..., Emitter]) -> Any:
    """A function for kernels that becomes a few of LLVM's instructions."""
    return intrinsic(emitter)


class _Vector(types.Type):
    def __init__(self) -> None:
        super().__init__(name="float32x16")


_vector = _Vector()


@register_model(_Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _VECTOR)  # type: ignore[no-untyped-call]


@_instruction
def load(typing_context: Any, array: Any, index: Any) -> Emitter:
    """The sixteen floats of a flat array from `index` on."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load(_pointer(context, builder, signature, arguments), align=4)

    return _vector(_ARRAY, types.intp), emit


@_instruction
def store(typing_context: Any, array: Any, index: Any, value: Any) -> Emitter:
    """Write a vector to a flat array from `index` on."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.store(arguments[2], _pointer(context, builder, signature, arguments), align=4)
        return context.get_dummy_value()

    return types.void(_ARRAY, types.intp, _vector), emit


@_instruction
def zeros(typing_context: Any) -> Emitter:
    """A vector of zeros."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _ZEROS

    return _vector(), emit


@_instruction
def splat(typing_context: Any, value: Any) -> Emitter:
    """A vector of sixteen times the same number."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        integer = ir.IntType(32)
        first = builder.insert_element(_UNDEFINED, arguments[0], integer(0))
        return builder.shuffle_vector(first, _UNDEFINED, ir.Constant(ir.VectorType(integer, LANES), [0] * LANES))

    return _vector(types.float32), emit


@_instruction
def add(typing_context: Any, a: Any, b: Any) -> Emitter:
    """`a + b`."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.fadd(*arguments)

    return _vector(_vector, _vector), emit


@_instruction
def subtract(typing_context: Any, a: Any, b: Any) -> Emitter:
    """`a - b`."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.fsub(*arguments)

    return _vector(_vector, _vector), emit


@_instruction
def multiply(typing_context: Any, a: Any, b: Any) -> Emitter:
    """`a * b`."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.fmul(*arguments)

    return _vector(_vector, _vector), emit


@_instruction
def multiply_add(typing_context: Any, a: Any, b: Any, c: Any) -> Emitter:
    """`a * b + c`, fused where the processor can."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        product = builder.fmul(arguments[0], arguments[1], flags=("contract",))
        return builder.fadd(product, arguments[2], flags=("contract",))

    return _vector(_vector, _vector, _vector), emit


@_instruction
def clamp(typing_context: Any, value: Any, least: Any, most: Any) -> Emitter:
    """`value` limited to [least, most]; NaN stays NaN."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        value, least, most = arguments
        value = builder.select(builder.fcmp_ordered("<", value, least), least, value)
        return builder.select(builder.fcmp_ordered(">", value, most), most, value)

    return _vector(_vector, _vector, _vector), emit


@_instruction
def if_above(typing_context: Any, value: Any, least: Any, chosen: Any, other: Any) -> Emitter:
    """`chosen` where value > least (or value is NaN), else `other`."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        value, least, chosen, other = arguments
        return builder.select(builder.fcmp_unordered(">", value, least), chosen, other)

    return _vector(_vector, _vector, _vector, _vector), emit


def _pointer(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    array = context.make_array(signature.args[0])(context, builder, value=arguments[0])
    return builder.bitcast(builder.gep(array.data, [arguments[1]]), _VECTOR.as_pointer())


@kernel
def aligned(size: int) -> Floats:
    """An uninitialised flat array at an address that is a multiple of 64, a cache line."""
    buffer = np.empty(size + LANES, np.float32)
    start = (-buffer.ctypes.data) % 64 // 4
    return buffer[start : start + size]
