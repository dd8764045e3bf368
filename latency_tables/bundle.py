"""Bundles: a folder that measures a space's latency table on a device that has none of our code.

- bundle.json: the layers with their properties, the subnets with their layers, a digest of every file
- measure.py: the stand-alone script, `latency_tables.measure`
- NUMBER.onnx: whole subnets, their operators and shapes
- weights_NUMBER.bin: random numbers, of which all of them take their weights (measured on 47 subnets, in turn with
  equal ones that have weights of their own: the ratio of latencies has the median 1.004)

Its rows are fitted to whole subnets already, so a table that it measures hardly needs a correction. To give what
`latency_tables.correction` reads as well, bundle.json would have to hold the subnets' configs, which it does not.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from latency_tables import measure
from latency_tables.costs import convolutions
from latency_tables.covering import covering_genotypes, layers_within, resolutions_of
from supernet.arch import LayerSpec, SubnetConfig
from supernet.errors import ConfigError
from supernet.files import sha256_file, write_bytes, write_json
from supernet.layers import build_layer
from supernet.onnx_graph import onnx_model
from supernet.spaces import SearchSpace
from supernet.spaces.base import Kind

SCRIPT = "measure.py"

SUBNETS_A_LAYER = 0.6
"""Least number of subnets a layer to be measured.

Measured on mobilenet_v3_tiny (234 layers, 50 unseen subnets, a noisy machine): 45 subnets give a median error of 4.2 %
and Spearman .981, 90 give 2.1 % and .984, 345 no better."""

_BIAS_EXPONENT = -4
_ALIGNMENT = 64


def write_bundle(
    space: SearchSpace, folder: Path, *, batch: int = 1, resolutions: Sequence[int] = (), seed: int = 0
) -> str:
    """Write a bundle to a folder that is absent or empty.

    Args:
        space: whose layers will be measured, with its number of classes.
        folder: where to.
        batch: images a forward pass.
        resolutions: of the input images, pixels; none: all of the space.
        seed: of the choice of subnets and the weights.

    Returns:
        The bundle's digest, SHA-256 of bundle.json: it names the digests of all other files.

    Raises:
        ConfigError: the folder is not empty, or an argument out of range.
        MissingPackageError: the extra `onnx` is not installed.
        StorageError: the folder cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{str(folder)!r} is not an empty folder; choose another, or remove it")
    if batch < 1:
        raise ConfigError(f"batch is {batch}; allowed: 1 or more")
    rng = np.random.default_rng(seed)
    layers = layers_within(space, resolutions)
    number = {spec: index for index, spec in enumerate(layers)}
    with torch.device("meta"):  # shapes are enough
        modules = {spec: build_layer(spec).eval() for spec in layers}
    weights = _Weights()
    subnets: list[dict[str, Any]] = []
    for config in _subnets(space, rng, resolutions, math.ceil(SUBNETS_A_LAYER * len(layers))):
        named = [(name, spec) for name, spec in space.named_layers(config) if spec is not None]
        weights.start_subnet()
        model = onnx_model(
            [(name, modules[spec]) for name, spec in named],
            input_shape=(batch, 3, config.resolution, config.resolution),
            store=weights.refer,
        )
        file = f"{len(subnets):04}.onnx"
        write_bytes(folder / file, model.SerializeToString())
        subnets.append(
            {
                "file": file,
                "resolution": config.resolution,
                "weight_bytes": weights.subnet_bytes,
                "layers": [number[spec] for _, spec in named],
            }
        )
    weights.write(folder, rng)
    write_bytes(folder / SCRIPT, Path(measure.__file__).read_bytes())
    files = sorted(path.name for path in folder.iterdir() if path.name != SCRIPT)
    write_json(  # last: it binds the others together
        folder / measure.BUNDLE,
        {
            "format": measure.BUNDLE_FORMAT,
            "version": measure.BUNDLE_VERSION,
            "onceforall": version("onceforall"),
            "space": space.name,
            "num_classes": space.num_classes,
            "batch": batch,
            "layers": [{"layer": spec.key, "features": layer_features(spec, batch)} for spec in layers],
            "subnets": subnets,
            "files": {name: sha256_file(folder / name) for name in files},
        },
    )
    return sha256_file(folder / measure.BUNDLE)


def layer_features(spec: LayerSpec, batch: int = 1) -> list[float]:
    """Properties of a layer that cost time on any device, all 0 or more, each in units that make most about 1.

    One a layer; its convolutions; its squeeze-excites; multiply-adds (M) of 1x1, of wider, of depthwise convolutions
    and of linear layers; numbers (M) that its convolutions write; weights (M) that it reads. Without the kinds of
    multiply-adds (the four properties layer, MACs, weights, numbers written) 45 subnets of mobilenet_v3_tiny predict
    unseen ones to 4.6 %, not 4.2 %, and 90 to 4.2 %, not 2.1 %.
    """
    names = ("layer", "convs", "gates", "pointwise", "dense", "depthwise", "linear", "written", "weights")
    values = dict.fromkeys(names, 0.0) | {"layer": 1.0, "gates": float(bool(spec.se_channels))}
    for part in convolutions(spec):
        pixels = part.out_size**2
        if part.groups > 1:
            kind = "depthwise"
        elif spec.op == "linear" or pixels == 1:
            kind = "linear"
        else:
            kind = "pointwise" if part.kernel == 1 else "dense"
        values[kind] += batch * part.weights * pixels / 1e6
        values["convs"] += 1.0
        values["written"] += batch * part.out_channels * pixels / 1e6
        values["weights"] += part.weights / 1e6
    return list(values.values())


def _subnets(
    space: SearchSpace, rng: np.random.Generator, resolutions: Sequence[int], least: int
) -> list[SubnetConfig]:
    """Subnets that have every layer, and twice as many random ones, or more to make `least`; no two equal."""
    within: dict[Kind, tuple[int, ...]] = {"resolution": resolutions_of(space, resolutions)}
    covering = covering_genotypes(space, rng, resolutions)
    extra = space.sample_genotypes(rng, max(2 * len(covering), least - len(covering)), within=within)
    return list(dict.fromkeys(space.decode(np.concatenate([covering, extra]))))


class _Weights:
    """Random numbers for all graphs: a file for each scale, in which the weights of one graph do not overlap.

    Weights that share memory would stay in the nearest cache from one layer to the next. The scales keep the signal's
    size through deep subnets, far from denormal numbers, with which processors are many times slower.
    """

    def __init__(self) -> None:
        self._sizes: dict[int, int] = {}
        self._used: dict[int, int] = {}
        self.subnet_bytes = 0

    def start_subnet(self) -> None:
        """The next weights are those of another graph."""
        self._used = {}
        self.subnet_bytes = 0

    def refer(self, name: str, values: torch.Tensor) -> Any:
        """A place in a file for a weight, of which only the shape matters."""
        from onnx import TensorProto

        inputs = math.prod(values.shape[1:])
        exponent = round(math.log2(2 / inputs) / 2) if values.ndim > 1 else _BIAS_EXPONENT
        start = self._used.get(exponent, 0)
        size = 4 * values.numel()
        self._used[exponent] = start + -(-size // _ALIGNMENT) * _ALIGNMENT
        self._sizes[exponent] = max(self._sizes.get(exponent, 0), self._used[exponent])
        self.subnet_bytes += size
        tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=list(values.shape))
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", _file(exponent)), ("offset", start), ("length", size)):
            tensor.external_data.add(key=key, value=str(value))
        return tensor

    def write(self, folder: Path, rng: np.random.Generator) -> None:
        """Write the files, normally distributed numbers each."""
        for exponent, size in sorted(self._sizes.items()):
            numbers = rng.standard_normal(size // 4, dtype=np.float32) * np.float32(2.0**exponent)
            write_bytes(folder / _file(exponent), numbers.astype("<f4").tobytes())


def _file(exponent: int) -> str:
    return f"weights_{abs(exponent)}{'' if exponent < 0 else 'p'}.bin"


def describe_bundle(folder: Path) -> dict[str, Any]:
    """What a person wants to know about a bundle: numbers of its layers and subnets, size, digest."""
    description = json.loads((folder / measure.BUNDLE).read_bytes())
    return {
        "folder": str(folder),
        "space": description["space"],
        "layers": len(description["layers"]),
        "subnets": len(description["subnets"]),
        "size_bytes": sum(path.stat().st_size for path in folder.iterdir()),
        "digest": sha256_file(folder / measure.BUNDLE),
    }
