"""Latency tables of the `ofa` package: YAML files ``<resolution>_lookup_table.yaml``, one a resolution; read only.

Each maps the names of layers to `count`, `mean` and `std` of their timings in ms (Cai et al., ICLR 2020, and the
authors' package). They are of the layers of ``mobilenet_v3_w1.2``, and one of our tables holds them all:

- a row's figure is the mean, and the provenance says so;
- its spread, half of the distance between the quartiles, is 0.6745 std, as it is for a normal distribution;
- a layer that several files name (the head, and late blocks where maps of two resolutions round to the same side) has
  one row, that of the greatest resolution. On the published tables of the Note10 the files differ by 2 % in such rows,
  and a subnet's latency by 0.3 % at most (at 160 pixels; not at all at 224);
- how they were measured is nowhere said, so the provenance is unknown.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from latency_tables.budget import device_fault
from latency_tables.coverage import layers_by_resolution
from latency_tables.document import FORMAT, VERSION, Count, Milliseconds, Spread, Strict, problem_of, refuse, shown
from latency_tables.formats import yaml_format
from latency_tables.formats.capped import read_capped
from supernet.arch import LayerSpec
from supernet.errors import TableError
from supernet.spaces import get_space

SPACE = "mobilenet_v3_w1.2"
QUARTILE = 0.6745
"""Upper quartile of the standard normal distribution."""
DISAGREEMENT = 2.0
"""How many times longer one file may say that a layer takes than another; by more, they are of different devices."""

_NAME = re.compile(r"([0-9]{1,6})_lookup_table\.ya?ml", re.IGNORECASE)
_EXAMPLE = "160_lookup_table.yaml"
_SHOWN = 3
_NAME_LENGTH = 120  # the longest of the package have 98


class _Timings(Strict):
    count: Count
    mean: Milliseconds
    std: Spread


_ROWS = TypeAdapter(dict[str, _Timings])


def is_for(path: Path) -> bool:
    """Whether this module reads the path: a folder, or a file with a name of the package."""
    return path.is_dir() or _NAME.fullmatch(path.name) is not None


def refuse_renamed(data: bytes) -> None:
    """Do nothing with a file of ours.

    Raises:
        TableError: the content is that of the package, whose files are known by their names.
    """
    if b"Conv-input:" in data and FORMAT.encode() not in data:
        raise TableError(f"this is a table of the ofa package under another name; name it like {_EXAMPLE}")


def read(path: Path, device: str | None = None) -> dict[str, Any]:
    """Plain data as our own formats give it, from a folder of tables or one of its files.

    Args:
        path: the folder or file.
        device: what to call the device; None: the name of the folder.

    Raises:
        TableError: no such file in the folder, two of one resolution, a malformed one, layers of another network,
            files that contradict each other, or a folder's name that no device can have.
        OSError: a file cannot be read.
    """
    files = _files(path)
    device = device if device is not None else (path if path.is_dir() else path.parent).resolve().name
    fault = device_fault(device)
    if fault:
        raise TableError(f"latency table: {fault}; give another with device= (--device), or rename the folder")
    found: dict[str, tuple[Path, _Timings]] = {}
    for resolution, file in files.items():  # ascending, so that of two rows the one of the greater resolution stays
        for key, timings in _rows(file, resolution).items():
            if key in found:
                _check_agreement(key, found[key], (file, timings))
            found[key] = file, timings
    space = get_space(SPACE)
    return {
        "format": FORMAT,
        "version": VERSION,
        "unit": "ms",
        "device": device,
        "space": space.name,
        "num_classes": space.num_classes,
        "provenance": {
            **{"hardware": {}, "runtime": None, "runtime_versions": {}, "precision": None, "memory_format": None},
            **{"threads": None, "batch": None, "date": None, "repeats": None, "warmup": None, "statistic": "mean"},
        },
        "rows": [
            {"layer": key, "median_ms": row.mean, "spread_ms": QUARTILE * row.std, "count": row.count}
            for key, (_, row) in found.items()
        ],
    }


def ofa_key(spec: LayerSpec) -> str:
    """The package's name of a layer of ``mobilenet_v3_w1.2``."""
    shapes = f"input:{spec.in_size}x{spec.in_size}x{spec.in_channels}-output:"
    if spec.op == "linear":
        return f"Logits-{shapes}{spec.out_channels}"
    shapes += f"{spec.out_size}x{spec.out_size}x{spec.out_channels}"
    if spec.op == "pool":
        return f"AvgPool2D-{shapes}"
    if spec.op == "conv":
        name = "Conv_2" if not spec.batch_norm else "Conv" if spec.kernel == 3 else "Conv_1"
        return f"{name}-{shapes}"
    return (
        f"expanded_conv-{shapes}-expand:{spec.mid_channels}-kernel:{spec.kernel}-stride:{spec.stride}"
        f"-idskip:{int(spec.shortcut)}-se:{int(spec.se_channels > 0)}-hs:{int(spec.activation == 'h_swish')}"
    )


def _files(path: Path) -> dict[int, Path]:
    """The table files by resolution, ascending."""
    if not path.is_dir():
        candidates = [path]
    else:
        here = sorted(path.iterdir())
        candidates = [file for file in here if _NAME.fullmatch(file.name) and file.is_file()]
        if not candidates:
            names = ", ".join(shown(file.name) for file in here[:_SHOWN]) or "nothing"
            more = f" and {len(here) - _SHOWN} more" if len(here) > _SHOWN else ""
            raise TableError(
                f"cannot read latency table: the folder holds no file named like {_EXAMPLE}, but {names}{more}; "
                "give a folder of the ofa package, or a file"
            )
    files: dict[int, Path] = {}
    for file in candidates:
        match = _NAME.fullmatch(file.name)
        assert match is not None
        resolution = int(match[1])
        if resolution not in _known():
            allowed = ", ".join(map(str, _known()))
            raise TableError(f"{file.name}: {resolution} is no resolution of {SPACE}; allowed: {allowed}")
        if resolution in files:
            raise TableError(
                f"the folder holds two tables of resolution {resolution}, {files[resolution].name} and {file.name}; "
                "remove one"
            )
        files[resolution] = file
    return dict(sorted(files.items()))


def _rows(file: Path, resolution: int) -> dict[str, _Timings]:
    """One file's rows by our keys."""
    try:
        data = yaml_format.decode(read_capped(file, yaml_format.MAX_BYTES))
    except TableError as error:
        raise TableError(f"{file.name}: {error}") from None
    if not isinstance(data, dict) or not data:
        kind = "none" if data == {} else type(data).__name__
        raise TableError(f"{file.name}: expected rows by name of the layer, got {kind}; check that it is whole")
    known = _known()[resolution]
    strange = [str(name)[:_NAME_LENGTH] for name in data if name not in known]
    faults = [f"{name!r} is no layer of {SPACE} at {resolution} pixels" for name in strange]
    try:
        rows = _ROWS.validate_python({name: row for name, row in data.items() if name in known})
    except ValidationError as error:
        for fault in error.errors(include_url=False):
            field = ", ".join(str(part)[:_NAME_LENGTH] for part in fault["loc"])
            faults.append(f"{field} {problem_of(fault)}")
    refuse(faults, file.name)
    return {known[name]: row for name, row in rows.items()}


def _check_agreement(key: str, first: tuple[Path, _Timings], second: tuple[Path, _Timings]) -> None:
    means = [timings.mean for _, timings in (first, second)]
    if max(means) > DISAGREEMENT * min(means):
        raise TableError(
            f"{key} takes {means[0]:.4g} ms in {first[0].name} and {means[1]:.4g} ms in {second[0].name}; tables of "
            f"one device differ by less than {DISAGREEMENT:g} times; load them apart, under two names"
        )


@cache
def _known() -> Mapping[int, Mapping[str, str]]:
    """Resolution -> name of a layer in the package -> our key."""
    layers = layers_by_resolution(get_space(SPACE))
    return {resolution: {ofa_key(spec): spec.key for spec in specs} for resolution, specs in layers.items()}
