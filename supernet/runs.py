"""The folder of a training run: manifest, weights, fixed images; what every later step starts from.

manifest.json           what was trained, on what, how (or what was imported); digests
supernet.safetensors    weights (once complete)
images.safetensors      calibration and held-out images
checkpoint.safetensors  state to resume from (removed once complete)
metrics.jsonl           one line every tenth step and at the end of every stage
tensorboard/            the same as curves
evaluations.jsonl       measured subnets (`onceforall predictor`)
predictor/              accuracy predictor (`onceforall predictor`)
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from supernet.errors import CheckpointError, ConfigError
from supernet.files import read_json, sha256_file
from supernet.images import CENTRE_SHARE, ImagePack, Normalisation, checked_share
from supernet.network import Supernet
from supernet.spaces import SearchSpace, get_space
from supernet.tensors import load_into, load_tensors

FORMAT = 1
MANIFEST, WEIGHTS, IMAGES = "manifest.json", "supernet.safetensors", "images.safetensors"


class RunFolder:
    """A training run on disk, opened for reading.

    Args:
        path: the folder.

    Raises:
        CheckpointError: no manifest, or not one that this version reads.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        if not (self.path / MANIFEST).is_file():
            raise CheckpointError(
                f"{str(self.path)!r} is not a training run (no {MANIFEST}); make one with: onceforall train"
            )
        manifest = read_json(self.path / MANIFEST)
        if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
            found = manifest.get("format") if isinstance(manifest, dict) else type(manifest).__name__
            raise CheckpointError(f"{str(self.path / MANIFEST)!r} has format {found!r}; this version reads {FORMAT}")
        self.manifest: dict[str, Any] = manifest
        try:
            self.space: SearchSpace = get_space(manifest["space"]).with_num_classes(manifest["num_classes"])
            data = manifest["data"]
            self.normalisation = Normalisation(tuple(data["mean"]), tuple(data["std"]))
            streamed = (data.get("source") or {}).get("stream", False)
            usual = CENTRE_SHARE if streamed else 1.0  # of runs from before it was written down
            self.centre_share = checked_share(data.get("centre_share", usual))
            self.class_names: list[str] = list(manifest["class_names"])
            images = manifest["images"]
            self.images_sha256 = None if images is None else str(images["sha256"])
        except (KeyError, TypeError, ConfigError, CheckpointError) as error:
            raise CheckpointError(f"{str(self.path / MANIFEST)!r} is not a run's manifest: {error}") from None

    @property
    def complete(self) -> bool:
        """Whether the training has ended."""
        return self.manifest.get("status") == "complete"

    @property
    def predictor_path(self) -> Path:
        """Folder of the run's accuracy predictor."""
        return self.path / "predictor"

    @cached_property
    def weights_sha256(self) -> str:
        """Digest of the weights as the manifest states it."""
        self._require_complete()
        return str(self.manifest["weights"]["sha256"])

    def load_supernet(self) -> Supernet:
        """The trained supernet, in evaluation mode.

        Raises:
            CheckpointError: training has not ended, or the weights are absent, altered or do not fit.
        """
        self._require_complete()
        path = self.path / WEIGHTS
        tensors = load_tensors(path)
        found = sha256_file(path)
        if found != self.weights_sha256:
            raise CheckpointError(
                f"{str(path)!r} was altered: its sha256 is {found[:12]}..., the manifest says "
                f"{self.weights_sha256[:12]}...; restore the file, or train again"
            )
        net = Supernet(self.space, generator=torch.Generator())
        load_into(net, tensors, repr(str(path)))
        return net.eval()

    def images(self) -> ImagePack:
        """The run's calibration and held-out images.

        Raises:
            CheckpointError: the file is absent, damaged or altered, or the run was imported without images.
        """
        if self.images_sha256 is None:
            raise CheckpointError(
                f"{str(self.path)!r} was imported without images, so no subnet of it can be calibrated or judged; "
                "import the weights again, with images, into another folder: "
                "onceforall import-ofa WEIGHTS --space NAME --run FOLDER --data folder --data-root IMAGES"
            )
        path = self.path / IMAGES
        pack = ImagePack.load(path, self.normalisation)
        if sha256_file(path) != self.images_sha256:
            raise CheckpointError(f"{str(path)!r} was altered; restore the file, or train again")
        if int(pack.holdout_labels.max()) >= self.space.num_classes:
            raise CheckpointError(
                f"{str(path)!r} has label {int(pack.holdout_labels.max())}; "
                f"the run has {self.space.num_classes} classes"
            )
        return pack

    def _require_complete(self) -> None:
        if not self.complete:
            raise CheckpointError(
                f"the training in {str(self.path)!r} has not ended; "
                f"continue it with: onceforall train --resume {self.path}"
            )


def load_supernet(path: Path | str) -> Supernet:
    """The trained supernet of a run folder, in evaluation mode; see `RunFolder.load_supernet`."""
    return RunFolder(path).load_supernet()
