"""`onceforall profile`: measure every layer of a space on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from service.commands.output import Json, print_json, progress_bar

SUSPICIOUS = 0.25
"""Relative difference between a sum of layers and the whole subnet at which a disturbance is likely; usual is 0.05."""


def profile(
    space: Annotated[str, typer.Argument(help="Search space, or the folder of a trained run (its space and classes).")],
    device: Annotated[str, typer.Option(help="What budgets will call this machine.")] = "this-cpu",
    out: Annotated[Path | None, typer.Option(help="File to write (.json or .yaml).  [default: DEVICE.json]")] = None,
    threads: Annotated[int, typer.Option(help="CPU threads during the measurement.")] = 1,
    batch: Annotated[int, typer.Option(help="Images a forward pass.")] = 1,
    repeats: Annotated[int, typer.Option(help="Timed rounds over all layers.")] = 30,
    warmup: Annotated[int, typer.Option(help="Rounds before them.")] = 3,
    as_json: Json = False,
) -> None:
    """Write this machine's latency table: the median and spread of every layer that a subnet can need."""
    from latency_tables import measure_module_ms, profile_space
    from latency_tables.table import format_of
    from supernet.files import require_writable
    from supernet.network import Subnet
    from supernet.runs import MANIFEST, RunFolder
    from supernet.spaces import get_space

    path = out or Path(f"{device}.json")
    format_of(path)
    require_writable(path)
    is_run = (Path(space) / MANIFEST).is_file()
    chosen = RunFolder(space).space if is_run else get_space(space)
    with progress_bar("timing layers") as progress:
        table = profile_space(
            chosen,
            device=device,
            threads=threads,
            batch=batch,
            repeats=repeats,
            warmup=warmup,
            progress=progress,
        )
    table.save(path)
    configs = {"smallest": chosen.smallest(), "largest": chosen.largest()}
    sums = {name: table.estimate_ms(chosen, config) for name, config in configs.items()}
    wholes = {
        name: measure_module_ms(
            Subnet(chosen, config), (batch, 3, config.resolution, config.resolution), threads=threads
        ).median_ms
        for name, config in configs.items()
    }
    if as_json:
        print_json(
            {
                "file": str(path),
                "device": device,
                "space": chosen.name,
                "rows": len(table.rows),
                "digest": table.digest,
                "estimated_ms": sums,
                "measured_ms": wholes,
            }
        )
        return
    typer.echo(f"{len(table.rows)} layers of {chosen.name} on {device!r}, {threads} thread(s), batch {batch} -> {path}")
    for name, ms in sums.items():
        typer.echo(f"{name} subnet: sum of its layers {ms:.3f} ms, measured whole {wholes[name]:.3f} ms")
    if max(abs(ms / wholes[name] - 1) for name, ms in sums.items()) > SUSPICIOUS:
        typer.echo("these differ much: other programs were busy; profile again on a quiet machine", err=True)
