"""A run's manifest: which space and weights a run folder holds, read without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from supernet.errors import CheckpointError, ConfigError
from supernet.files import read_json
from supernet.spaces import SearchSpace, get_space

FORMAT = 1
MANIFEST, PREDICTOR = "manifest.json", "predictor"


def read_manifest(run: Path) -> dict[str, Any]:
    """The manifest of a run folder.

    Raises:
        CheckpointError: there is none, or not one that this version reads.
    """
    path = run / MANIFEST
    if not path.is_file():
        raise CheckpointError(f"{str(run)!r} is not a training run (no {MANIFEST}); make one with: onceforall train")
    manifest = read_json(path)
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        found = manifest.get("format") if isinstance(manifest, dict) else type(manifest).__name__
        raise CheckpointError(f"{str(path)!r} has format {found!r}; this version reads {FORMAT}")
    return manifest


def trained_space(run: Path, manifest: dict[str, Any]) -> SearchSpace:
    """The space that the run was trained for, with the run's number of classes.

    Raises:
        CheckpointError: the manifest does not say it, or it does not exist here.
    """
    try:
        return get_space(manifest["space"]).with_num_classes(manifest["num_classes"])
    except (KeyError, TypeError, ConfigError) as error:
        raise CheckpointError(f"{str(run / MANIFEST)!r} is not a run's manifest: {error}") from None


def trained_weights(run: Path, manifest: dict[str, Any]) -> str:
    """SHA-256 of the run's weights as the manifest states it.

    Raises:
        CheckpointError: the training has not ended, or the manifest does not say it.
    """
    if manifest.get("status") != "complete":
        raise CheckpointError(
            f"the training in {str(run)!r} has not ended; continue it with: onceforall train --resume {run}"
        )
    try:
        return str(manifest["weights"]["sha256"])
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{str(run / MANIFEST)!r} is not a run's manifest: {error}") from None
