"""The network that a pruning run starts from, and its images, opened."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from service import pruning_data
from service.networks import open_architecture, open_subnet
from service.prune_recipes import Workpiece
from service.pruning_spec import Architecture, Inputs, PruningSpec, StoredSubnet
from supernet.arch import SubnetConfig
from supernet.errors import ConfigError
from supernet.evaluation import measure_subnet
from supernet.images import Normalisation, batches, prepare
from supernet.network import Subnet
from supernet.runs import RunFolder


def open_network(spec: PruningSpec, inputs: Inputs) -> tuple[nn.Module, int, Normalisation | None, dict[str, Any]]:
    """The network that a run prunes.

    Returns:
        The network in evaluation mode, the side of its input, its normalisation (None: that of the data), and what a
        card says of it.

    Raises:
        ConfigError: an unknown architecture, or no subnet of the supernet.
        CheckpointError: files are damaged or do not fit.
    """
    source = spec.source
    if isinstance(source, Architecture):
        net = open_architecture(source.architecture, source.num_classes, weights=inputs.weights, seed=spec.seed).eval()
        return net, source.resolution, None, dict(vars(source))
    if isinstance(source, StoredSubnet):
        assert inputs.subnet is not None
        net, normalisation = open_subnet(inputs.subnet, None)
    else:
        assert inputs.run is not None
        run = RunFolder(inputs.run)
        config = SubnetConfig.from_dict(source.config)
        net = measure_subnet(run.load_supernet(), config, run.images(), before_calibration=False).subnet
        normalisation = run.normalisation
    if not isinstance(net, Subnet):
        raise ConfigError("the subnet is of no search space; prune it with: onceforall prune")
    return net, net.resolution, normalisation, dict(vars(source)) | {"config": net.config.to_dict()}


def open_piece(spec: PruningSpec, inputs: Inputs, data_sets: Path | None) -> tuple[Workpiece, dict[str, Any]]:
    """The network with its images, and what a card says of it.

    Raises:
        ConfigError: as `open_network`; or the data set is not available, or has other classes than the network.
        CheckpointError, DataError: files are damaged or absent.
    """
    net, resolution, normalisation, described = open_network(spec, inputs)
    if spec.data != pruning_data.RUN_IMAGES:
        images = pruning_data.load(spec.data, data_sets, resolution)
        piece = Workpiece(spec.source_name, net, images, resolution, normalisation or images.normalisation())
    else:
        assert inputs.run is not None
        assert normalisation is not None
        run = RunFolder(inputs.run)
        pack = run.images()
        with torch.inference_mode():
            answers = [
                net(prepare(some, resolution, normalisation)).argmax(1)
                for some in batches(pack.calibration_images, 256)
            ]
        images = pruning_data.of_run(pack, torch.cat(answers), run.class_names)
        piece = Workpiece(spec.source_name, net, images, resolution, normalisation)
    with torch.inference_mode():
        classes = net(piece.example).shape[1]
    if classes != len(piece.images.class_names):
        raise ConfigError(
            f"the network has {classes} outputs, the data set {spec.data!r} {len(piece.images.class_names)} classes;"
            " choose the data that it was trained on, or another number of classes"
        )
    if spec.data not in (pruning_data.RUN_IMAGES, piece.images.name):  # a folder has a name of its own here
        piece = replace(piece, images=replace(piece.images, name=spec.data))
    return piece, described
