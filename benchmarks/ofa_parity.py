"""Do imported supernets compute what MIT's package computes in all four spaces, and do its architectures cost the same?

Command: python -m benchmarks.ofa_parity [--published FOLDER]   (minutes on one core; needs the package `ofa`)
Result:  benchmarks/results/ofa_parity.json, printed as a table.

Each space: the reference's supernet with random weights, batch norm statistics and kernel transforms is imported;
random subnets, drawn by the reference's sampler, see the same images at several resolutions. An error is the largest
difference of logits over the largest logit. The reference's own rounding error (its single against its double
precision, on the first subnets) says what a difference may be; those in double precision say what is left without it.
`--published` names a folder of the authors' specialised architectures: folders with net.config and run.config.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latency_tables import macs
from latency_tables.counter import counted_macs
from supernet.files import write_json
from supernet.import_ofa import load_ofa_state_dict, load_ofa_subnet, lower_net_config
from supernet.spaces import get_space
from tests.reference import SPACES, activate_random, config_of, randomise, reference, reference_supernet, smooth_images

RESULT = Path(__file__).parent / "results" / "ofa_parity.json"
RESOLUTIONS = (128, 164, 192, 224)
DOUBLE = 4
"""Subnets that are also compared in double precision."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--subnets", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--published", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    spaces = {name: _space(name, arguments.subnets, arguments.seed) for name in SPACES}
    report = {
        "command": f"python -m benchmarks.ofa_parity --subnets {arguments.subnets} --seed {arguments.seed}",
        "torch": torch.__version__,
        "machine": platform.machine(),
        "threads": 1,
        "resolutions": RESOLUTIONS,
        "spaces": spaces,
        "published": _published(arguments.published) if arguments.published else None,
    }
    write_json(RESULT, report)


@torch.no_grad()
def _space(name: str, subnets: int, seed: int) -> dict[str, Any]:
    started = time.monotonic()
    rng = np.random.default_rng(seed)
    theirs = randomise(reference_supernet(name), seed)
    ours = load_ofa_state_dict(name, theirs.state_dict())
    double, their_double = copy.deepcopy(ours).double(), copy.deepcopy(theirs).double()
    errors: dict[str, list[float]] = {"supernet": [], "extracted": [], "specialised": []}
    errors |= {"double_precision": [], "reference_rounding": []}
    for number in range(subnets):
        settings = activate_random(theirs, rng)
        their_subnet = theirs.get_active_subnet().eval()
        their_double.set_active_subnet(**settings)
        for resolution in RESOLUTIONS:
            config = config_of(get_space(name), settings, resolution)
            images = smooth_images(1, resolution, seed=1000 * seed + number)
            expected = theirs(images)
            ours.activate(config)
            errors["supernet"].append(_error(ours(images), expected))
            errors["extracted"].append(_error(ours.extract(config)(images), expected))
            imported = load_ofa_subnet(their_subnet.config, their_subnet.state_dict(), resolution=resolution)
            errors["specialised"].append(_error(imported(images), their_subnet(images)))
            if number < DOUBLE:
                double.activate(config)
                exact = their_double(images.double())
                errors["double_precision"].append(_error(double(images.double()), exact))
                errors["reference_rounding"].append(_error(expected.double(), exact))
    worst = {kind: max(values) for kind, values in errors.items()}
    median = {kind: float(np.median(values)) for kind, values in errors.items()}
    seconds = round(time.monotonic() - started, 1)
    print(f"{name:<18}", *(f"{kind} {value:.1e} " for kind, value in worst.items()), f"{seconds} s", flush=True)
    return {
        "subnets": subnets,
        "comparisons": len(errors["supernet"]),
        "worst": worst,
        "median": median,
        "seconds": seconds,
    }


def _error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


def _published(folder: Path) -> dict[str, Any]:
    """MACs by formula against those counted on the reference's own module, for every architecture in a folder."""
    networks = reference("imagenet_classification.networks")
    rows = {}
    for path in sorted(folder.glob("*/net.config")):
        net_config = json.loads(path.read_text())
        resolution = json.loads(path.with_name("run.config").read_text())["image_size"]
        theirs = networks.get_net_by_name(net_config["name"]).build_from_config(copy.deepcopy(net_config))
        architecture = lower_net_config(net_config, resolution)
        rows[path.parent.name] = {
            "family": architecture.family,
            "resolution": resolution,
            "space": architecture.config and architecture.config.space,
            "macs": macs(architecture.specs),
            "macs_counted_on_the_reference": counted_macs(theirs, resolution),
        }
        print(f"{path.parent.name:<40}", *rows[path.parent.name].values(), flush=True)
    return rows


if __name__ == "__main__":
    main()
