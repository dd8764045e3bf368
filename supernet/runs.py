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

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from supernet.errors import CheckpointError, ConfigError
from supernet.files import sha256_file
from supernet.images import CENTRE_SHARE, ImagePack, Normalisation, checked_share
from supernet.manifest import FORMAT, MANIFEST, PREDICTOR, read_manifest, trained_space, trained_weights
from supernet.network import Network, Supernet
from supernet.spaces import SearchSpace
from supernet.subnet_file import save_subnet
from supernet.tensors import load_into, load_tensors

__all__ = ["FORMAT", "IMAGES", "MANIFEST", "WEIGHTS", "RunFolder", "load_supernet"]

WEIGHTS, IMAGES = "supernet.safetensors", "images.safetensors"


class RunFolder:
    """A training run on disk, opened for reading.

    Args:
        path: the folder.

    Raises:
        CheckpointError: no manifest, or not one that this version reads.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.manifest: dict[str, Any] = read_manifest(self.path)
        self.space: SearchSpace = trained_space(self.path, self.manifest)
        try:
            data = self.manifest["data"]
            self.normalisation = Normalisation(tuple(data["mean"]), tuple(data["std"]))
            streamed = (data.get("source") or {}).get("stream", False)
            usual = CENTRE_SHARE if streamed else 1.0  # of runs from before it was written down
            self.centre_share = checked_share(data.get("centre_share", usual))
            self.class_names: list[str] = list(self.manifest["class_names"])
            images = self.manifest["images"]
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
        return self.path / PREDICTOR

    @cached_property
    def weights_sha256(self) -> str:
        """Digest of the weights as the manifest states it."""
        return trained_weights(self.path, self.manifest)

    def load_supernet(self) -> Supernet:
        """The trained supernet, in evaluation mode.

        Raises:
            CheckpointError: training has not ended, or the weights are absent, altered or do not fit.
        """
        path, expected = self.path / WEIGHTS, self.weights_sha256
        tensors = load_tensors(path)
        found = sha256_file(path)
        if found != expected:
            raise CheckpointError(
                f"{str(path)!r} was altered: its sha256 is {found[:12]}..., the manifest says "
                f"{expected[:12]}...; restore the file, or train again"
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

    def save_subnet(self, folder: Path, subnet: Network, card: Mapping[str, Any]) -> None:
        """Write a calibrated subnet of this run's supernet, as `supernet.subnet_file.save_subnet` does.

        Args:
            folder: where to; made where it is absent.
            subnet: the subnet.
            card: what is known about it, as JSON types.
        """
        save_subnet(
            folder,
            subnet,
            card,
            normalisation=self.normalisation,
            class_names=self.class_names,
            centre_share=self.centre_share,
        )


def load_supernet(path: Path | str) -> Supernet:
    """The trained supernet of a run folder, in evaluation mode; see `RunFolder.load_supernet`."""
    return RunFolder(path).load_supernet()
