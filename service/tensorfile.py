"""Checks of an uploaded safetensors file that need no torch and little memory; the format itself makes few of them."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np

from supernet.errors import CheckpointError

MAX_HEADER_BYTES = 4 << 20
MAX_TENSORS = 20_000
_CHUNK_BYTES = 8 << 20
_SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
_FLOATS: dict[str, tuple[str, int]] = {
    "F64": ("<u8", 0x7FF0_0000_0000_0000),
    "F32": ("<u4", 0x7F80_0000),
    "F16": ("<u2", 0x7C00),
    "BF16": ("<u2", 0x7F80),
}
"""Type to view a float's bits as, and the exponent that only infinities and NaN have all set."""


def check_tensor_file(path: Path, *, name: str) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Check a safetensors file from the first byte to the last.

    Args:
        path: the file.
        name: what to call it in an error.

    Returns:
        Tensor name -> (type, shape).

    Raises:
        CheckpointError: truncated, not safetensors, absurd names, too many tensors, or values that are not finite.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(8)
        length = int.from_bytes(head, "little")
        if len(head) < 8 or length > size - 8:
            raise _fault(name, f"it is truncated ({size} bytes)")
        if length > MAX_HEADER_BYTES:
            raise _fault(name, f"its header has {length} bytes; allowed: at most {MAX_HEADER_BYTES}")
        header = _parse(name, file.read(length))
        data_bytes = size - 8 - length
        found: dict[str, tuple[str, tuple[int, ...]]] = {}
        spans: list[tuple[int, int]] = []
        for tensor, entry in header.items():
            dtype, shape, begin, end = _entry(name, tensor, entry)
            found[tensor] = (dtype, shape)
            spans.append((begin, end))
            if end > data_bytes:
                raise _fault(name, f"it is truncated: tensor {tensor!r} ends at byte {end} of {data_bytes}")
            if dtype in _FLOATS and not _finite(file, 8 + length + begin, end - begin, dtype):
                raise _fault(name, f"tensor {tensor!r} holds values that are not finite")
    position = 0
    for begin, end in sorted(spans):
        if begin != position:
            raise _fault(name, f"its tensors overlap or leave a gap at byte {position}")
        position = end
    if position != data_bytes:
        raise _fault(name, f"it has {data_bytes - position} bytes that belong to no tensor")
    return found


def _parse(name: str, data: bytes) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({key for key, _ in pairs}) < len(pairs):
            raise ValueError("a name occurs twice")
        return dict(pairs)

    try:
        header = json.loads(data, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise _fault(name, f"its header is not JSON ({str(error)[:80]})") from None
    if not isinstance(header, dict):
        raise _fault(name, "its header is not an object")
    header.pop("__metadata__", None)
    if not 0 < len(header) <= MAX_TENSORS:
        raise _fault(name, f"it has {len(header)} tensors; allowed: 1 to {MAX_TENSORS}")
    return header


def _entry(name: str, tensor: str, entry: Any) -> tuple[str, tuple[int, ...], int, int]:
    if not re.fullmatch(r"[A-Za-z0-9_.]{1,256}", tensor):
        raise _fault(name, f"tensor name {tensor[:80]!r}; allowed: 1 to 256 letters, digits, '_' or '.'")
    try:
        dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        numbers = [*shape, begin, end]
        sound = dtype in _SIZES and len(shape) <= 8 and all(type(n) is int and 0 <= n < 2**48 for n in numbers)
        sound = sound and end - begin == math.prod(shape) * _SIZES[dtype]
    except (KeyError, TypeError, ValueError):
        sound = False
    if not sound:
        raise _fault(
            name, f"the entry of tensor {tensor!r} is not a type, a shape and the offsets that follow from them"
        )
    return dtype, tuple(shape), begin, end


def _finite(file: Any, start: int, length: int, dtype: str) -> bool:
    view, exponent = _FLOATS[dtype]
    file.seek(start)
    while length > 0:
        data = file.read(min(length, _CHUNK_BYTES))
        length -= len(data)
        if np.any((np.frombuffer(data, dtype=view) & exponent) == exponent):
            return False
    return True


def _fault(name: str, reason: str) -> CheckpointError:
    return CheckpointError(f"{name}: {reason}; upload the file as it was written, or train again")
