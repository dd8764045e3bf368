"""A training that saves its state after every step; killed in the middle, it goes on when it is started again.

Run as: python -m tests.pruning.training_program FOLDER STEPS
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingLR

from pruning import DHSPG
from tests.pruning.hand_built import ChainGroups, backward, chain


def main(folder: Path, steps: int) -> None:
    torch.set_num_threads(1)
    net = chain()
    base = SGD(net.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
    optimizer = DHSPG(base, ChainGroups.of(net), target="macs=0.5", start_pruning_step=10, pruning_steps=40)
    schedule = CosineAnnealingLR(optimizer, steps)
    file, done = folder / "state.pt", 0
    if file.exists():
        saved = torch.load(file, weights_only=True)
        net.load_state_dict(saved["net"])
        optimizer.load_state_dict(saved["optimizer"])
        schedule.load_state_dict(saved["schedule"])
        done = optimizer.steps
    for step in range(done, steps):
        backward(net, step)
        optimizer.step()
        schedule.step()
        state = {"net": net.state_dict(), "optimizer": optimizer.state_dict(), "schedule": schedule.state_dict()}
        torch.save(state, folder / "next.pt")
        (folder / "next.pt").replace(file)
        print(step + 1, optimizer.phase, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
