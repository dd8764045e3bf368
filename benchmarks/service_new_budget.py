"""How long does somebody wait for a subnet that nobody asked for before: from the POST to three files on his disk?

Command: python -m benchmarks.service_new_budget --demo demo-output --count 40
Result:  benchmarks/results/service_new_budget.json

The service serves the run and the latency table that `make demo` leaves in its folder, with the settings that users
have. One client asks for one subnet after another: half of the budgets limit MACs, half also latency on this machine,
at random places between the cheapest and the dearest subnet. Reported apart: the first request of a service that has
just started, whose process for jobs imports torch at that time. Another program on the two cores shows in the spread.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.service_crashes import Service
from latency_tables import LatencyTable, macs
from service.client import Client
from supernet.files import write_json
from supernet.runs import RunFolder

RESULT = Path(__file__).parent / "results" / "service_new_budget.json"
DEVICE = "this-cpu"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--demo", type=Path, default=Path("demo-output"))
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    space = RunFolder(arguments.demo / "run").space
    table = LatencyTable.load(arguments.demo / f"{DEVICE}.json")
    extremes = [space.smallest(), space.largest()]
    most_macs = [macs(space.layers(config)) for config in extremes]
    most_ms = [table.estimate_ms(space, config) for config in extremes]
    rng = np.random.default_rng(arguments.seed)
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        service = Service(Path(folder) / "data", {}, small=False)
        service.start()
        with Client(service.url) as client:
            client.register_run(arguments.demo / "run", "digits")
            client.create_device(DEVICE)
            client.upload_table(DEVICE, arguments.demo / f"{DEVICE}.json")
            for number in range(arguments.count + 1):
                share = rng.uniform(0.1, 1.0)
                budget = f"macs<={most_macs[0] + share * (most_macs[1] - most_macs[0]):.0f}"
                if number % 2:
                    share = rng.uniform(0.1, 1.0)
                    budget += f", latency_ms@{DEVICE}<={most_ms[0] + share * (most_ms[1] - most_ms[0]):.4f}"
                started = time.monotonic()
                subnet = client.request_subnet("digits", budget)
                client.download(subnet["id"], Path(folder) / "out")
                seconds.append(time.monotonic() - started)
        service.stop()
    first, rest = seconds[0], np.array(seconds[1:])
    result = {
        "first_s": round(first, 2),
        "count": len(rest),
        "median_s": round(float(np.median(rest)), 2),
        "p90_s": round(float(np.quantile(rest, 0.9)), 2),
        "most_s": round(float(rest.max()), 2),
        "target_median_s": 3.0,
        "machine": {"processor": platform.machine(), "cores": os.cpu_count(), "load": os.getloadavg()},
    }
    write_json(RESULT, result)
    print(result)


if __name__ == "__main__":
    main()
