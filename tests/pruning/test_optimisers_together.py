"""Trainings in processes of their own: one that is killed, and two that train together."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import SGD

from pruning import DHSPG, HESSO
from pruning.units import zeroed_units
from tests.pruning.hand_built import ChainGroups, batch, chain

STEPS = 80


def program(folder: Path) -> subprocess.Popen[str]:
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "tests.pruning.training_program", str(folder), str(STEPS)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_training_killed_in_mid_pruning_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    whole = program(tmp_path / "whole")
    killed = program(tmp_path / "killed")
    assert killed.stdout is not None
    for line in killed.stdout:
        if line.split()[1] == "during" and int(line.split()[0]) >= 25:
            killed.send_signal(signal.SIGKILL)
            break
    killed.communicate(timeout=120)
    assert killed.returncode == -signal.SIGKILL
    reached = torch.load(tmp_path / "killed" / "state.pt", weights_only=True)["optimizer"]["pruning"]["steps"]
    assert 25 <= reached < 50
    assert whole.communicate(timeout=200)[0].splitlines()[-1] == f"{STEPS} after"
    again = program(tmp_path / "killed")
    lines = again.communicate(timeout=200)[0].splitlines()
    assert lines[0] == f"{reached + 1} during"
    assert lines[-1] == f"{STEPS} after"
    nets = [torch.load(tmp_path / name / "state.pt", weights_only=True)["net"] for name in ("whole", "killed")]
    assert all(torch.equal(tensor, nets[1][name]) for name, tensor in nets[0].items())


def together(rank: int, folder: str) -> None:
    """Train on this process's half of every batch, and save what came out."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    found = {}
    for method in (DHSPG, HESSO):
        net = chain()
        groups = ChainGroups.of(net)
        wrapped = DistributedDataParallel(net)
        base = SGD(wrapped.parameters(), lr=0.05, momentum=0.9)
        optimizer = method(base, groups, target="macs=0.5", start_pruning_step=4, pruning_steps=12)
        for step in range(18):
            images, labels = batch(step)
            optimizer.zero_grad()
            nn.functional.cross_entropy(wrapped(images[rank::2]), labels[rank::2]).backward()
            optimizer.step()
        weights = {name: tensor.detach().clone() for name, tensor in net.named_parameters()}
        found[method.__name__] = {"weights": weights, "redundant": optimizer.redundant}
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_processes_that_train_together_choose_the_same_units_and_stay_alike(tmp_path: Path) -> None:
    spawn(together, (str(tmp_path),), nprocs=2)
    ours, theirs = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    sets = ChainGroups.of(chain()).sets
    for method in ("DHSPG", "HESSO"):
        weights: dict[str, Tensor] = ours[method]["weights"]
        assert all(torch.equal(tensor, theirs[method]["weights"][name]) for name, tensor in weights.items())
        zero = zeroed_units(weights, sets)
        assert all(map(torch.equal, zero, ours[method]["redundant"]))
        assert sum(int(mask.sum()) for mask in zero) > 0
