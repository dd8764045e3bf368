"""A compression of a tiny network that keeps its state in a folder; killed anywhere, it goes on when started again.

Run as: python -m tests.pruning.compression_program FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD

from pruning.admm import AdmmSettings
from pruning.annealing import AnnealingSettings
from pruning.autocompress import Progress, auto_compress
from pruning.compression_settings import CompressionSettings
from pruning.loops import Epoch, OwnLoop

SETTINGS = CompressionSettings(
    search=AnnealingSettings(proposals=16, calibration=4),
    admm=AdmmSettings(rho=0.05, blocks=3),
    admm_epochs=2,
    purify=AnnealingSettings(proposals=8, explored=0.0, calibration=3),
    purify_epochs=2,
    allowed_drop=2.0,
    retrain_epochs=4,
    save_every=3,
)


def network(seed: int = 0) -> nn.Module:
    """A convolution with batch norm, one with a skip around it, dropout, and a classifier."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Tiny().eval()


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Sequential(nn.Conv2d(2, 10, 3, padding=1, bias=False), nn.BatchNorm2d(10), nn.ReLU())
        self.two = nn.Sequential(nn.Conv2d(10, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12), nn.ReLU())
        self.three = nn.Sequential(nn.Conv2d(12, 10, 3, padding=1), nn.BatchNorm2d(10))
        self.dropout = nn.Dropout(0.1)
        self.head = nn.Linear(10 * 9, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.one(x)
        x = torch.relu(x + self.three(self.two(x)))
        return self.head(self.dropout(F.max_pool2d(x, 2).flatten(1)))


def images(number: int, seed: int) -> tuple[Tensor, Tensor]:
    """Four classes that are told by where an image is bright, in noise."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(4, (number,), generator=generator)
    x = torch.randn(number, 2, 6, 6, generator=generator)
    for label in range(4):
        row, column = 3 * (label // 2), 3 * (label % 2)
        x[labels == label, :, row : row + 3, column : column + 3] += 1.2
    return x, labels


TRAINING, HOLDOUT = images(192, 1), images(256, 2)
EXAMPLES = TRAINING[0][:4]


def train(model: nn.Module, epoch: Epoch) -> None:
    optimizer = epoch.optimizer(lambda: SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3))
    order = torch.randperm(len(TRAINING[1]), generator=torch.Generator().manual_seed(epoch.seed))
    for batch in order.split(48):
        loss = F.cross_entropy(model(TRAINING[0][batch]), TRAINING[1][batch]) + epoch.penalty()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        epoch.after_step()


@torch.no_grad()
def accuracy(model: nn.Module) -> float:
    return float((model(HOLDOUT[0]).argmax(1) == HOLDOUT[1]).float().mean())


LOOP = OwnLoop(train, accuracy, calibration=[TRAINING[0][:96]])


def trained(epochs: int = 6) -> nn.Module:
    """The dense model, trained by the same loop."""
    model = network()
    state = None
    for number in range(epochs):
        model.train()
        epoch = Epoch(number, epochs, number, lambda: torch.zeros(()), lambda: None, state)
        with torch.random.fork_rng():
            torch.manual_seed(number)
            train(model, epoch)
        assert epoch.used is not None
        state = epoch.used.state_dict()
    return model.eval()


def main(folder: Path) -> None:
    torch.set_num_threads(1)

    def show(progress: Progress) -> None:
        print(progress.round, progress.phase, progress.done, flush=True)

    result = auto_compress(
        trained(), LOOP, "params=25%", example_inputs=EXAMPLES, settings=SETTINGS, folder=folder, progress=show
    )
    print("ended", len(result.report.rounds), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
