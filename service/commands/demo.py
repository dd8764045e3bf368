"""`onceforall demo`: the whole job once, on real images, by the same commands and requests that a user makes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from service.commands.output import millions, percent, print_table
from supernet.errors import ConfigError, OnceForAllError

DEVICE = "this-cpu"
SHARES = {"tight": 0.15, "middle": 0.4, "loose": 0.75}
"""How far each demonstration budget lies between the cheapest and the dearest subnet, for MACs and latency alike."""


def demo(
    out: Annotated[Path, typer.Option(help="New folder for everything that the demo makes.")] = Path("demo-output"),
    epochs: Annotated[int, typer.Option(help="Training epochs in all; fewer is quicker and less accurate.")] = 20,
    count: Annotated[int, typer.Option(help="Subnets to measure for the predictor.")] = 120,
) -> None:
    """Train on handwritten digits, profile this machine, serve, and fetch a subnet for each of three budgets."""
    from latency_tables import LatencyTable, macs
    from service.client import Client
    from supernet.runs import RunFolder

    started = time.monotonic()
    if out.exists() and any(out.iterdir()):
        raise ConfigError(f"{str(out)!r} is not empty; remove it, or choose another folder with --out")
    run, table_path, data_dir = out / "run", out / f"{DEVICE}.json", out / "service"
    _command("train", "--data", "digits", "--run", str(run), "--epochs", str(epochs))
    _command("predictor", str(run), "--count", str(count))
    _command("profile", str(run), "--device", DEVICE, "--out", str(table_path))
    space, table = RunFolder(run).space, LatencyTable.load(table_path)
    extremes = [space.smallest(), space.largest()]
    macs_between = [macs(space.layers(config)) for config in extremes]
    ms_between = [table.estimate_ms(space, config) for config in extremes]
    rows = []
    with _service(data_dir) as url, Client(url) as client:
        typer.echo(f"\n$ POST {url}/api/v1/...")
        supernet = client.register_run(run, "digits")["id"]
        client.create_device(DEVICE)
        client.upload_table(DEVICE, table_path)
        for name, share in SHARES.items():
            most_macs, most_ms = (low + share * (high - low) for low, high in (macs_between, ms_between))
            budget = f"macs<={most_macs / 1e6:.2f}M, latency_ms@{DEVICE}<={most_ms:.2f}"
            clock = time.monotonic()
            subnet = client.request_subnet(supernet, budget)
            seconds = time.monotonic() - clock
            folder = out / "subnets" / name
            client.download(subnet["id"], folder)
            typer.echo(f"  {name}: {budget} -> {folder} in {seconds:.1f} s")
            rows.append(_row(name, budget, subnet["card"], folder))
    print_table(
        "\nA subnet for each budget (the search used the held-out images; the test images are used here first)",
        [
            "budget",
            "predicted",
            "held-out",
            "test",
            "MACs",
            "params",
            "predicted ms",
            "measured ms",
            "file",
        ],
        rows,
    )
    typer.echo(f"done in {time.monotonic() - started:.0f} s. Browse it: {_shown_command()} serve --data-dir {data_dir}")


def _shown_command() -> str:
    """How to type `onceforall` in this shell."""
    return "onceforall" if shutil.which("onceforall") else str(Path(sys.executable).with_name("onceforall"))


def _row(name: str, budget: str, card: dict[str, Any], folder: Path) -> list[str]:
    """One line of the result; what the downloaded files do in a fresh process must be what their card says."""
    from supernet.subnet_file import WEIGHTS

    predicted, measured = card["predicted"], card["measured"]
    found = json.loads(_command("evaluate", str(folder), "--part", "holdout", "--part", "test", "--json", quiet=True))
    counted = {"correct": found["parts"]["holdout"]["correct"], "macs": found["macs"], "params": found["params"]}
    for figure, value in counted.items():
        if value != measured[figure]:
            raise OnceForAllError(
                f"{name}: the downloaded subnet has {figure} {value}, its card says {measured[figure]}"
            )
    return [
        f"{name}: " + budget.replace(", ", "\n"),
        percent(predicted["accuracy"]),
        percent(measured["accuracy"]),
        percent(found["parts"]["test"]["accuracy"]),
        millions(found["macs"]),
        millions(found["params"]),
        f"{predicted['latency_ms'][DEVICE]:.2f}",
        f"{measured['latency_ms'][DEVICE]:.2f}",
        str(folder / WEIGHTS),
    ]


def _command(*arguments: str, quiet: bool = False) -> str:
    """Run one `onceforall` command as a user would; its output is shown unless `quiet`."""
    if not quiet:
        typer.echo(f"\n$ onceforall {' '.join(arguments)}")
    done = subprocess.run(
        [sys.executable, "-m", "service.cli", *arguments],
        stdout=subprocess.PIPE if quiet else None,
        text=True,
        check=False,
    )
    if done.returncode:
        raise OnceForAllError(f"the demo stopped: onceforall {arguments[0]} ended with status {done.returncode}")
    return done.stdout or ""


@contextmanager
def _service(data_dir: Path) -> Iterator[str]:
    """A service on a free port in a process of its own; yields its URL."""
    arguments = ["serve", "--data-dir", str(data_dir), "--port", "0"]
    typer.echo(f"\n$ onceforall {' '.join(arguments)}")
    command = [sys.executable, "-m", "service.cli", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line.startswith("serving at "):
                raise OnceForAllError("the demo stopped: the service did not start; try: onceforall serve")
            yield line.split()[2].rstrip(",")
        finally:
            process.terminate()
            process.wait(timeout=30)
