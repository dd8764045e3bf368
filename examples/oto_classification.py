"""Torchvision's classifiers on CIFAR-10 or Fashion-MNIST, dense and pruned while they train.

Run: python -m examples.oto_classification resnet18 --data fashion-mnist --epochs 2
     python -m examples.oto_classification vgg16_bn --data folder --data-root DIR --learning-rate 0.01 --device cuda
Result: examples/results/MODEL_DATA.json

Networks of the paper: vgg16, vgg16_bn, resnet18, resnet50, densenet121, convnext_tiny. The loop is the one of
`onceforall prune oto`; "dense" is the same with a target that nothing has to go for.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torchvision import models

from examples.training import RESULTS, figures_of
from pruning import ZeroInvariantGroups, construct_subnet
from pruning.training import RATES, PruningSettings, predictions, train_and_prune
from supernet.files import write_json
from supernet.training.data import load_data


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--data", default="fashion-mnist")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--images", type=int, help="of the training part; all by default")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--optimizer", default="sgd")
    parser.add_argument("--learning-rate", type=float, help="default: the optimiser's usual one")
    parser.add_argument("--target", default="macs=0.5")
    parser.add_argument("--device", default="cpu", help="cpu, or cuda")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    images: Any = load_data(arguments.data, root=arguments.data_root, size=32)
    if arguments.images:
        chosen = torch.arange(arguments.images) * images.train_count // arguments.images  # folders: class by class
        images = replace(images, train_images=images.train_images[chosen], train_labels=images.train_labels[chosen])
    normalisation, found = images.normalisation(), {}
    for arm, target in (("dense", "macs=1"), ("pruned", arguments.target)):
        torch.manual_seed(0)
        net = models.get_model(arguments.model, weights=None, num_classes=len(images.class_names))
        groups = ZeroInvariantGroups(net, torch.randn(2, 3, 32, 32))
        settings = PruningSettings(
            target=target,
            epochs=arguments.epochs,
            optimizer=arguments.optimizer,
            learning_rate=arguments.learning_rate or RATES[arguments.optimizer],
        )
        optimizer = train_and_prune(
            groups, images, settings, resolution=32, normalisation=normalisation, device=arguments.device
        )
        compact, plan = construct_subnet(net, groups)
        answers, right = predictions(
            compact, images.test_batches(256), resolution=32, normalisation=normalisation, device=arguments.device
        )
        found[arm] = {
            "test_accuracy": float((answers == right).double().mean()),
            **figures_of(plan, optimizer.end_step),
        }
        print(f"{arguments.model} on {arguments.data}, {arm}: {found[arm]}", flush=True)
    settings_of_both = {
        name: getattr(arguments, name) for name in ("epochs", "images", "optimizer", "learning_rate", "target")
    }
    write_json(RESULTS / f"{arguments.model}_{arguments.data}.json", {**settings_of_both, **found})


if __name__ == "__main__":
    main()
