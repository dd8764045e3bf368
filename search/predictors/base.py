"""AccuracyPredictor: a fitted guess of a subnet's accuracy from its genotype, bound to one search space."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load as parse_tensors
from safetensors.numpy import save as format_tensors

from search.encoding import GenotypeEncoder
from search.predictors.dense import Array, DenseStack
from supernet import registry
from supernet.arch import SubnetConfig
from supernet.errors import CheckpointError, ConfigError
from supernet.files import read_json, write_bytes, write_json
from supernet.spaces import Genotypes, SearchSpace

FORMAT = "onceforall.predictor/1"
DOCUMENT = "predictor.json"
WEIGHTS = "predictor.safetensors"
_ROWS_AT_ONCE = 8192  # bounds the memory of a prediction, whatever the number of rows


class Predictor(Protocol):
    """What a search asks of a predictor."""

    @property
    def space(self) -> SearchSpace:
        """The space whose subnets it knows."""

    def predict_genotypes(self, genotypes: Genotypes) -> npt.NDArray[np.floating[Any]]:
        """Accuracy of each row, (n,) in [0, 1]."""

    def rank_genotypes(self, genotypes: Genotypes) -> npt.NDArray[np.floating[Any]]:
        """A number a row, (n,), greater for a better subnet; compared, never shown."""


@dataclass(frozen=True)
class AccuracyPredictor:
    """Predicts top-1 accuracy after calibration; made by `fit_predictor`, kept by `save` and `load`.

    Attributes:
        space: the space that it was fitted for; subnets of another are refused.
        kind: the method that fitted it, for people.
        stacks: their outputs, from the features of `GenotypeEncoder`, are summed.
        details: how it was fitted and how well it did, plain JSON; stored with it.
    """

    space: SearchSpace
    kind: str
    stacks: tuple[DenseStack, ...] = field(repr=False)
    details: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @cached_property
    def encoder(self) -> GenotypeEncoder:
        """Genotypes -> features."""
        return GenotypeEncoder(self.space)

    def predict(self, configs: Iterable[SubnetConfig]) -> npt.NDArray[np.float32]:
        """Accuracy of each subnet, float32 (n,) in [0, 1].

        Raises:
            ConfigError: a subnet belongs to another space.
        """
        return self.predict_genotypes(self.space.encode(configs))

    def predict_genotypes(self, genotypes: Genotypes) -> npt.NDArray[np.float32]:
        """Accuracy of each row, float32 (n,) in [0, 1]; `genotypes` int8 (n, genes), canonical or not."""
        return np.clip(self.rank_genotypes(genotypes), 0, 1)

    def rank_genotypes(self, genotypes: Genotypes) -> npt.NDArray[np.float32]:
        """As `predict_genotypes`, but not cut off at 0 and 1, so that a search still tells the best rows apart."""
        scores = np.empty(len(genotypes), dtype=np.float32)
        for start in range(0, len(genotypes), _ROWS_AT_ONCE):
            rows = slice(start, start + _ROWS_AT_ONCE)
            features = self.encoder.features(genotypes[rows])
            scores[rows] = sum(stack(features) for stack in self.stacks)
        return scores

    def save(self, folder: str | Path) -> None:
        """Write `predictor.json` and `predictor.safetensors` into `folder`.

        Raises:
            StorageError: they cannot be written.
        """
        tensors = {}
        for i, stack in enumerate(self.stacks):
            for j, (weight, bias) in enumerate(zip(stack.weights, stack.biases, strict=True)):
                # contiguous: safetensors writes a transposed array's memory, not its values
                tensors[f"{i}.{j}.weight"] = np.ascontiguousarray(weight)
                tensors[f"{i}.{j}.bias"] = np.ascontiguousarray(bias)
        data = format_tensors(tensors)
        write_bytes(Path(folder) / WEIGHTS, data)
        document = {
            "format": FORMAT,
            "space": self.space.name,
            "kind": self.kind,
            "encoding": {"features": len(self.encoder.names), "digest": self.encoder.digest},
            "layers": [len(stack.weights) for stack in self.stacks],
            "weights": {"file": WEIGHTS, "sha256": hashlib.sha256(data).hexdigest()},
            "details": dict(self.details),
        }
        write_json(Path(folder) / DOCUMENT, document)

    @classmethod
    def load(cls, folder: str | Path, *, space: SearchSpace | None = None) -> AccuracyPredictor:
        """Read what `save` wrote.

        Args:
            folder: where the two files are.
            space: refuse a predictor of another space; None takes any.

        Raises:
            CheckpointError: a file is absent, altered, or not a predictor.
            ConfigError: the predictor was fitted for another space, or for one that does not exist here.
        """
        path = Path(folder) / DOCUMENT
        document = read_json(path)
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            found = document.get("format") if isinstance(document, dict) else type(document).__name__
            raise CheckpointError(
                f"{str(path)!r} has format {found!r}; expected {FORMAT!r}; "
                "fit the predictor again with: onceforall predictor"
            )
        try:
            known = registry.find(document["space"])
            kind, layers, digest = document["kind"], document["layers"], document["weights"]["sha256"]
            encoding, details = document["encoding"]["digest"], document["details"]
        except (KeyError, TypeError) as error:
            raise CheckpointError(
                f"{str(path)!r} lacks a field ({error}); it is damaged, fetch or make it again"
            ) from None
        if not (
            isinstance(kind, str)
            and isinstance(details, dict)
            and isinstance(layers, list)
            and 0 < len(layers) <= 64
            and all(type(count) is int and 0 < count <= 64 for count in layers)
        ):
            raise CheckpointError(f"{str(path)!r} is not a predictor; it is damaged, fetch or make it again")
        stacks = _read_stacks(Path(folder) / WEIGHTS, layers, digest)
        predictor = cls(known, kind, stacks, details)
        if space is not None:
            require_space(predictor, space)
        features = len(predictor.encoder.names)
        faults = [fault for stack in stacks for fault in stack.faults()]
        if encoding != predictor.encoder.digest:
            faults.append(f"it reads another encoding of {known.name!r} than this version writes")
        faults += [
            f"takes {stack.inputs} features; expected {features}" for stack in stacks if stack.inputs != features
        ]
        if faults:
            raise CheckpointError(
                f"predictor in {str(folder)!r}: {'; '.join(faults)}; fit it again with: onceforall predictor"
            )
        return predictor


def require_space(predictor: Predictor, space: SearchSpace) -> None:
    """Refuse to guess about another space.

    Raises:
        ConfigError: `space` is not the one that the predictor was fitted for.
    """
    if predictor.space.name != space.name:
        raise ConfigError(
            f"the accuracy predictor was fitted for {predictor.space.name!r}, not for {space.name!r}; "
            f"fit one on a run of {space.name!r} with: onceforall predictor"
        )


def _read_stacks(path: Path, layers: list[int], digest: object) -> tuple[DenseStack, ...]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"cannot read {str(path)!r}: {error.strerror}; fetch or make it again") from None
    actual = hashlib.sha256(data).hexdigest()
    if actual != digest:
        raise CheckpointError(f"{str(path)!r} has SHA-256 {actual}, {DOCUMENT} says {digest}; fetch or make it again")
    names = {f"{i}.{j}.{part}" for i, count in enumerate(layers) for j in range(count) for part in ("weight", "bias")}
    try:
        tensors: dict[str, Array] = parse_tensors(data)
    except (SafetensorError, KeyError, ValueError) as error:
        raise CheckpointError(f"{str(path)!r} is not a safetensors file ({error}); fetch or make it again") from None
    if set(tensors) != names:
        wrong = sorted(set(tensors) ^ names)
        raise CheckpointError(
            f"{str(path)!r}: tensors missing or unknown: {', '.join(wrong[:5])}; fetch or make it again"
        )
    return tuple(
        DenseStack(
            tuple(tensors[f"{i}.{j}.weight"] for j in range(count)),
            tuple(tensors[f"{i}.{j}.bias"] for j in range(count)),
        )
        for i, count in enumerate(layers)
    )
