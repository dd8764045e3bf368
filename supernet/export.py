"""Networks as files for other runtimes: ONNX, and torch's exported programs. Each is loaded again and compared.

An export is one file with everything that its user needs to know in its metadata: which subnet, what images it takes,
what its outputs are called. ``onnx``: weights in the file, batch norms folded into convolutions. ``torch-export``: an
`ExportedProgram` (.pt2), for `torch.export.load`, AOTInductor and ExecuTorch; batch norms are left as they are.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from supernet.errors import ConfigError, ExportError, one_of
from supernet.files import atomic_path, sha256_file
from supernet.images import Normalisation
from supernet.network import Network, Subnet
from supernet.onnx_graph import INPUT, OUTPUT, onnx_model
from supernet.onnx_network import OnnxNetwork

SUFFIXES = {"onnx": ".onnx", "torch-export": ".pt2"}
"""Formats, and how the names of their files end."""

MAX_ERROR = 1e-4
"""Largest difference of logits over the largest logit; exports of sound networks are below 2e-6 (rounding)."""

_ROUNDINGS = 10.0
"""A network that amplifies rounding may be off by more: so many times its own float32 outputs' distance from float64's.

Seen: an untrained subnet on noise of standard deviation 10 was 3.7 % off itself in float64, its file 3.4 % off it."""

_METADATA_FILE = "metadata.json"


@dataclass(frozen=True)
class Export:
    """A file that was written, loaded again, and found to compute what the network computes.

    Attributes:
        path: the file.
        format: ``onnx`` or ``torch-export``.
        error: largest difference of logits over the largest logit, over all compared inputs.
        inputs: number of compared batches.
        size_bytes: of the file.
        sha256: of the file.
        metadata: the facts in the file.
    """

    path: Path
    format: str
    error: float
    inputs: int
    size_bytes: int
    sha256: str
    metadata: dict[str, str]


def export_network(
    network: Network,
    path: Path,
    *,
    format: str = "onnx",
    dynamic_batch: bool = False,
    metadata: Mapping[str, str] | None = None,
) -> Export:
    """Write a network for another runtime; the file appears only if it computes what the network computes.

    Args:
        network: in evaluation mode it is exported; it is left as it was.
        path: the file to write.
        format: ``onnx`` or ``torch-export``.
        dynamic_batch: take any number of images at once, not one only.
        metadata: facts to keep in the file; see `subnet_metadata`.

    Raises:
        ConfigError: unknown format.
        MissingPackageError: the extra `onnx` is not installed.
        ExportError: the loaded file's outputs differ from the network's by more than `MAX_ERROR`, and by more than
            rounding explains.
        StorageError: the file cannot be written.
    """
    if format not in SUFFIXES:
        raise ConfigError(one_of("format", format, list(SUFFIXES)))
    facts = {"format": format, "input": INPUT, "output": OUTPUT, **(metadata or {})}
    write, load = (_write_onnx, _load_onnx) if format == "onnx" else (_write_program, _load_program)
    modes = [(module, module.training) for module in network.modules()]
    batches = _inputs(network, dynamic_batch)
    try:
        network.eval()
        with torch.no_grad(), atomic_path(path) as temporary:
            write(network, temporary, dynamic_batch, facts)
            exported, stored = load(temporary)
            if stored != facts:
                raise ExportError(f"{str(path)!r}: its metadata is {stored} when loaded again; expected {facts}")
            errors = [relative_error(exported(images), network(images)) for images in batches]
            error = max(errors)
            if not all(
                found <= MAX_ERROR or found <= _ROUNDINGS * rounding_error(network, images)
                for found, images in zip(errors, batches, strict=True)
            ):
                raise ExportError(
                    f"{str(path)!r}: outputs differ from the network's by {error:.1e} of the largest; allowed: "
                    f"{MAX_ERROR:.0e}; nothing was written; try another format, one of: {', '.join(SUFFIXES)}"
                )
    finally:
        for module, training in modes:
            module.training = training
    return Export(path, format, error, len(batches), path.stat().st_size, sha256_file(path), facts)


def subnet_metadata(
    network: Network, *, normalisation: Normalisation, class_names: Sequence[str], centre_share: float = 1.0
) -> dict[str, str]:
    """What a user of an exported subnet needs to know; lists as JSON.

    Args:
        network: the subnet; of a space, or an imported one.
        normalisation: of its input: (pixel / 255 - mean) / std, a channel each.
        class_names: names of the outputs, in order; empty where nobody knows them.
        centre_share: part of an image's shorter side that the square in its middle, the input, keeps.
    """
    facts = {
        "resolution": str(network.resolution),
        "num_classes": str(network.num_classes),
        "layout": "NCHW, RGB, float32",
        "mean": json.dumps(list(normalisation.mean)),
        "std": json.dumps(list(normalisation.std)),
        "centre_share": json.dumps(centre_share),
    }
    if class_names:
        facts["class_names"] = json.dumps(list(class_names))
    if isinstance(network, Subnet):
        facts |= {
            "space": network.config.space,
            "config": network.config.to_json(),
            "config_digest": network.config.digest,
        }
    return facts


def rounding_error(network: nn.Module, images: Tensor) -> float:
    """`relative_error` of a network's outputs beside those of the same network in float64; 0 where it is not finite."""
    with torch.no_grad():
        error = relative_error(network(images).double(), deepcopy(network).double()(images.double()))
    return error if math.isfinite(error) else 0.0  # which excuses nothing


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Largest difference over the largest expected number; infinite where shapes differ or a number is not finite."""
    if found.shape != expected.shape or not (found.isfinite().all() and expected.isfinite().all()):
        return float("inf")  # not NaN, which a comparison or a maximum of several may lose
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-30))


def _inputs(network: Network, dynamic_batch: bool) -> list[Tensor]:
    """Images to compare: noise as normalised photographs have it, far larger, much smoother; batches where allowed."""
    generator = torch.Generator().manual_seed(0)
    size = network.resolution
    noise = [torch.randn(1, 3, size, size, generator=generator) for _ in range(3)]
    smooth = torch.randn(1, 3, 4, 4, generator=generator)
    ramp = nn.functional.interpolate(smooth, size=(size, size), mode="bilinear")
    batches = [*noise, 10 * noise[0], ramp]
    if dynamic_batch:
        batches += [torch.randn(count, 3, size, size, generator=generator) for count in (2, 5)]
    return batches


_Runner = Callable[[Tensor], Tensor]


def _write_onnx(network: Network, path: Path, dynamic_batch: bool, facts: dict[str, str]) -> None:
    shape = (None if dynamic_batch else 1, 3, network.resolution, network.resolution)
    path.write_bytes(
        onnx_model(network.named_children(), input_shape=shape, metadata=facts).SerializeToString(deterministic=True)
    )


def _load_onnx(path: Path) -> tuple[_Runner, dict[str, str]]:
    loaded = OnnxNetwork(path)
    return loaded, loaded.metadata


def _write_program(network: Network, path: Path, dynamic_batch: bool, facts: dict[str, str]) -> None:
    images = torch.randn(2 if dynamic_batch else 1, 3, network.resolution, network.resolution)
    shapes: Any = ({0: torch.export.Dim("batch", min=1)},) if dynamic_batch else None
    program = torch.export.export(network, (images,), dynamic_shapes=shapes)
    with path.open("wb") as file:
        torch.export.save(program, file, extra_files={_METADATA_FILE: json.dumps(facts)})


def _load_program(path: Path) -> tuple[_Runner, dict[str, str]]:
    extra: dict[str, Any] = {_METADATA_FILE: ""}
    with path.open("rb") as file:
        program = torch.export.load(file, extra_files=extra)
    module: _Runner = program.module()
    return module, json.loads(extra[_METADATA_FILE])
