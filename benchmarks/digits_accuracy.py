"""How accurate are subnets of the default training on handwritten digits, before and after calibration?

Command: python benchmarks/digits_accuracy.py --seeds 0 1 2   (about 2 minutes a seed on one core)
Result:  benchmarks/results/digits_accuracy.json, printed as a table.

Trains with exactly the defaults of `onceforall train`. Recipe and epochs were chosen on the held-out part; only this
report looks at the test part (359 images: the standard error of 98 % is 0.74 points).
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from latency_tables import macs
from supernet.calibration import calibrate
from supernet.evaluation import calibration_batches, count_correct, standard_error
from supernet.files import write_json
from supernet.runs import RunFolder
from supernet.training.data import load_data

RESULT = Path(__file__).parent / "results" / "digits_accuracy.json"
RANDOM_SUBNETS = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    seeds: list[int] = parser.parse_args().seeds
    torch.set_num_threads(1)
    report: dict[str, Any] = {
        "question": __doc__.splitlines()[0],
        "machine": {"processor": platform.processor() or platform.machine(), "threads": 1, "torch": torch.__version__},
        "seeds": {str(seed): measure(seed) for seed in seeds},
    }
    write_json(RESULT, report)
    for seed, found in report["seeds"].items():
        for row in found["subnets"]:
            print(
                f"seed {seed}  {row['subnet']:<9} {row['macs'] / 1e6:6.2f} M MACs   test {100 * row['test']:.2f} % "
                f"(before calibration {100 * row['test_before_calibration']:.2f} %)   "
                f"held-out {100 * row['holdout']:.2f} %"
            )


def measure(seed: int) -> dict[str, Any]:
    """Train with the defaults and one seed, then test the extremes and some random subnets."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run"
        command = [sys.executable, "-m", "service.cli", "train", "--seed", str(seed), "--run", str(path), "--json"]
        trained = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        run, data = RunFolder(path), load_data("digits")
        net, pack, space = run.load_supernet(), run.images(), run.space
        rng = np.random.default_rng(0)
        configs = {"largest": space.largest(), "smallest": space.smallest()}
        configs |= {f"random {number}": space.sample(rng) for number in range(RANDOM_SUBNETS)}
        test = (data.test_images, data.test_labels)
        rows = []
        for name, config in configs.items():
            subnet, fit = net.extract(config), (config.resolution, pack.normalisation)
            before = count_correct(subnet, *test, *fit)
            calibrate(subnet, calibration_batches(pack, config.resolution, torch.device("cpu")))
            after = count_correct(subnet, *test, *fit)
            held_out = count_correct(subnet, pack.holdout_images, pack.holdout_labels, *fit)
            rows.append(
                {
                    "subnet": name,
                    "macs": macs(subnet.specs),
                    "test": after / len(test[1]),
                    "test_standard_error": standard_error(after / len(test[1]), len(test[1])),
                    "test_before_calibration": before / len(test[1]),
                    "holdout": held_out / len(pack.holdout_labels),
                }
            )
        return {"training_seconds": trained["training_seconds"], "subnets": rows}


if __name__ == "__main__":
    main()
