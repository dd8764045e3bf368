"""AccuracyPredictor: a fitted guess of a subnet's accuracy from its genotype, bound to one search space."""

from __future__ import annotations

import hashlib
import math
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
from search.predictors.dense import ACTIVATIONS, Activation, Array, DenseStack
from supernet import registry
from supernet.arch import SubnetConfig
from supernet.errors import CheckpointError, ConfigError
from supernet.files import read_json, sha256_file, write_bytes, write_json
from supernet.spaces import ElasticDimension, Genotypes, SearchSpace

FORMAT = "onceforall.predictor/1"
DOCUMENT = "predictor.json"
WEIGHTS = "predictor.safetensors"
RESIDUALS = "residuals"
_ROWS_AT_ONCE = 1024  # what 400 units put out for them, 1.6 MB, stays in the second cache of a core


class Predictor(Protocol):
    """What a search asks of a predictor.

    It may also have `resolutions`, those that it knows, and `digest`, text that is another one where the guesses are:
    without it a search's checkpoint cannot tell two predictors apart.
    """

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
        resolutions: those that it knows, ascending, pixels; None: all of the space.
        residuals: how far cross-validated guesses were off, float32 (n,), ascending; None: not known.
    """

    space: SearchSpace
    kind: str
    stacks: tuple[DenseStack, ...] = field(repr=False)
    details: Mapping[str, Any] = field(default_factory=dict, repr=False)
    resolutions: tuple[int, ...] | None = None
    residuals: Array | None = field(default=None, repr=False, compare=False)

    @cached_property
    def encoder(self) -> GenotypeEncoder:
        """Genotypes -> features."""
        return GenotypeEncoder(self.space)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all that the guesses depend on, 64 hexadecimal digits."""
        digest = hashlib.sha256(f"{self.space.name} {self.encoder.digest} {self.resolutions}".encode())
        for stack in self.stacks:
            digest.update(f";{stack.activation}".encode())
            for array in (*stack.weights, *stack.biases):
                digest.update(f"{array.shape}".encode() + array.tobytes())
        return digest.hexdigest()

    def predict(self, configs: Iterable[SubnetConfig]) -> npt.NDArray[np.float32]:
        """Accuracy of each subnet, float32 (n,) in [0, 1].

        Raises:
            ConfigError: a subnet belongs to another space, or has a resolution that the predictor does not know.
        """
        return self.predict_genotypes(self.space.encode(configs))

    def predict_genotypes(self, genotypes: Genotypes) -> npt.NDArray[np.float32]:
        """Accuracy of each row, float32 (n,) in [0, 1]; `genotypes` int8 (n, genes), canonical or not.

        Raises:
            ConfigError: a row has a resolution that the predictor does not know.
        """
        self._require_known_resolutions(genotypes)
        return np.clip(self.rank_genotypes(genotypes), 0, 1)

    def rank_genotypes(self, genotypes: Genotypes) -> npt.NDArray[np.float32]:
        """As `predict_genotypes`, for a search: not cut off at 0 and 1, so that the best rows can be told apart.

        Resolutions are not checked; for one that the predictor does not know the number means nothing.
        """
        scores = np.empty(len(genotypes), dtype=np.float32)
        for start in range(0, len(genotypes), _ROWS_AT_ONCE):
            rows = slice(start, start + _ROWS_AT_ONCE)
            features = self.encoder.features(genotypes[rows])
            scores[rows] = sum(stack(features) for stack in self.stacks)
        return scores

    def interval(
        self, configs: Iterable[SubnetConfig], coverage: float = 0.9
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Where measured accuracies will lie, whatever the errors' distribution: a conformal interval.

        Its half width is that quantile of the cross-validated residuals, with the correction for their number: of n
        residuals the ceil((n + 1) * coverage)-th; 1 where n is too small for such a coverage. The residuals are of
        evaluations, so the interval is for an evaluation on the same images, its noise included, and for subnets drawn
        as the fitted ones were. Source: Vovk, "Cross-conformal predictors", Annals of Mathematics and Artificial
        Intelligence 74, 2015; here with one quantile for all folds.

        Args:
            configs: subnets, n.
            coverage: share of evaluations that shall lie within, between 0 and 1.

        Returns:
            Lower and upper ends, float32 (n,) each, in [0, 1].

        Raises:
            ConfigError: `coverage` is outside of its range, the predictor has no residuals, or as `predict`.
        """
        if not 0 < coverage < 1:
            raise ConfigError(f"coverage is {coverage}; allowed: between 0 and 1, for example 0.9")
        if self.residuals is None:
            raise ConfigError(
                f"this predictor ({self.kind!r} for {self.space.name!r}) came without residuals, so it has no "
                "intervals; fit one to measured subnets with: onceforall predictor"
            )
        rank = math.ceil((len(self.residuals) + 1) * coverage)
        half = float(self.residuals[rank - 1]) if rank <= len(self.residuals) else 1.0
        guesses = self.predict(configs)
        return np.maximum(guesses - half, 0), np.minimum(guesses + half, 1)

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
        if self.residuals is not None:
            tensors[RESIDUALS] = self.residuals
        data = format_tensors(tensors)
        write_bytes(Path(folder) / WEIGHTS, data)
        document = {
            "format": FORMAT,
            "space": self.space.name,
            "num_classes": self.space.num_classes,
            "kind": self.kind,
            "encoding": {"features": len(self.encoder.names), "digest": self.encoder.digest},
            "layers": [len(stack.weights) for stack in self.stacks],
            "activations": [stack.activation for stack in self.stacks],
            "weights": {"file": WEIGHTS, "sha256": hashlib.sha256(data).hexdigest()},
            "resolutions": None if self.resolutions is None else list(self.resolutions),
            "details": dict(self.details),
        }
        write_json(Path(folder) / DOCUMENT, document)

    @classmethod
    def load(cls, folder: str | Path, *, space: SearchSpace | None = None) -> AccuracyPredictor:
        """Read what `save` wrote.

        Args:
            folder: where the two files are.
            space: refuse a predictor of another space, or of another number of classes; None takes any. A file from
                before the number was written down is taken for the space's.

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
            known, classes = registry.find(document["space"]), document.get("num_classes")
            kind, layers, digest = document["kind"], document["layers"], document["weights"]["sha256"]
            encoding, details = document["encoding"]["digest"], document["details"]
            resolutions = document.get("resolutions")  # absent from older files: all
            activations = document.get("activations", ["relu"] * len(layers))  # and then nothing else
        except (KeyError, TypeError) as error:
            raise CheckpointError(
                f"{str(path)!r} lacks a field ({error}); it is damaged, fetch or make it again"
            ) from None
        if not (
            isinstance(kind, str)
            and isinstance(details, dict)
            and (classes is None or (type(classes) is int and classes >= 2))
            and isinstance(layers, list)
            and 0 < len(layers) <= 64
            and all(type(count) is int and 0 < count <= 64 for count in layers)
            and (resolutions is None or (isinstance(resolutions, list) and resolutions))
            and isinstance(activations, list)
            and len(activations) == len(layers)
            and all(activation in ACTIVATIONS for activation in activations)
        ):
            raise CheckpointError(f"{str(path)!r} is not a predictor; it is damaged, fetch or make it again")
        stacks, residuals = _read_tensors(Path(folder) / WEIGHTS, layers, activations, digest)
        known_sides = None if resolutions is None else tuple(resolutions)
        known = known.with_num_classes(classes or (space or known).num_classes)
        predictor = cls(known, kind, stacks, details, known_sides, residuals)
        if space is not None:
            require_space(predictor, space)
        features = len(predictor.encoder.names)
        faults = [fault for stack in stacks for fault in stack.faults()]
        if residuals is not None and not _are_residuals(residuals):
            faults.append(
                f"residuals are {residuals.dtype} {list(residuals.shape)}; expected float32, ascending from 0"
            )
        possible = _resolution_dimension(known)[1].choices
        if resolutions is not None and resolutions != [side for side in possible if side in resolutions]:
            faults.append(
                f"knows resolutions {resolutions}; expected some of {', '.join(map(str, possible))}, ascending"
            )
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

    @classmethod
    def load_ofa(cls, path: str | Path, space: SearchSpace) -> AccuracyPredictor:
        """One of the reference's published predictors of ImageNet accuracy; no pickle in it is run.

        Args:
            path: `acc_predictor.pth` (for mobilenet_v3_w1.2), or `ofa_resnet50_acc_predictor.pth` (for resnet50).
            space: the space that the file is for.

        Returns:
            A predictor that gives what the reference's code gives, for the `resolutions` that it was trained on.

        Raises:
            ConfigError: the reference published no predictor for this space, or not for this number of classes.
            CheckpointError: the file is absent, damaged, could run code, or is something else (all faults are named).
        """
        from search.predictors.ofa import read_ofa_predictor

        stack, layout = read_ofa_predictor(Path(path), space)
        details = {"imported": {"file": Path(path).name, "sha256": sha256_file(Path(path))}}
        return cls(space, "ofa", (stack,), details, layout.resolutions)

    def _require_known_resolutions(self, genotypes: Genotypes) -> None:
        if self.resolutions is None or not len(genotypes):
            return
        gene, dimension = _resolution_dimension(self.space)
        asked = {dimension.choices[index] for index in np.unique(genotypes[:, gene])}
        unknown = sorted(asked.difference(self.resolutions))
        if unknown:
            raise ConfigError(
                f"the accuracy predictor does not know resolution {', '.join(map(str, unknown))}; "
                f"it knows: {', '.join(map(str, self.resolutions))}; "
                "choose one of these, or fit a predictor with: onceforall predictor"
            )


def _resolution_dimension(space: SearchSpace) -> tuple[int, ElasticDimension]:
    return next((gene, dim) for gene, dim in enumerate(space.dimensions) if dim.kind == "resolution")


def require_space(predictor: Predictor, space: SearchSpace) -> None:
    """Refuse to guess about another space, or other classes, whose accuracies are others.

    Raises:
        ConfigError: `space` is not the one that the predictor was fitted for.
    """
    if predictor.space != space:
        names = [one.name for one in (predictor.space, space)]
        classes = [""] * 2
        if names[0] == names[1]:
            classes = [f" with {one.num_classes} classes" for one in (predictor.space, space)]
        raise ConfigError(
            f"the accuracy predictor was fitted for {names[0]!r}{classes[0]}, not for {names[1]!r}{classes[1]}; "
            f"fit one on a run of {names[1]!r}{classes[1]} with: onceforall predictor"
        )


def _are_residuals(values: Array) -> bool:
    good = values.dtype == np.float32 and values.ndim == 1 and len(values) > 0
    return good and bool(values[0] >= 0 and np.isfinite(values).all() and (np.diff(values) >= 0).all())


def _read_tensors(
    path: Path, layers: list[int], activations: list[Activation], digest: object
) -> tuple[tuple[DenseStack, ...], Array | None]:
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
    residuals = tensors.pop(RESIDUALS, None)
    if set(tensors) != names:
        wrong = sorted(set(tensors) ^ names)
        raise CheckpointError(
            f"{str(path)!r}: tensors missing or unknown: {', '.join(wrong[:5])}; fetch or make it again"
        )
    stacks = tuple(
        DenseStack(
            tuple(tensors[f"{i}.{j}.weight"] for j in range(count)),
            tuple(tensors[f"{i}.{j}.bias"] for j in range(count)),
            activation,
        )
        for i, (count, activation) in enumerate(zip(layers, activations, strict=True))
    )
    return stacks, residuals
